"""Damage to slices of brains, which models learn to undo, and changes that they have to bear.

Random numbers come from the caller as a `Uniform`, whose first side is the batch, so that the
damage of a slice does not depend on the device or the number of replicas. Slices are float32
[B, H, W, 1] on the scale of `images.tissue`, masks float32 [B, H, W, 1], 1 in the brain. Everything
compiles under XLA.
"""

from __future__ import annotations

import math

from etils import epy

from ixi_tfds.images.corruptions import Uniform

with epy.lazy_imports():
    import tensorflow as tf

BLOBS = 3
"""Most damaged places in a slice."""

_KINDS = (
    ("shift", 0.25),
    ("flatten", 0.20),
    ("darken", 0.20),
    ("constant", 0.10),
    ("foreign", 0.10),
    ("texture", 0.08),
    ("smooth", 0.07),
)
_DAMAGED = 0.8
_SOFT = 0.9


def coarse_noise(masks: tf.Tensor, uniform: Uniform, *, sigma: float, pixels: int) -> tf.Tensor:
    """Gaussian noise on a grid of so many pixels, bilinear between them, in the brain.

    As in Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain MRI",
    MIDL 2022.

    Returns:
      float32 [B, H, W, 1], to be added.
    """
    batch, height, width, _ = masks.shape
    coarse = _normal(
        uniform("coarse_noise", batch, -(-height // pixels) + 1, -(-width // pixels) + 1, 1)
    )
    fine = tf.image.resize(coarse, [s * pixels for s in coarse.shape[1:3]])
    top, left = (
        tf.cast(uniform(f"coarse_{axis}") * float(pixels), tf.int32) for axis in ("rows", "columns")
    )
    placed = tf.slice(fine, [0, top, left, 0], [-1, height, width, 1])
    return sigma * placed * masks


def damaged(
    slices: tf.Tensor, masks: tf.Tensor, uniform: Uniform, *, sides_mm: float, largest_mm: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Slices of which four in five have one to three irregular soft blobs of damage.

    Args:
      slices: clean slices.
      masks: their brains.
      uniform: random numbers by name.
      sides_mm: side of a pixel in mm.
      largest_mm: diameter of the largest blobs; the smallest have 3 mm.

    Returns:
      The damaged slices, and how much of each pixel was replaced, from 0 to 1, both float32
      [B, H, W, 1].
    """
    batch = slices.shape[0]
    count = tf.where(
        uniform("blob_any", batch) < _DAMAGED,
        1.0 + tf.floor(uniform("blob_count", batch) * BLOBS),
        0.0,
    )
    whole, marks = slices, tf.zeros_like(slices)
    blurred = _smooth(slices)
    for number in range(BLOBS):
        one = _named(uniform, f"blob{number}_")
        mark = _blob(masks, one, 3.0 / sides_mm, largest_mm / sides_mm)
        mark *= tf.reshape(tf.cast(count > number, tf.float32), (-1, 1, 1, 1))
        filling = _filling(whole, blurred, slices, one)
        whole += mark * (filling - whole)
        # Where nothing changed there is nothing to find.
        changed = tf.clip_by_value(tf.abs(filling - slices) / 0.06, 0.0, 1.0)
        marks = tf.maximum(marks, mark * changed)
    return tf.clip_by_value(whole, 0.0, 1.6) * masks, marks * masks


def varied(slices: tf.Tensor, masks: tf.Tensor, uniform: Uniform) -> tf.Tensor:
    """Slices with another gamma about white matter, a smooth bias, a gain, and perhaps blur."""
    batch, height, width, _ = slices.shape
    gamma = tf.exp(0.25 * (2.0 * _each(uniform("gamma", batch)) - 1.0))
    varied = 0.8 * tf.pow(tf.maximum(slices, 1e-4) / 0.8, gamma)
    # Bilinear: XLA has no bicubic.
    bias = _normal(uniform("bias", batch, 3, 3, 1))
    varied *= 1.0 + 0.05 * tf.image.resize(bias, (height, width))
    varied *= 1.0 + 0.08 * (2.0 * _each(uniform("gain", batch)) - 1.0)
    blur = _each(uniform("blur_share", batch)) * tf.cast(
        _each(uniform("blur", batch)) < 0.3, tf.float32
    )
    varied += blur * (_smooth3(varied) - varied)
    return tf.clip_by_value(varied, 0.0, 1.6) * masks


def pixel_noise(slices: tf.Tensor, masks: tf.Tensor, uniform: Uniform) -> tf.Tensor:
    """Slices with noise of a standard deviation of up to 0.04 in the brain."""
    batch, height, width, _ = slices.shape
    noise = _normal(uniform("pixel_noise", batch, height, width, 1))
    return slices + 0.04 * _each(uniform("pixel_share", batch)) * noise * masks


def _blob(masks: tf.Tensor, uniform: Uniform, least: float, most: float) -> tf.Tensor:
    """How much of each pixel a blob covers; its centre lies in the brain."""
    batch, height, width, _ = masks.shape
    # A pixel of the brain at random: the largest of random numbers.
    order = uniform("centre", batch, height, width, 1) * masks
    place = tf.argmax(tf.reshape(order, (-1, height * width)), axis=1, output_type=tf.int32)
    row = tf.cast(place // width, tf.float32)[:, None, None]
    column = tf.cast(place % width, tf.float32)[:, None, None]
    size = tf.pow(_one(uniform("size", batch)), 1.5)
    radius = 0.5 * (least + (most - least) * size)
    stretch = tf.exp(0.5 * (2.0 * _one(uniform("stretch", batch)) - 1.0))
    angle = math.pi * _one(uniform("angle", batch))
    y = tf.range(float(height))[None, :, None] - row
    x = tf.range(float(width))[None, None, :] - column
    along = (tf.cos(angle) * x + tf.sin(angle) * y) / (radius * stretch)
    across = (tf.cos(angle) * y - tf.sin(angle) * x) * stretch / radius
    distance = tf.sqrt(tf.square(along) + tf.square(across) + 1e-6)
    rough = tf.image.resize(
        _normal(uniform("shape", batch, height // 8, width // 8, 1)), (height, width)
    )
    distance += 0.3 * rough[..., 0]
    soft = 0.08 + _SOFT * tf.square(_one(uniform("soft", batch)))
    return tf.clip_by_value(0.5 + (1.0 - distance) / soft, 0.0, 1.0)[..., None]


def _filling(now: tf.Tensor, blurred: tf.Tensor, slices: tf.Tensor, uniform: Uniform) -> tf.Tensor:
    """What a blob is filled with, by kind."""
    batch, height, width, _ = slices.shape
    kind, sign = _each(uniform("kind", batch)), tf.sign(_each(uniform("sign", batch)) - 0.5)
    amount, fading = _each(uniform("amount", batch)), _each(uniform("fading", batch))
    texture = tf.image.resize(
        _normal(uniform("texture", batch, height // 3, width // 3, 1)), (height, width)
    )
    # From elsewhere in the same slice: other slices would differ between numbers of replicas.
    places = [
        tf.cast(uniform(f"from_{n}") * side, tf.int32) for n, side in enumerate((height, width))
    ]
    far = tf.roll(tf.reverse(slices, [1]), places, [1, 2])
    far = tf.where(far > 0.05, far, now)
    fillings = {
        "shift": now + sign * (0.05 + 0.45 * amount),
        # As in low-grade tumours, the anatomy fades into one grey.
        "flatten": now + (0.4 + 0.5 * fading) * (0.25 + 0.6 * amount - now) + 0.03 * texture,
        # White matter that takes up water: what is dark already stays, so borders are anatomy's.
        "darken": now
        - (0.4 + 0.6 * fading) * tf.maximum(now - (0.25 + 0.4 * amount + 0.03 * texture), 0.0),
        "constant": 0.1 + 1.2 * amount + 0.03 * texture,
        "foreign": far,
        "texture": now + (0.08 + 0.17 * amount) * texture,
        "smooth": blurred,
    }
    chosen, upper = fillings["smooth"], 0.0
    for name, share in _KINDS:
        chosen = tf.where((kind >= upper) & (kind < upper + share), fillings[name], chosen)
        upper += share
    return chosen


def _named(uniform: Uniform, prefix: str) -> Uniform:
    return lambda name, *sides: uniform(prefix + name, *sides)


def _normal(numbers: tf.Tensor) -> tf.Tensor:
    return tf.math.ndtri(numbers)


def _each(numbers: tf.Tensor) -> tf.Tensor:
    return numbers[:, None, None, None]


def _one(numbers: tf.Tensor) -> tf.Tensor:
    return numbers[:, None, None]


def _smooth(slices: tf.Tensor) -> tf.Tensor:
    return tf.nn.avg_pool2d(tf.nn.avg_pool2d(slices, 7, 1, "SAME"), 5, 1, "SAME")


def _smooth3(slices: tf.Tensor) -> tf.Tensor:
    return tf.nn.avg_pool2d(slices, 3, 1, "SAME")
