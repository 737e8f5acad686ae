"""Commands of ours in the other lane's Python, which is in an environment beside this one's."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from ixi_tfds import lanes

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PYTHONS = {"classic": ("3.11",), "current": ("3.13", "3.12")}


def other_python() -> str | None:
    """The Python of the other lane, the newest that is there; None where there is none."""
    (other,) = set(lanes.NAMES) - {lanes.NAME}
    beside = pathlib.Path(sys.prefix).parent
    pythons = [beside / f".venv-{version}/bin/python" for version in _PYTHONS[other]]
    return next((str(python) for python in pythons if python.exists()), None)


def start(
    python: str,
    plan: pathlib.Path,
    commands: list[tuple[str, list[str], str]],
    **outputs: str | list[str],
) -> subprocess.Popen:
    """Start a process that runs commands, one after the other; for `finish`.

    Args:
      python: of the lane.
      plan: a file for what there is to do.
      commands: module, flags and the file for what is printed.
      **outputs: of `save_outputs`, to be called after them.
    """
    plan.write_text(json.dumps([commands, outputs]))
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    return subprocess.Popen(
        [python, __file__, str(plan)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen, seconds: float = 900) -> None:
    """Wait until all have ended well; what does not end in time is killed."""
    try:
        for process in processes:
            _, said = process.communicate(timeout=seconds)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()


def slices(size: tuple[int, int]) -> np.ndarray:
    """Some slices in [0, 1], float32 [8, H, W]."""
    return np.random.default_rng(0).random((8, *size), np.float32)


def save_outputs(models: list[str], into: str) -> None:
    """What both signatures of SavedModels give for `slices`, as `into`/<number of the model>.npz.

    In scanner units slices are from 0 to 900.
    """
    import tensorflow as tf

    for number, folder in enumerate(models):
        model = tf.saved_model.load(folder)
        takes = model.signatures["raw"].structured_input_signature[1]["slices"].shape
        given = slices(takes[1:])
        unit = model.signatures["serving_default"](slices=tf.constant(given[..., None]))
        scanner = model.signatures["raw"](slices=tf.constant(np.round(900 * given)))
        np.savez(
            pathlib.Path(into, f"{number}.npz"),
            unit=unit["reconstruction"],
            **{name: value / 900 for name, value in scanner.items()},
        )


def main() -> None:
    """Run what `start` was given."""
    import forked

    commands, outputs = json.loads(pathlib.Path(sys.argv[1]).read_text())
    for module, argv, log in commands:
        process = forked.start(argv, pathlib.Path(log), module=module)
        if forked.finish(process) != [0]:
            sys.exit(f"{module} {' '.join(argv)}\n{pathlib.Path(log).read_text()}")
    if outputs:
        save_outputs(**outputs)


if __name__ == "__main__":
    main()
