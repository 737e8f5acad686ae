"""The working folder of a run: its flags and its state.

`config.json` holds the flags. `state.json` names the valid checkpoints. It is written last, by
renaming, so files that a killed run left unfinished have no effect, and the run can be resumed.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Iterator, Set
from typing import Any

from ixi_tfds.system import flags, storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.files import write_text
from trainer.config import TrainConfig

_FREE_TO_CHANGE = {
    "data_dir",
    "workdir",
    "epochs",
    "replicas",
    "jit_compile",
    "export_half",
    "profile_steps",
    "verify",
}
"""Flags that may change when a run is resumed: where and how it runs, and for how long."""

FACTOR = math.sqrt(0.1)
PATIENCE = 2
LEAST_RATE = 0.5e-6

_ANEW = "restore the file, or start again with another --workdir"


def open_workdir(config: TrainConfig, fingerprint: str, *, write: bool = True) -> None:
    """Make the working folder of a run, or check that it belongs to the same run.

    A resumed run may change folders and devices, and have more epochs. All other flags must be as
    before; if the learning rate falls by a cosine also the number of epochs.

    `fingerprint` is the digest of the dataset. Only the chief of several workers has `write` set,
    and writes the flags.

    Raises:
      UserError: the folder belongs to another run, or cannot be made.
    """
    free = _FREE_TO_CHANGE - ({"epochs"} if config.falls_by_cosine else set())
    asked = {**flags.as_flags(config), "dataset_fingerprint": fingerprint}
    folder = storage.at(config.workdir)
    epochs = check_same_run(folder, "workdir", asked, free, flags.defaults(TrainConfig)).get(
        "epochs", 0
    )
    if epochs > config.epochs:
        raise UserError(
            f"--workdir={config.workdir}: its run has --epochs={epochs}; give {epochs} or more"
        )
    if write:
        write_config(folder, asked)


def check_same_run(
    folder: pathlib.Path,
    flag: str,
    asked: dict[str, Any],
    free: Set[str],
    defaults: dict[str, Any],
) -> dict[str, Any]:
    """The flags in a folder's `config.json`, or `asked` if there is none; makes the folder.

    Args:
      folder: folder of the run.
      flag: name of the flag that gave the folder.
      asked: flags of this run, and the digest of its dataset as `dataset_fingerprint`.
      free: names in `asked` that may change when a run is resumed.
      defaults: values of flags that the file may lack, because it is older than they are.

    Raises:
      UserError: the folder belongs to a run with other flags, or cannot be made.
    """
    path = folder / "config.json"
    # JSON turns tuples into lists.
    asked, defaults = json.loads(json.dumps([asked, defaults]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.exists() else asked
        if not isinstance(there, dict):
            raise ValueError(f"{path} is not the config of a run")
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}={folder}: {error}") from error
    there = defaults | there
    differing = [
        "--dataset (other contents)" if name == "dataset_fingerprint" else f"--{name}={there[name]}"
        for name in asked
        if name not in free and name in there and there[name] != asked[name]
    ]
    if differing:
        raise UserError(
            f"--{flag}={folder}: belongs to a run with {', '.join(differing)}; give the same "
            f"flags to resume it, or another --{flag}"
        )
    return there


def write_config(folder: pathlib.Path, asked: dict[str, Any]) -> None:
    """Write the flags of a run to its folder's `config.json`."""
    write_text(folder / "config.json", json.dumps(asked, indent=2) + "\n")


@dataclasses.dataclass
class RunState:
    """The state of a run after an epoch, besides its weights.

    Attributes:
      learning_rate: learning rate of the next epoch.
      history: a row for each epoch: its number from 1, learning rate, losses and metrics.
      best_epoch: epoch of the lowest monitored loss; 0 before the first.
      best_loss: lowest monitored loss.
      wait: epochs since the last best epoch, or since the last reduction of the learning rate.
    """

    learning_rate: float
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    wait: int = 0

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


