"""What happens at the end of an epoch, and what a person sees meanwhile."""

import collections
import math
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from ixi_tfds.errors import UserError
from ixi_tfds.images.scaling import to_unit
from trainer.config import TrainConfig
from trainer.models import networks
from trainer.workdir import RunState, add_epoch, checkpoint_path, write_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa

Logs = dict[str, Any]


class DivergedError(UserError):
    """The loss is no longer a number."""


class FiniteLoss(keras.callbacks.Callback):
    """Stops the run soon after a step whose loss is not finite, and names its slices.

    Losses are looked at some steps later, when a device has them anyway: waiting for each would
    keep it idle.

    Args:
      workdir: folder of the run.
      keys_of: names of the slices of a batch, by the number of the epoch and of the step in it,
        both from 0.
    """

    _LATER = 8

    def __init__(self, workdir: pathlib.Path, keys_of: Callable[[int, int], list[str]]) -> None:
        super().__init__()
        # Keras hands over tensors then, and waits for none; its own constructor has set it False.
        self._supports_tf_logs = True
        self.workdir = workdir
        self.keys_of = keys_of
        self.epoch = 0
        self.losses: collections.deque[tuple[int, tf.Tensor]] = collections.deque()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remember where it stands."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Look at an earlier step.

        Raises:
          DivergedError: its loss is not finite.
        """
        self.losses.append((batch, (logs or {})["loss"]))
        if len(self.losses) > self._LATER:
            self._look()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Look at the steps that are left.

        Raises:
          DivergedError: the loss of one is not finite.
        """
        while self.losses:
            self._look()

    def _look(self) -> None:
        step, tensor = self.losses.popleft()
        # A running mean over the epoch: the first that is not finite has its own step to blame.
        loss = float(tensor)
        if not math.isfinite(loss):
            keys = ", ".join(self.keys_of(self.epoch, step))
            where = f"epoch {self.epoch + 1}, step {step + 1}: the loss is {loss} on slices {keys}"
            raise _diverged(where, self.epoch, self.workdir)


def _diverged(where: str, epochs_done: int, workdir: pathlib.Path) -> DivergedError:
    kept = f"; {workdir} keeps the weights after epoch {epochs_done}" if epochs_done else ""
    return DivergedError(f"{where}{kept}; take a lower --learning_rate and another --workdir")


class EpochEnd(keras.callbacks.Callback):
    """Owns the state of the run: history, learning rate, best and last checkpoint.

    One callback does it all, so that an epoch is committed whole or not at all.

    Args:
      config: of the run.
      folder: to write to, the working folder where this process is the one to write there.
      state: as it stands; changed epoch by epoch.
      checkpoint: what to save, the network as `network`.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: pathlib.Path,
        state: RunState,
        checkpoint: tf.train.Checkpoint,
    ) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.state = state
        self.checkpoint = checkpoint

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Commit epoch `epoch` (from 0).

        Raises:
          DivergedError: the loss is no longer a number.
        """
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values[self.config.monitored])):
            where = f"epoch {epoch + 1}: the loss on validation slices is not finite any more"
            raise _diverged(where, epoch, self.folder)
        add_epoch(self.state, values, self.config)
        self.model.optimizer.learning_rate = self.state.learning_rate
        self.checkpoint.write(str(checkpoint_path(self.folder, epoch + 1)))
        write_state(self.folder, self.state)


class TensorBoard(keras.callbacks.Callback):
    """Scalars of each epoch, and some slices beside their reconstructions.

    Args:
      folder: of the event files.
      state: as `EpochEnd`, which comes before, leaves it.
      images: uint8 [N, H, W, 1], the slices to show.
    """

    def __init__(self, folder: pathlib.Path, state: RunState, images: np.ndarray) -> None:
        super().__init__()
        self.state = state
        self.writer = tf.summary.create_file_writer(str(folder))
        self.images = images

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write epoch `epoch` (from 0) as step `epoch + 1`."""
        slices = to_unit(self.images)
        reconstructions = networks.to_grey(self.model(slices, training=False))
        # Superior up, the slice on the left, its reconstruction on the right.
        pairs = tf.concat([tf.image.rot90(slices), tf.image.rot90(reconstructions)], axis=2)
        with self.writer.as_default(step=epoch + 1):
            for name, value in self.state.history[-1].items():
                tf.summary.scalar(name, value)
            tf.summary.image("slice and reconstruction", pairs, max_outputs=len(self.images))
        self.writer.flush()


class Profile(keras.callbacks.Callback):
    """Profiles some steps of one epoch, from the third on: the first ones make the graphs.

    Args:
      folder: of TensorBoard's files.
      steps: how many; fewer where the epoch ends before.
    """

    _FIRST = 2

    def __init__(self, folder: pathlib.Path, steps: int) -> None:
        super().__init__()
        self.folder = folder
        self.steps = steps
        self.started = self.running = False

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Start, once."""
        if batch == self._FIRST and not self.started:
            tf.profiler.experimental.start(str(self.folder))
            self.started = self.running = True

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Stop after as many steps as were asked for."""
        if batch >= self._FIRST + self.steps - 1:
            self._stop()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Stop in any case."""
        self._stop()

    def _stop(self) -> None:
        if self.running:
            tf.profiler.experimental.stop()
            self.running = False


class ProgressBar(tfa.callbacks.TQDMProgressBar):
    """A bar an epoch with running means, images/s and the time left for all epochs.

    Args:
      batch_size: of the global batch.
      first_epoch: number of the first epoch of this process, from 0.
    """

    def __init__(self, batch_size: int, first_epoch: int) -> None:
        super().__init__(
            show_overall_progress=False,
            epoch_bar_format="{n_fmt}/{total_fmt} |{bar:20}| {desc}",
            update_per_second=4,
        )
        self.batch_size = batch_size
        self.first_epoch = first_epoch
        self.epoch = first_epoch
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
        """The bar's text.

        The base class hands over sums of values that already are running means, and `factor` to
        divide them by; the means themselves say more. At the end of an epoch it hands over the
        epoch's metrics, those of validation included.
        """
        shown = logs or {}
        steps = self.total_steps
        if "val_loss" not in shown:
            shown, steps = self.latest, self.steps_so_far
        text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        rate = steps * self.batch_size / max(self.trained - self.epoch_started, 1e-9)
        done = self.epoch - self.first_epoch + (steps / self.total_steps)
        left = self.num_epochs - self.first_epoch - done
        seconds = round((time.monotonic() - self.started) * left / max(done, 1e-9))
        return f"{text}  {rate:.0f} images/s  {seconds // 60}:{seconds % 60:02d} left"
