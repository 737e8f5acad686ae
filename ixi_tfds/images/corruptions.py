"""Corruptions of slices: blur, black patches, lost pixels, noise.

The evaluator scores every entry of `CORRUPTIONS`. The trainer has a flag for each entry with a
`TrainingFlag`. Both apply the same tensor functions, which take and return float32 images
[B, H, W, C] in [0, 1]. These functions draw no random numbers; the callers do. All functions work
in graphs and compile under XLA. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from etils import epy

from ixi_tfds import lanes

with epy.lazy_imports():
    import tensorflow as tf

Draw = Callable[[Callable[[np.random.Generator], np.ndarray]], np.ndarray]
"""Calls a function once per slice, with a generator that depends only on the slice, and stacks
the results as float32 [B, ...]."""

Uniform = Callable[..., "tf.Tensor"]
"""Takes the sides of a shape and returns random numbers in (0, 1), float32, of that shape."""


@dataclasses.dataclass(frozen=True)
class TrainingFlag:
    """A flag of the trainer for the strength of a corruption, from 0 (off) to 1.

    Attributes:
      name: the name of the flag and of its field in the trainer's `AugmentationConfig`.
      help: the text in `--help`.
      draws: the random parameters by name. Each function takes a `Uniform`, (B, H, W) of the batch
        and the strength, and returns float32 [B, ...]. The name determines the seed, so names are
        unique among all entries.
      apply: the tensor function; takes the images, and the parameters as keyword arguments.
    """

    name: str
    help: str
    draws: Mapping[str, Callable[[Uniform, tuple[int, int, int], float], tf.Tensor]]
    apply: Callable[..., tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A corruption that models should remove.

    Attributes:
      unit: the unit of its amount, as shown in reports.
      severities: the amounts that the evaluator applies, from weak to strong; severity 1 is the
        first.
      apply: takes slices (float32 [B, H, W, 1] in [0, 1], H and W known), a `Draw` and an amount;
        returns the corrupted slices. It draws the same numbers for every amount, so severities
        differ only in strength.
      flag: the trainer's flag, if training can add this corruption to its inputs.
    """

    unit: str
    severities: tuple[float, ...]
    apply: Callable[[tf.Tensor, Draw, float], tf.Tensor]
    flag: TrainingFlag | None = None


def conditions() -> list[tuple[str, int]]:
    """Every scored pair (corruption, severity); the first is ("none", 0), the clean slice."""
    corrupted = [
        (name, severity)
        for name, corruption in CORRUPTIONS.items()
        for severity, _ in enumerate(corruption.severities, 1)
    ]
    return [("none", 0), *corrupted]


def gaussian_blur(images: tf.Tensor, sigma: float) -> tf.Tensor:
    """Blur all images with one Gaussian; borders are reflected.

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      sigma: standard deviation in pixels, above 0; a Python number, because the size of the
        kernel (cut off at 3 sigma) depends on it.
    """
    side = 2 * math.ceil(3 * sigma) + 1
    # Rows, then columns: the same result as one square kernel for a fraction of the work.
    for shape in ((side, 1), (1, side)):
        images = lanes.gaussian_filter(images, shape, float(sigma))
    return images


