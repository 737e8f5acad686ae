"""Similarity of two batches of slices: PSNR, SSIM, MS-SSIM and MAE, one value per slice.

Every function takes two float32 tensors [B, H, W, 1] with values in [0, 1] (a dynamic range of 1),
H and W known when the graph is built, and returns float32 [B]. The functions use plain TensorFlow
operations, so they run eagerly, in a graph, under jit and inside a replica. TensorFlow is loaded at
first use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epy

with epy.lazy_imports():
    import tensorflow as tf

PSNR_CAP = 100.0
"""Largest PSNR, in dB, that `psnr` returns.

Identical slices have an infinite PSNR, which would make every mean infinite and every standard
deviation NaN. 8-bit slices that differ in a single pixel of 256x256 by a single level stay below
97 dB, so the cap affects only slices that are equal within rounding.
"""

_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Peak signal-to-noise ratio in dB, as `tf.image.psnr` with `max_val=1`, at most `PSNR_CAP`."""
    error = tf.reduce_mean(tf.math.squared_difference(a, b), axis=(1, 2, 3))
    return tf.minimum(-10.0 / np.log(10.0) * tf.math.log(error), PSNR_CAP)


def mae(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean absolute error, in the units of the slices: 0 to 1."""
    return tf.reduce_mean(tf.abs(a - b), axis=(1, 2, 3))


def ssim(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Structural similarity (Wang et al., 2004), the values of `tf.image.ssim` with `max_val=1`.

    An 11x11 Gaussian window of sigma 1.5, k1 = 0.01, k2 = 0.03, averaged over the pixels at which
    the window lies completely inside the slice. The window is applied along one axis after the
    other, which is many times faster than `tf.image.ssim` on a CPU.

    Raises:
      ValueError: a side of the slices is shorter than the window.
    """
    luminance, contrast = _similarity(tf.squeeze(a, -1), tf.squeeze(b, -1))
    return tf.reduce_mean(luminance * contrast, axis=(1, 2))


def ms_ssim_scales(height: int, width: int) -> int:
    """Number of scales of MS-SSIM, at most five, for slices of this size.

    Each scale halves the sides, which must not be shorter than the window: five from 161 pixels on,
    four at 128.
    """
    # Sides are halved and rounded up: ceil(side / 2^n) >= 11 is the same as side / 2^n > 10.
    side = min(height, width)
    return max(1, sum(side / 2**n > _WINDOW - 1 for n in range(len(_SCALE_WEIGHTS))))


def ms_ssim(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003).

    The values of `tf.image.ssim_multiscale` with `max_val=1` and, as `power_factors`, the first
    `ms_ssim_scales(H, W)` of the five weights of the paper, divided by their sum. The values of
    different numbers of scales do not compare.

    Raises:
      ValueError: a side of the slices is shorter than the window.
    """
    scales = ms_ssim_scales(*a.shape[1:3])
    weights = np.array(_SCALE_WEIGHTS[:scales]) / sum(_SCALE_WEIGHTS[:scales])
    product: Any = 1.0
    for scale, weight in enumerate(weights, start=1):
        luminance, contrast = _similarity(tf.squeeze(a, -1), tf.squeeze(b, -1))
        quality = luminance * contrast if scale == scales else contrast
        # Negative similarity (inverted structure) counts as 0.
        product *= tf.nn.relu(tf.reduce_mean(quality, axis=(1, 2))) ** weight
        if scale < scales:
            a, b = _halve(a), _halve(b)
    return product


def _similarity(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The two factors of SSIM, luminance and contrast-structure, of [B, H, W], at every window."""
    height, width = a.shape[1:3]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs slices of at least {_WINDOW}x{_WINDOW}, not {height}x{width}")
    # Variances are differences of squares: around zero they lose the fewest digits.
    a, b = a - 0.5, b - 0.5
    mean_a, mean_b, product = _smooth(a), _smooth(b), _smooth(a * b)
    squares = _smooth(tf.square(a) + tf.square(b))
    variances = squares - tf.square(mean_a) - tf.square(mean_b)
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + _C1) / (tf.square(mean_a) + tf.square(mean_b) + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _halve(images: tf.Tensor) -> tf.Tensor:
    """Means of 2x2 pixels; an odd side repeats its last pixel."""
    odd = [[0, 0], [0, images.shape[1] % 2], [0, images.shape[2] % 2], [0, 0]]
    return tf.nn.avg_pool2d(tf.pad(images, odd, "SYMMETRIC"), 2, 2, "VALID")


def _smooth(images: tf.Tensor) -> tf.Tensor:
    """Gaussian window over [N, H, W] along both axes; gives [N, W - 10, H - 10], axes swapped."""
    return _smooth_rows(tf.transpose(_smooth_rows(images), (0, 2, 1)))


def _smooth_rows(images: tf.Tensor) -> tf.Tensor:
    """Gaussian window over [N, H, W] along H, VALID.

    H is the width of the convolution and W its channels: the fastest order on a CPU (with H as the
    height it takes 1.5 times as long). A product with a banded matrix takes four times as long,
    and GPUs round it to TF32 by default, too coarse for the differences of squares above.
    """
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    kernel = np.tile(weights[None, :, None, None], (1, 1, images.shape[2], 1))
    smoothed = tf.nn.depthwise_conv2d(images[:, None], kernel, (1, 1, 1, 1), "VALID")
    return tf.squeeze(smoothed, 1)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric and its format in reports.

    Attributes:
      function: takes two batches and returns float32 [B], as described above.
      label: its name in reports.
      unit: the unit of its values; "" for none.
      places: number of decimals in reports.
      better: which values are better, "higher" or "lower".
    """

    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    label: str
    unit: str = ""
    places: int = 4
    better: str = "higher"

    @property
    def title(self) -> str:
        """The label, with the unit if there is one."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float, *, signed: bool = False) -> str:
        """A value with its decimals."""
        return f"{value:{'+' if signed else ''}.{self.places}f}"


METRICS = {
    "psnr": Metric(psnr, "PSNR", unit="dB", places=2),
    "ssim": Metric(ssim, "SSIM"),
    "ms_ssim": Metric(ms_ssim, "MS-SSIM"),
    "mae": Metric(mae, "MAE", better="lower"),
}
"""The metrics of every evaluation, by column name, in the order of the columns."""
