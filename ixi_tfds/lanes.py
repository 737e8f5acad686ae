"""The two sets of packages that the project runs on, and all that differs between them.

The classic lane is Python 3.11 with TensorFlow 2.15 and tensorflow-addons. The current lane is
Python 3.12 or 3.13 with the newest TensorFlow and `tf_keras`, Keras 2 as a package of its own;
tensorflow-addons cannot be imported there, and what is used of it is made here. Both lanes read and
write the same files.
"""

from __future__ import annotations

import functools
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from etils import epy

from ixi_tfds.system import quiet

with epy.lazy_imports():
    import tensorflow as tf

NAMES = ("classic", "current")
NAME = NAMES[sys.version_info >= (3, 12)]
"""The lane that this process runs in."""

PACKAGES = ("tensorflow", "tensorflow-addons" if NAME == "classic" else "tf_keras")
"""Packages whose versions a model card records, in addition to those of both lanes."""

CUDA = {
    "libcudart.so.12": "cuda_runtime",
    "libcublas.so.12": "cublas",
    "libcublasLt.so.12": "cublas",
    "libcufft.so.11": "cufft",
    "libcusolver.so.11": "cusolver",
    "libcusparse.so.12": "cusparse",
    "libcudnn.so.8" if NAME == "classic" else "libcudnn.so.9": "cudnn",
}
"""The libraries that TensorFlow opens before it takes a GPU, and the wheels that have them."""

# TensorFlow looks in the folders of wheels that its own file lists. These are left out there; 2.21
# takes no GPU without cusolver, 2.15 cannot profile one without cupti. Once they are open it finds
# them.
CUDA_NOT_FOUND = {
    "classic": {"libcupti.so.12": "cuda_cupti"},
    "current": {"libcusolver.so.11": "cusolver"},
}[NAME]
"""Those of its libraries that TensorFlow does not find in the wheels by itself."""


def prepare() -> None:
    """Make TensorFlow quiet and load Keras 2, whatever the user's environment says.

    GPUs are shared. It has to be called before anything imports TensorFlow.
    """
    # Errors are shown: exceptions say "look at the errors above", as where cuDNN does not start.
    # Not in a cluster: where a worker is lost, the others log pages of them around our line.
    level = "3" if "TF_CONFIG" in os.environ else "2"
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level) not in ("0", "1"):
        quiet.import_tensorflow_quietly()
    # A program takes the memory of a GPU as it needs it, so that others can use the GPU, too.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if NAME == "current":
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    else:
        # TensorFlow 2.15 is Keras 2 already, and would look for a package that is not there.
        os.environ.pop("TF_USE_LEGACY_KERAS", None)


def gaussian_filter(images: tf.Tensor, shape: tuple[int, int], sigma: float) -> tf.Tensor:
    """Convolve each channel with a Gaussian; borders are reflected.

    Args:
      images: float [B, H, W, C].
      shape: height and width of the kernel.
      sigma: standard deviation in pixels, above 0.
    """
    if NAME == "classic":
        return _addons().image.gaussian_filter2d(images, filter_shape=shape, sigma=sigma)
    return convolve_with_gaussian(images, shape, sigma)


def convolve_with_gaussian(images: tf.Tensor, shape: tuple[int, int], sigma: float) -> tf.Tensor:
    """`gaussian_filter` without tensorflow-addons, equal to it within 1e-6."""
    sides = [tf.cast(tf.range(-((n - 1) // 2), n // 2 + 1), images.dtype) for n in shape]
    rows, columns = (tf.nn.softmax(-tf.square(side) / (2.0 * sigma**2)) for side in sides)
    kernel = tf.tile((rows[:, None] * columns)[..., None, None], [1, 1, images.shape[-1], 1])
    around = [((side - 1) // 2, side - 1 - (side - 1) // 2) for side in shape]
    padded = tf.pad(images, [(0, 0), *around, (0, 0)], mode="REFLECT")
    return tf.nn.depthwise_conv2d(padded, kernel, strides=[1, 1, 1, 1], padding="VALID")


def progress_bar() -> type[Any]:
    """The class of tensorflow-addons for a bar an epoch, or one with what is used of it."""
    return _addons().callbacks.TQDMProgressBar if NAME == "classic" else _progress_bar()


@functools.cache
def _addons() -> types.ModuleType:
    with warnings.catch_warnings():
        # On import it warns that its development has ended; the docs say so already.
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tensorflow_addons


@functools.cache
def _progress_bar() -> type[Any]:
    import time

    from tensorflow import keras
    from tqdm.auto import tqdm

    class EpochBar(keras.callbacks.Callback):
        """A bar for each epoch; its text is that of `format_metrics`, a method of the subclass."""

        format_metrics: Callable[[dict[str, Any] | None], str]

        def __init__(self, epoch_bar_format: str, update_per_second: float, **unused: bool) -> None:
            super().__init__()
            self.format, self.update_interval = epoch_bar_format, 1 / update_per_second
            self.shown_at = time.time()

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            """Open the bar."""
            self.num_epochs, self.total_steps = self.params["epochs"], self.params["steps"]
            self.steps_so_far = 0
            print(f"Epoch {epoch + 1}/{self.num_epochs}")
            self.bar = tqdm(total=self.total_steps, bar_format=self.format, dynamic_ncols=True)

        def on_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            """Move the bar."""
            self.steps_so_far += 1
            now = time.time()
            if now - self.shown_at >= self.update_interval:
                self._show(logs, self.steps_so_far)
                self.shown_at = now

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            """Fill the bar and leave it."""
            self.bar.miniters = self.bar.mininterval = 0
            self._show(logs, self.total_steps)
            self.bar.close()

        def _show(self, logs: dict[str, Any] | None, steps: int) -> None:
            self.bar.desc = self.format_metrics(logs)
            self.bar.update(steps - self.bar.n)

    return EpochBar