def add_epoch(state: RunState, metrics: dict[str, float], config: TrainConfig) -> None:
    """Add a finished epoch to the state, and set the learning rate of the next.

    "plateau" is the rule of Keras's `ReduceLROnPlateau` with the settings of the thesis: factor
    sqrt(0.1), patience 2, no cooldown, a minimum of 0.5e-6. But every lower loss counts as better:
    Keras's default difference of 1e-4 is a quarter of the typical mean squared error here. "cosine"
    and "cosine_steps" fall along half a period to almost 0 after the last epoch, the second within
    epochs, too (`callbacks.StepRates`). "constant" does not change.

    `state` is changed in place. `metrics` must contain `config.monitored`.
    """
    epoch = state.epochs_done + 1
    state.history.append({"epoch": epoch, "learning_rate": state.learning_rate, **metrics})
    loss = metrics[config.monitored]
    if loss < state.best_loss:
        state.best_epoch, state.best_loss, state.wait = epoch, loss, 0
    else:
        state.wait += 1
    falls = state.wait >= PATIENCE and state.learning_rate > LEAST_RATE
    if config.falls_by_cosine:
        state.learning_rate = cosine_rate(state, epoch, config)
    elif config.schedule == "plateau" and falls:
        state.learning_rate = max(state.learning_rate * FACTOR, LEAST_RATE)
        state.wait = 0


def cosine_rate(state: RunState, epochs: float, config: TrainConfig) -> float:
    """The learning rate after so many epochs, along half a cosine over all of them."""
    first = state.history[0]["learning_rate"] if state.history else state.learning_rate
    return max(first * (1 + math.cos(math.pi * epochs / config.epochs)) / 2, LEAST_RATE)


def checkpoint_path(workdir: pathlib.Path, epoch: int) -> pathlib.Path:
    """Prefix of the files of the checkpoint after `epoch`."""
    return workdir / "checkpoints" / f"epoch-{epoch:05d}"


def read_state(workdir: pathlib.Path, learning_rate: float) -> RunState:
    """The state of a run; a new one with this learning rate if no epoch is finished.

    Raises:
      UserError: `state.json` is damaged.
    """
    path = workdir / "state.json"
    if not path.exists():
        return RunState(learning_rate)
    try:
        state = RunState(**json.loads(path.read_text()))
        if not (1 <= state.best_epoch <= state.epochs_done):
            raise ValueError("its best epoch is not one of its epochs")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is not the state of a run ({error}); {_ANEW}") from error
    return state


def check_whole(path: pathlib.Path, network: Any) -> None:
    """Raise a `RuntimeError` if a checkpoint lacks a variable of its `network`.

    TensorFlow leaves out, and does not miss, what an attribute of a layer holds in a way that it
    does not follow, as it is with lists of layers in Keras 3.
    """
    import tensorflow as tf

    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    with storage.without_wildcards(path.parent) as folder:
        names = [name for name, _ in tf.train.list_variables(str(folder / path.name))]
    saved = [name for name in names if name.startswith("network/") and name.endswith(ending)]
    # What the optimizer keeps for a variable is under the optimizer.
    if len(saved) != len(network.variables):
        raise RuntimeError(
            f"{path}: has {len(saved)} of the network's {len(network.variables)} variables"
        )


@contextlib.contextmanager
def restoring(path: pathlib.Path) -> Iterator[str]:
    """Yield the path by which TensorFlow can read the checkpoint `path`.

    Raises:
      UserError: TensorFlow finds the checkpoint missing or damaged.
    """
    import tensorflow as tf

    try:
        with storage.without_wildcards(path.parent) as folder:
            yield str(folder / path.name)
    except (FileNotFoundError, tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
        raise UserError(f"{path}: this checkpoint is missing or damaged; {_ANEW}") from error


def write_state(workdir: pathlib.Path, state: RunState) -> None:
    """Write `state.json` and `history.csv`, and delete checkpoints except the last and the best.

    These two checkpoints must exist already.
    """
    write_text(workdir / "state.json", json.dumps(dataclasses.asdict(state)) + "\n")
    write_history(workdir, state)
    kept = {checkpoint_path(workdir, epoch).name for epoch in (state.epochs_done, state.best_epoch)}
    for path in (workdir / "checkpoints").glob("epoch-*"):
        if path.is_dir():
            # A killed write has left it.
            storage.remove_tree(path)
        elif path.name.split(".")[0] not in kept:
            path.unlink()


def write_history(workdir: pathlib.Path, state: RunState) -> None:
    """Write `history.csv`, with a row for each epoch."""
    text = io.StringIO()
    if state.history:
        writer = csv.DictWriter(text, list(state.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
    write_text(workdir / "history.csv", text.getvalue())
