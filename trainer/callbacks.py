"""Keras callbacks: state and checkpoints after each epoch, progress, TensorBoard, profiling."""

import collections
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from ixi_tfds import lanes
from ixi_tfds.images.scaling import to_unit
from ixi_tfds.system.errors import UserError
from trainer.config import TrainConfig
from trainer.workdir import (
    RunState,
    add_epoch,
    check_whole,
    checkpoint_path,
    cosine_rate,
    write_state,
)

Logs = dict[str, Any]


class DivergedError(UserError):
    """The loss is not finite."""


class FiniteLoss(keras.callbacks.Callback):
    """Stops the run soon after a step whose loss is not finite, and names the slices of that step.

    Each loss is read some steps later: reading it at once would make the device wait. `keys_of`
    gives the names of the slices of a batch for an epoch and a step, both from 0.
    """

    _LATER = 8

    def __init__(self, workdir: pathlib.Path, keys_of: Callable[[int, int], list[str]]) -> None:
        super().__init__()
        # Keras then passes tensors and does not wait for their values.
        self._supports_tf_logs = True
        self.workdir, self.keys_of, self.epoch = workdir, keys_of, 0
        self.losses: collections.deque[tuple[int, tf.Tensor]] = collections.deque()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remember the number of the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Check an earlier step; raises `DivergedError` if its loss is not finite."""
        self.losses.append((batch, (logs or {})["loss"]))
        if len(self.losses) > self._LATER:
            self._look()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Check the remaining steps; raises `DivergedError` if a loss is not finite."""
        while self.losses:
            self._look()

    def _look(self) -> None:
        step, tensor = self.losses.popleft()
        # This is a running mean over the epoch. The first one that is not finite shows the step.
        loss = float(tensor)
        if not math.isfinite(loss):
            keys = ", ".join(self.keys_of(self.epoch, step))
            where = f"epoch {self.epoch + 1}, step {step + 1}: the loss is {loss} on slices {keys}"
            raise _diverged(where, self.epoch, self.workdir)


def _diverged(where: str, epochs_done: int, workdir: pathlib.Path) -> DivergedError:
    kept = f"; {workdir} keeps the weights after epoch {epochs_done}" if epochs_done else ""
    return DivergedError(f"{where}{kept}; take a lower --learning_rate and another --workdir")


class StepRates(keras.callbacks.Callback):
    """Sets the learning rate of each step: the warm-up, and the fall of --schedule=cosine_steps.

    It goes by the number of the step in the whole run, so a resumed run has the rates of one that
    was never stopped. `state` has the learning rate of the epoch.
    """

    def __init__(self, config: TrainConfig, state: RunState) -> None:
        super().__init__()
        self.config, self.state = config, state

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Set the learning rate of step `batch` of the epoch."""
        steps, warm = self.params["steps"], self.config.warmup_steps
        done = self.state.epochs_done * steps + batch
        rate = self.state.learning_rate
        if self.config.schedule == "cosine_steps":
            rate = cosine_rate(self.state, done / steps, self.config)
        elif done >= warm:
            return
        self.model.optimizer.learning_rate = rate * min(1.0, (done + 1) / max(1, warm))


class EpochEnd(keras.callbacks.Callback):
    """Writes the state of the run after each epoch: history, learning rate, checkpoints.

    One callback does all of this, so that an epoch is committed completely or not at all. `state`
    is changed in place; `folder` is the working folder on the chief.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: pathlib.Path,
        state: RunState,
        checkpoint: tf.train.Checkpoint,
    ) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        self.state, self.checkpoint = state, checkpoint

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Commit epoch `epoch` (from 0); raises `DivergedError` if a loss is not finite."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values[self.config.monitored])):
            where = f"epoch {epoch + 1}: the loss on validation slices is not finite any more"
            raise _diverged(where, epoch, self.folder)
        add_epoch(self.state, values, self.config)
        self.model.optimizer.learning_rate = self.state.learning_rate
        path = checkpoint_path(self.folder, epoch + 1)
        self.checkpoint.write(str(path))
        check_whole(path, self.checkpoint.network)
        write_state(self.folder, self.state)


class TensorBoard(keras.callbacks.Callback):
    """Writes the scalars of each epoch, and some slices beside their reconstructions.

    `EpochEnd` must update `state` first. The slices, `images`, are uint8 [N, H, W, 1].
    """

    def __init__(self, folder: pathlib.Path, state: RunState, images: np.ndarray) -> None:
        super().__init__()
        self.state = state
        self.writer = tf.summary.create_file_writer(str(folder))
        self.images = images

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write epoch `epoch` (from 0) as step `epoch + 1`."""
        slices = to_unit(self.images)
        reconstructions = self.model.grey_of(self.model(slices, training=False))
        pairs = tf.concat([tf.image.rot90(slices), tf.image.rot90(reconstructions)], axis=2)
        with self.writer.as_default(step=epoch + 1):
            for name, value in self.state.history[-1].items():
                tf.summary.scalar(name, value)
            tf.summary.image("slice and reconstruction", pairs, max_outputs=len(self.images))
        self.writer.flush()


class Profile(keras.callbacks.Callback):
    """Profiles some steps of one epoch, starting at the third: the first two build the graphs.

    The files for TensorBoard go to `folder`. A shorter epoch ends the profile before `steps`.
    """

    _FIRST = 2

    def __init__(self, folder: pathlib.Path, steps: int) -> None:
        super().__init__()
        self.folder, self.steps = folder, steps
        self.started = self.running = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Start, once."""
        if batch == self._FIRST and not self.started:
            tf.profiler.experimental.start(str(self.folder))
            self.started = self.running = True

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop after the last step to profile."""
        if batch >= self._FIRST + self.steps - 1:
            self._stop()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stop if it still runs."""
        self._stop()

    def _stop(self) -> None:
        if self.running:
            tf.profiler.experimental.stop()
            self.running = False


class ProgressBar(lanes.progress_bar()):  # type: ignore[misc]  # made for the lane
    """A bar for each epoch with running means, images/s and the time left for all epochs.

    `first_epoch` is the number, from 0, of the first epoch after a resume.
    """

    def __init__(self, batch_size: int, first_epoch: int) -> None:
        super().__init__(
            show_overall_progress=False,
            epoch_bar_format="{n_fmt}/{total_fmt} |{bar:20}| {desc}",
            update_per_second=4,
        )
        self.batch_size = batch_size
        self.first_epoch = self.epoch = first_epoch
        self.latest: Logs = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start the clock."""
        super().on_train_begin(logs)
        self.started = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Open the epoch's bar."""
        self.epoch = epoch
        self.epoch_started = time.monotonic()
        super().on_epoch_begin(epoch, logs or {})

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Move the bar."""
        self.latest = logs or {}
        self.trained = time.monotonic()
        super().on_batch_end(batch, self.latest)

    def format_metrics(self, logs: Logs | None = None, factor: float = 1) -> str:
        """The text of the bar.

        During an epoch the base class passes sums of running means, which are useless; the text
        shows the latest means instead. At the end of an epoch it passes the metrics of the epoch,
        including those of validation.
        """
        shown, steps = logs or {}, self.total_steps
        if "val_loss" not in shown:
            shown, steps = self.latest, self.steps_so_far
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        rate = steps * self.batch_size / max(self.trained - self.epoch_started, 1e-9)
        done = self.epoch - self.first_epoch + (steps / self.total_steps)
        left = self.num_epochs - self.first_epoch - done
        seconds = round((time.monotonic() - self.started) * left / max(done, 1e-9))
        return f"{text}  {rate:.0f} images/s  {seconds // 60}:{seconds % 60:02d} left"
