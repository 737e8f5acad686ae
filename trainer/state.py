"""Where a run stands, in one small file, so that it can be killed at any moment and go on.

`state.json` is written last and by renaming: it names the checkpoints that count, so whatever was
half written before it is as if it had never been.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Iterator

from ixi_tfds import storage
from ixi_tfds.errors import UserError
from trainer.config import write_atomically

FACTOR = math.sqrt(0.1)
PATIENCE = 2
LEAST_RATE = 0.5e-6

_ANEW = "bring the file back, or begin anew with another --workdir"


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


def add_epoch(
    state: RunState,
    metrics: dict[str, float],
    monitored: str,
    *,
    schedule: str = "plateau",
    epochs: int = 0,
) -> None:
    """Enter a finished epoch and set the learning rate of the next.

    "plateau" is the rule of Keras's `ReduceLROnPlateau` with factor sqrt(0.1), patience 2, no
    cooldown and a minimum of 0.5e-6, as the thesis set it. Any lower loss counts as better: Keras's
    default of at least 1e-4 lower is a quarter of the mean squared errors seen here. "cosine" falls
    along half a period to (almost) 0 after the last epoch. "constant" stays.

    Args:
      state: changed in place.
      metrics: losses and metrics of the epoch.
      monitored: name of the loss in `metrics` that decides.
      schedule: one of `config.SCHEDULES`.
      epochs: of the whole run; only "cosine" asks for it.
    """
    epoch = state.epochs_done + 1
    state.history.append({"epoch": epoch, "learning_rate": state.learning_rate, **metrics})
    if metrics[monitored] < state.best_loss:
        state.best_epoch, state.best_loss, state.wait = epoch, metrics[monitored], 0
    else:
        state.wait += 1
    if schedule == "cosine":
        share = (1 + math.cos(math.pi * epoch / epochs)) / 2
        state.learning_rate = max(state.history[0]["learning_rate"] * share, LEAST_RATE)
    elif schedule == "plateau" and state.wait >= PATIENCE and state.learning_rate > LEAST_RATE:
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
def telling_damage(path: pathlib.Path) -> Iterator[None]:
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
    write_atomically(workdir / "state.json", json.dumps(dataclasses.asdict(state)) + "\n")
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
    write_atomically(workdir / "history.csv", text.getvalue())
