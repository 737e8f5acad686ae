"""Exported models in a process of their own, with TensorFlow and without our code."""

import subprocess
import sys

import numpy as np

LOADER = """
import importlib.abc, sys

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"ixi_tfds", "beam_preprocess", "trainer", "evaluator"}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Guard())
import numpy as np
import tensorflow as tf

given = dict(np.load(sys.argv[2]))
model = tf.saved_model.load(sys.argv[1])
unit = {"slices": tf.constant(given.pop("unit"))}
outputs = {f"serving_{k}": v for k, v in model.signatures["serving_default"](**unit).items()}
given = {name: tf.constant(value) for name, value in given.items()}
other = "volume" if "volume" in model.signatures else "raw"
outputs |= {f"{other}_{k}": v for k, v in model.signatures[other](**given).items()}
np.savez(sys.argv[3], **outputs)
"""


def run_elsewhere(folder, tmp_path, *, python=sys.executable, **given):
    """What both signatures give, by `serving_<output>` and `raw_<output>` or `volume_<output>`.

    Args:
      folder: of the SavedModel.
      tmp_path: for what goes to the process and comes back.
      python: the interpreter, whose TensorFlow is used.
      **given: `unit`, the slices for `serving_default`; all others are arguments of `raw`,
        or of `volume` where a model has that.
    """
    np.savez(tmp_path / "given.npz", **given)
    paths = [folder, tmp_path / "given.npz", tmp_path / "out.npz"]
    command = [python, "-P", "-c", LOADER, *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(np.load(tmp_path / "out.npz"))
