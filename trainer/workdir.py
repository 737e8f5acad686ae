"""The working folder of a run: its flags, and its state.

`config.json` holds the flags of the run. `state.json` is written last and by renaming, and names
the checkpoints that count; what was half written before it has no effect. So a run can be killed at
any moment and resumed.
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

from ixi_tfds import storage
from ixi_tfds.errors import UserError
from ixi_tfds.system import flags
from ixi_tfds.system.files import write_text
from trainer.config import TrainConfig

_FREE_TO_CHANGE = {
    "data_dir",
    "workdir",
    "epochs",
    "replicas",
    "jit_compile",
    "profile_steps",
    "verify",
}
"""Flags in which the runs of one working folder may differ: where and how, not what."""

FACTOR = math.sqrt(0.1)
PATIENCE = 2
LEAST_RATE = 0.5e-6

_ANEW = "bring the file back, or begin anew with another --workdir"


def open_workdir(config: TrainConfig, fingerprint: str, *, write: bool = True) -> None:
    """Make the working folder of a run, or see that it is that of the same run.

    The same run may have other folders and devices and more epochs; all other flags must be as
    before. With --schedule=cosine the number of epochs must be, too.

    Args:
      config: of the run.
      fingerprint: of the dataset.
      write: whether to write the flags there; of several workers only the chief does.

    Raises:
      UserError: the folder belongs to another run, or cannot be made.
    """
    free = _FREE_TO_CHANGE - ({"epochs"} if config.schedule == "cosine" else set())
    asked = {**flags.as_flags(config), "dataset_fingerprint": fingerprint}
    there = check_same_run(storage.at(config.workdir), "workdir", asked, free)
    if there.get("epochs", 0) > config.epochs:
        raise UserError(
            f"--workdir={config.workdir}: its run has --epochs={there['epochs']}; give as many or "
            "more"
        )
    if write:
        write_config(storage.at(config.workdir), asked)


def check_same_run(
    folder: pathlib.Path, flag: str, asked: dict[str, Any], free: Set[str]
) -> dict[str, Any]:
    """The flags that a folder's `config.json` holds, `asked` where there is none; makes the folder.

    Args:
      folder: where a run keeps what it makes.
      flag: the name of the flag that gave the folder.
      asked: the flags of this run, and the fingerprint of its dataset as `dataset_fingerprint`.
      free: names in `asked` that may differ from one start to the next.

    Raises:
      UserError: the folder belongs to a run with other flags, or cannot be made.
    """
    path = folder / "config.json"
    # As it is read from a file, where tuples are lists.
    asked = json.loads(json.dumps(asked))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.exists() else asked
        if not isinstance(there, dict):
            raise ValueError(f"{path} is not that of a run")
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}={folder}: {error}") from error
    differing = [
        "--dataset (other contents)" if name == "dataset_fingerprint" else f"--{name}={there[name]}"
        for name in asked
        if name not in free and name in there and there[name] != asked[name]
    ]
    if differing:
        raise UserError(
            f"--{flag}={folder}: belongs to a run with {', '.join(differing)}; give the same "
            f"flags to go on with it, or another --{flag}"
        )
    return there


def write_config(folder: pathlib.Path, asked: dict[str, Any]) -> None:
    """Write the flags of a run to its folder's `config.json`."""
    write_text(folder / "config.json", json.dumps(asked, indent=2) + "\n")


@dataclasses.dataclass
class RunState:
    """What an epoch leaves behind besides the weights.

    Attributes:
      learning_rate: of the next epoch.
      history: one row an epoch: its number from 1, its learning rate, losses and metrics.
      best_epoch: epoch of the lowest monitored loss, 0 before the first.
      best_loss: that loss.
      wait: epochs without a new best since the last one or since the rate was last reduced.
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
    """Enter a finished epoch and set the learning rate of the next.

    "plateau" is the rule of Keras's `ReduceLROnPlateau` with factor sqrt(0.1), patience 2, no
    cooldown and a minimum of 0.5e-6, as the thesis set it. Any lower loss counts as better: Keras's
    default of at least 1e-4 lower is a quarter of the mean squared errors seen here. "cosine" falls
    along half a period to (almost) 0 after the last epoch. "constant" stays.

    Args:
      state: changed in place.
      metrics: losses and metrics of the epoch, `config.monitored` among them.
      config: of the run.
    """
    epoch = state.epochs_done + 1
    state.history.append({"epoch": epoch, "learning_rate": state.learning_rate, **metrics})
    loss = metrics[config.monitored]
    if loss < state.best_loss:
        state.best_epoch, state.best_loss, state.wait = epoch, loss, 0
    else:
        state.wait += 1
    falls = state.wait >= PATIENCE and state.learning_rate > LEAST_RATE
    if config.schedule == "cosine":
        share = (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        state.learning_rate = max(state.history[0]["learning_rate"] * share, LEAST_RATE)
    elif config.schedule == "plateau" and falls:
        state.learning_rate = max(state.learning_rate * FACTOR, LEAST_RATE)
        state.wait = 0


def checkpoint_path(workdir: pathlib.Path, epoch: int) -> pathlib.Path:
    """Prefix of the files of the checkpoint written after `epoch`."""
    return workdir / "checkpoints" / f"epoch-{epoch:05d}"


def read_state(workdir: pathlib.Path, learning_rate: float) -> RunState:
    """The run's state; a fresh one, with this learning rate, where no epoch is finished.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / "state.json"
    if not path.exists():
        return RunState(learning_rate)
    try:
        state = RunState(**json.loads(path.read_text()))
        if not (1 <= state.best_epoch <= state.epochs_done):
            raise ValueError("its epochs do not fit together")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is not the state of a run ({error}); {_ANEW}") from error
    return state


@contextlib.contextmanager
def user_error_if_damaged(path: pathlib.Path) -> Iterator[None]:
    """Turn what TensorFlow raises over a checkpoint into one sentence.

    Args:
      path: prefix of its files.

    Raises:
      UserError: a file is missing or damaged.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
        raise UserError(f"{path}: this checkpoint is missing or damaged; {_ANEW}") from error


def write_state(workdir: pathlib.Path, state: RunState) -> None:
    """Commit the state, then write `history.csv` from it and remove checkpoints it has no use for.

    The checkpoints of the last and of the best epoch must be there.
    """
    write_text(workdir / "state.json", json.dumps(dataclasses.asdict(state)) + "\n")
    write_history(workdir, state)
    kept = {checkpoint_path(workdir, epoch).name for epoch in (state.epochs_done, state.best_epoch)}
    for path in (workdir / "checkpoints").iterdir():
        if path.is_dir():
            # Left by a write that was killed.
            storage.remove_tree(path)
        elif path.name.split(".")[0] not in kept:
            path.unlink()


def write_history(workdir: pathlib.Path, state: RunState) -> None:
    """Write `history.csv`: a row an epoch."""
    text = io.StringIO()
    if state.history:
        writer = csv.DictWriter(text, list(state.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(state.history)
    write_text(workdir / "history.csv", text.getvalue())
