"""How alike two batches of slices are: PSNR, SSIM and MAE, one value a slice.

Every function takes two float32 tensors [B, H, W, 1] with values in [0, 1] (a dynamic range of 1),
H and W known when the graph is built, and gives float32 [B]. They are plain TensorFlow operations:
they run eagerly, in a graph, under jit and inside a replica.
"""

import numpy as np
import tensorflow as tf

PSNR_CAP = 100.0
"""Largest PSNR, in dB, that `psnr` gives.

Identical slices have an infinite PSNR, which would make every mean infinite and every standard
deviation NaN. 8-bit slices that differ in a single pixel of 256x256 by a single level stay below
97 dB, so the cap touches only what is equal to within rounding.
"""

_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2


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
    the window lies wholly inside the slice. The window is applied one axis after the other, which
    is what makes this many times faster than `tf.image.ssim` on a CPU.

    Raises:
      ValueError: a side of the slices is shorter than the window.
    """
    height, width = a.shape[1:3]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs slices of at least {_WINDOW}x{_WINDOW}, not {height}x{width}")
    # Variances are differences of squares: around zero they lose the fewest digits.
    a, b = tf.squeeze(a, -1) - 0.5, tf.squeeze(b, -1) - 0.5
    mean_a, mean_b, product = _smooth(a), _smooth(b), _smooth(a * b)
    squares = _smooth(tf.square(a) + tf.square(b))
    variances = squares - tf.square(mean_a) - tf.square(mean_b)
    covariance = product - mean_a * mean_b
    mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
    luminance = (2 * mean_a * mean_b + _C1) / (tf.square(mean_a) + tf.square(mean_b) + _C1)
    contrast = (2 * covariance + _C2) / (variances + _C2)
    return tf.reduce_mean(luminance * contrast, axis=(1, 2))


def _smooth(images: tf.Tensor) -> tf.Tensor:
    """Gaussian window over [N, H, W] along both axes; gives [N, W - 10, H - 10], axes swapped."""
    return _smooth_rows(tf.transpose(_smooth_rows(images), (0, 2, 1)))


def _smooth_rows(images: tf.Tensor) -> tf.Tensor:
    """Gaussian window over [N, H, W] along H, VALID.

    The columns are the channels of a depthwise convolution, the order that is fast on a CPU. A
    product with a banded matrix would be as short, but GPUs round those to TF32 by default, too
    coarse for the differences of squares above.
    """
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    kernel = np.tile(weights[:, None, None, None], (1, 1, images.shape[2], 1))
    smoothed = tf.nn.depthwise_conv2d(images[:, :, None, :], kernel, (1, 1, 1, 1), "VALID")
    return tf.squeeze(smoothed, 2)