def zero_patches(images: tf.Tensor, centers: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Set square patches to 0; parts beyond the border are cut off.

    `tfa.image.cutout` does the same for one size per batch, but does not compile under XLA.

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      centers: float32 [B, K, 2], (row, column) of K patches per image, in pixels; the centre of the
        first pixel is 0.
      sizes: float32 [B, K], sides in pixels; 0 means no patch. A pixel is inside a patch if
        `center - size / 2 <= position < center + size / 2` holds along both axes.
    """

    def inside(axis: int) -> tf.Tensor:
        positions = tf.range(tf.shape(images)[axis + 1], dtype=tf.float32)
        first = centers[..., axis, None] - sizes[..., None] / 2
        return (positions >= first) & (positions < first + sizes[..., None])

    covered = inside(0)[..., :, None] & inside(1)[..., None, :]
    keep = ~tf.reduce_any(covered, axis=1)
    return images * tf.cast(keep, images.dtype)[..., None]


def pixel_dropout(images: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Set pixels, or blocks of pixels, to 0 in all channels.

    Args:
      images: float32 [B, H, W, C] in [0, 1], with static H and W.
      keep: bool [B, h, w] with h dividing H and w dividing W; each entry applies to a block of
        H/h x W/w pixels, so a mask of half the resolution makes black 2x2 blocks. False means 0.
    """
    rows = images.shape[1] // keep.shape[1]
    columns = images.shape[2] // keep.shape[2]
    mask = tf.repeat(tf.repeat(tf.cast(keep, images.dtype), rows, axis=1), columns, axis=2)
    return images * mask[..., None]


def gaussian_noise(images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Add `noise` (of the images' shape, in their units) and clip to [0, 1]."""
    return tf.clip_by_value(images + noise, 0.0, 1.0)


def rician_noise(images: tf.Tensor, real: tf.Tensor, imaginary: tf.Tensor) -> tf.Tensor:
    """Add the noise of a magnitude image: `sqrt((x + real)^2 + imaginary^2)`, clipped to [0, 1].

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      real: noise of the real channel, of the images' shape and in their units.
      imaginary: noise of the imaginary channel, likewise.
    """
    magnitude = tf.sqrt(tf.square(images + real) + tf.square(imaginary))
    return tf.clip_by_value(magnitude, 0.0, 1.0)


_PATCHES = 2


def _zero(slices: tf.Tensor, draw: Draw, share: float) -> tf.Tensor:
    height, width = slices.shape[1:3]
    # The centres are in the middle three fifths of both axes, where the head is.
    places = draw(lambda random: random.random((_PATCHES, 2)))
    centers = (0.2 + 0.6 * places) * np.array([height, width], np.float32)
    sizes = np.full((len(places), _PATCHES), round(share * height), np.float32)
    return zero_patches(slices, centers, sizes)


def _drop(slices: tf.Tensor, draw: Draw, share: float, *, block: int) -> tf.Tensor:
    # An odd side has no blocks of two.
    shape = [side // block if side % block == 0 else side for side in slices.shape[1:3]]
    return pixel_dropout(slices, draw(lambda random: random.random(shape)) >= share)


def _add_noise(slices: tf.Tensor, draw: Draw, deviation: float) -> tf.Tensor:
    noise = draw(lambda random: random.standard_normal(slices.shape[1:], np.float32))
    return gaussian_noise(slices, deviation * noise)


def _add_rician_noise(slices: tf.Tensor, draw: Draw, deviation: float) -> tf.Tensor:
    shape = (2, *slices.shape[1:])
    noise = draw(lambda random: random.standard_normal(shape, np.float32))
    return rician_noise(slices, deviation * noise[:, 0], deviation * noise[:, 1])


def _normal(uniform: Uniform, shape: tuple[int, int, int], deviation: float) -> tf.Tensor:
    """Normally distributed numbers, float32 [B, H, W, 1], identical on every device."""
    return deviation * tf.math.ndtri(uniform(*shape, 1))


CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(
        unit="sigma in pixels",
        severities=(0.5, 1.0, 1.5, 2.0, 3.0),
        apply=lambda slices, _, sigma: gaussian_blur(slices, sigma),
    ),
    "zeroed patches": Corruption(
        unit="side of each of the two, share of the height",
        severities=(0.1, 0.15, 0.2, 0.25, 0.3),
        apply=_zero,
    ),
    "coarse dropout": Corruption(
        unit="share of 2x2 blocks lost",
        severities=(0.01, 0.02, 0.05, 0.1, 0.2),
        apply=functools.partial(_drop, block=2),
    ),
    "pixel dropout": Corruption(
        unit="share of pixels lost",
        severities=(0.025, 0.05, 0.1, 0.2, 0.4),
        apply=functools.partial(_drop, block=1),
    ),
    "Gaussian noise": Corruption(
        unit="standard deviation",
        severities=(0.01, 0.02, 0.05, 0.1, 0.2),
        apply=_add_noise,
        flag=TrainingFlag(
            name="gaussian_noise",
            help="Standard deviation of Gaussian noise in corrupted inputs; 0 is off.",
            draws={"noise": _normal},
            apply=gaussian_noise,
        ),
    ),
    "Rician noise": Corruption(
        unit="standard deviation in both channels",
        severities=(0.01, 0.02, 0.05, 0.1, 0.2),
        apply=_add_rician_noise,
        flag=TrainingFlag(
            name="rician_noise",
            help="Standard deviation of Rician noise, in each of its channels; 0 is off.",
            draws={"real": _normal, "imaginary": _normal},
            apply=rician_noise,
        ),
    ),
}
"""The corruptions by their names in reports.

Training applies those that have a flag in this order.
"""
