"""Makes the bytes of a SavedModel independent of what the process did before."""

import pathlib
import re

from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

_FUNCTION = re.compile(
    r'"(__(?:inference|forward|backward)_\w+?|\w*while_(?:body|cond))_(\d+)(___\w+)?"'
)
_CAPTURED = re.compile(r'(key: "_user_specified_name"\s+value \{\s+s: )"\d+"')


def make_canonical(folder: pathlib.Path) -> None:
    """Rewrite `saved_model.pb` in `folder`, so that the same model always has the same bytes.

    TensorFlow numbers functions and captured variables by a counter of the process, and sorts the
    functions by these names. Here their numbers become ranks. `fingerprint.pb`, a hash of the
    former bytes, is deleted; older TensorFlow versions do not write it, so no reader needs it.
    """
    path = folder / "saved_model.pb"
    text = text_format.MessageToString(saved_model_pb2.SavedModel.FromString(path.read_bytes()))
    numbers = sorted({int(found[2]) for found in _FUNCTION.finditer(text)})
    rank = {number: place for place, number in enumerate(numbers)}
    text = _FUNCTION.sub(lambda found: f'"{found[1]}_{rank[int(found[2])]}{found[3] or ""}"', text)
    text = _CAPTURED.sub(r'\1"captured"', text)
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    for graph in model.meta_graphs:
        functions = graph.graph_def.library.function
        functions.sort(key=lambda function: function.signature.name)
    path.write_bytes(model.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
