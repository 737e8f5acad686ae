"""A SavedModel whose bytes do not tell what the process had done before."""

import pathlib
import re

from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

_FUNCTION = re.compile(r'"(__(?:inference|forward|backward)_\w+?)_(\d+)"')
_CAPTURED = re.compile(r'(key: "_user_specified_name"\s+value \{\s+s: )"\d+"')


def make_canonical(folder: pathlib.Path) -> None:
    """Rewrite a SavedModel that TensorFlow has saved, so that the same model has the same bytes.

    TensorFlow numbers functions and captured variables by a counter of the process and orders the
    functions by those names. Here they are numbered by their rank. `fingerprint.pb`, which holds a
    hash of the bytes as they were, goes; it is optional, for older TensorFlows wrote none.

    Args:
      folder: with `saved_model.pb`.
    """
    path = folder / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(path.read_bytes()))
    numbers = sorted({int(found[2]) for found in _FUNCTION.finditer(text)})
    rank = {number: place for place, number in enumerate(numbers)}
    text = _FUNCTION.sub(lambda found: f'"{found[1]}_{rank[int(found[2])]}"', text)
    text = _CAPTURED.sub(r'\1"captured"', text)
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    for graph in model.meta_graphs:
        functions = graph.graph_def.library.function
        functions.sort(key=lambda function: function.signature.name)
    path.write_bytes(model.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
