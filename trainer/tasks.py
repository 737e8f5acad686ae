"""What a network learns: to reconstruct a slice, or to undo damage. A task is an entry in `TASKS`.

A task damages clean slices, on the device and inside the step, and compares what the network makes
of them with the clean ones. TensorFlow is imported only when it is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from etils import epy

from ixi_tfds.images import damage
from ixi_tfds.images.corruptions import Uniform
from ixi_tfds.images.tissue import HIGHEST

with epy.lazy_imports():
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Example:
    """Slices of brains before and after damage; each float32 [B, H, W, 1].

    Attributes:
      inputs: what the network gets, in [0, 1] but for noise.
      clean: what it should make of them, in [0, 1].
      masks: 1 in the brain.
      marks: share of a pixel that was replaced.
    """

    inputs: tf.Tensor
    clean: tf.Tensor
    masks: tf.Tensor
    marks: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Place:
    """What a task has to know of a dataset: the side of a pixel in mm, and the plane."""

    side_mm: float
    plane: str


@dataclasses.dataclass(frozen=True)
class Task:
    """An entry of the table.

    Attributes:
      harm: takes clean slices in [0, 1], masks, a `Uniform`, and the place; returns the example.
        None for the task of the thesis, whose inputs `augmentation` corrupts.
      losses: one value for each image, of an example and the network's result [B, H, W, C].
      marks: whether the network's last channel are logits of the marks.
    """

    harm: Callable[[tf.Tensor, tf.Tensor, Uniform, Place], Example] | None = None
    losses: Callable[[Example, tf.Tensor], tf.Tensor] | None = None
    marks: bool = False


NOISE_SIGMA = 0.2
NOISE_MM = 16.0
LARGEST_MM = 60.0


def _noisy(clean: tf.Tensor, masks: tf.Tensor, uniform: Uniform, place: Place) -> Example:
    pixels = max(1, round(NOISE_MM / place.side_mm))
    noise = damage.coarse_noise(masks, uniform, sigma=NOISE_SIGMA, pixels=pixels)
    return Example(clean + noise / HIGHEST, clean, masks, tf.zeros_like(masks))


def _broken(clean: tf.Tensor, masks: tf.Tensor, uniform: Uniform, place: Place) -> Example:
    broken, marks = damage.damaged(
        clean * HIGHEST, masks, uniform, sides_mm=place.side_mm, largest_mm=LARGEST_MM
    )
    return Example(broken / HIGHEST, clean, masks, marks)


def _masked(values: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Mean in the brain of each image, [B]; 0 for an image without brain."""
    inside = tf.reduce_sum(masks, axis=(1, 2, 3))
    # Networks with ImageNet weights have three channels.
    values = tf.reduce_mean(values, axis=-1, keepdims=True)
    return tf.reduce_sum(values * masks, axis=(1, 2, 3)) / tf.maximum(inside, 1.0)


def _errors(example: Example, result: tf.Tensor) -> tf.Tensor:
    """Squared errors on the scale of tissues, in the brain."""
    return _masked(tf.square(HIGHEST * (result - example.clean)), example.masks)


def _repair_losses(example: Example, result: tf.Tensor) -> tf.Tensor:
    """10 MSE + L1 of the repair, binary cross-entropy and a fifth of the soft Dice of the marks."""
    repaired, logits = result[..., :-1], result[..., -1:]
    absolute = _masked(tf.abs(HIGHEST * (repaired - example.clean)), example.masks)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(example.marks, logits)
    found = tf.sigmoid(logits) * example.masks
    shared, total = (
        tf.reduce_sum(values, axis=(1, 2, 3))
        for values in (found * example.marks, found + example.marks)
    )
    dice = 1.0 - (2.0 * shared + 1.0) / (total + 1.0)
    return (
        10.0 * _errors(example, repaired) + absolute + _masked(entropy, example.masks) + 0.2 * dice
    )


TASKS = {
    "reconstruct": Task(),
    "denoise": Task(_noisy, _errors),
    "repair": Task(_broken, _repair_losses, marks=True),
}


def make_example(
    task: Task, clean: tf.Tensor, masks: tf.Tensor, uniform: Uniform, place: Place, *, vary: bool
) -> Example:
    """Damaged slices; with `vary`, as in training, also of other contrast, shading and sharpness.

    Args:
      task: one with `harm`.
      clean: float32 [B, H, W, 1] in [0, 1].
      masks: float32 of the same shape, 1 in the brain.
      uniform: random numbers by name.
      place: side of a pixel and plane.
      vary: also change what the network should make of them, and add noise to its inputs.
    """
    assert task.harm
    if vary:
        clean = damage.varied(clean * HIGHEST, masks, uniform) / HIGHEST
    example = task.harm(clean, masks, uniform, place)
    if vary:
        noisy = damage.pixel_noise(example.inputs * HIGHEST, masks, uniform) / HIGHEST
        example = dataclasses.replace(example, inputs=noisy)
    return example
