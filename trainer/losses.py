"""Losses with one value for each image, and the table of choices for `--loss`.

The caller takes the mean over the global batch, since it knows how many images all replicas hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from etils import epy

with epy.lazy_imports():
    import tensorflow as tf


def mse(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error, float32 [B], of images float32 [B, H, W, C]."""
    return tf.reduce_mean(tf.math.squared_difference(clean, reconstruction), axis=(1, 2, 3))


def _patches(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] to [B, H // 3, 3, W // 3, 3, C]; rows and columns left over are dropped."""
    rows, columns, channels = images.shape[1] // 3, images.shape[2] // 3, images.shape[3]
    return tf.reshape(images[:, : 3 * rows, : 3 * columns], (-1, rows, 3, columns, 3, channels))


def dssim(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Structural dissimilarity `(1 - SSIM) / 2` of each image, as in keras-contrib 0.0.2.

    SSIM is computed in 3x3 patches that do not overlap, from the mean, population variance and
    covariance over all pixels and channels of a patch, with `c1 = 0.01^2` and `c2 = 0.03^2`, and
    then averaged. The values are far larger than with `tf.image.ssim`, whose windows overlap.

    Images are float32 [B, H, W, C] in [0, 1], with static H, W and C; H and W are at least 3. The
    result is float32 [B].
    """
    c1, c2 = 0.01**2, 0.03**2
    true, predicted = _patches(clean), _patches(reconstruction)
    within = (2, 4, 5)
    mean_true = tf.reduce_mean(true, within, keepdims=True)
    mean_predicted = tf.reduce_mean(predicted, within, keepdims=True)
    true, predicted = true - mean_true, predicted - mean_predicted
    variances = tf.reduce_mean(tf.square(true) + tf.square(predicted), within, keepdims=True)
    covariance = tf.reduce_mean(true * predicted, within, keepdims=True)
    ssim = (2 * mean_true * mean_predicted + c1) * (2 * covariance + c2)
    ssim /= (tf.square(mean_true) + tf.square(mean_predicted) + c1) * (variances + c2)
    return tf.reduce_mean((1 - ssim) / 2, axis=(1, 2, 3, 4, 5))


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss: a function, or a weighted sum of two other losses.

    Attributes:
      function: function of clean slices and reconstructions, such as `mse`.
      parts: names of the two losses in the sum; the weight is that of the second.
    """

    function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    parts: tuple[str, ...] = ()


LOSSES = {
    "mse": Loss(mse),
    "dssim": Loss(dssim),
    "mix": Loss(parts=("mse", "dssim")),
}


def make_loss(name: str, *, weight: float) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss of that name in `LOSSES`, as a function of clean slices and reconstructions.

    In a sum the second part has this weight, and the first part has 1 - `weight`.
    """
    loss = LOSSES[name]
    if loss.function:
        return loss.function
    first, second = (make_loss(part, weight=weight) for part in loss.parts)

    def mix(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
        one, other = first(clean, reconstruction), second(clean, reconstruction)
        return (1 - weight) * one + weight * other

    return mix
