"""Corrupting the input slices on the device: parameters are sampled, then applied.

The parameters are a function of the seed and of a slice's place in the order of the epoch, not of
the replica that holds it: any number of replicas or workers sees the same corruptions, and so does
a run that was stopped and resumed.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import TypeVar

from etils import epy

from ixi_tfds.images import corruptions
from ixi_tfds.images.corruptions import CORRUPTIONS, TrainingFlag
from ixi_tfds.system.flags import flag

with epy.lazy_imports():
    import tensorflow as tf

_GENERATOR = "philox"  # Left to itself, TensorFlow takes another one under XLA.

_SEEDS = (
    *("count", "cutout_first", "share", "sigma", "blurred", "centers", "keep"),
    *("noise", "real", "imaginary", "corrupted"),
)
"""The draws whose seeds come from splitting that of the batch, in the order of the parts. Runs of
earlier versions rest on them, so this list stays: further draws have seeds by their names."""

_Config = TypeVar("_Config")


def _with_flags_of_corruptions(config: type[_Config]) -> type[_Config]:
    """Add a field for each corruption in the table that has a flag of the trainer."""
    for found in _training_flags():
        config.__annotations__[found.name] = float
        setattr(config, found.name, flag(found.help, 0.0, least=0, most=1))
    return config


def _training_flags() -> list[TrainingFlag]:
    return [each.flag for each in CORRUPTIONS.values() if each.flag]


@dataclasses.dataclass(frozen=True)
@_with_flags_of_corruptions
class AugmentationConfig:
    """What may happen to a slice, and how often.

    The thesis states the blurred half, the two further corruptions, their number and the dropout;
    it does not state sigmas and patch size: those here are assumed (patches of a fifth of the
    side, as the library it used has them by default). It had no noise.

    Each entry of `CORRUPTIONS` with a flag adds a field of that flag's name: its strength in all
    images that are corrupted at all, 0 by default, which is off.

    Attributes:
      fraction: share of the images that is corrupted at all.
      blur_fraction: share of these that is blurred.
      blur_sigmas: one of these, in pixels, is drawn for a whole batch.
      max_further: of {cutout, coarse dropout}, 0 to this many are applied, all numbers alike.
      cutout_patches: black patches that a cutout sets.
      cutout_size: side of a patch as a share of the image's height.
      dropout_range: share of pixels that a coarse dropout blackens, uniform in this range.
    """

    fraction: float = flag(
        "Share of the inputs to corrupt at all.", 1.0, name="augment_fraction", least=0, most=1
    )
    blur_fraction: float = 0.5
    blur_sigmas: tuple[float, ...] = (0.5, 1.0, 1.5)
    max_further: int = 2
    cutout_patches: int = 2
    cutout_size: float = 0.2
    dropout_range: tuple[float, float] = (0.0, 0.05)


def sample(
    config: AugmentationConfig, *, seed: tf.Tensor, shape: tuple[int, int, int]
) -> dict[str, tf.Tensor]:
    """Draw the parameters for a batch.

    Args:
      config: what may happen.
      seed: int64 [2], of which the parameters are a function.
      shape: (B, H, W) of the batch; H and W even.

    Returns:
      `sigma` int32 scalar (a place in `blur_sigmas`), `blurred` bool [B], `centers` float32
      [B, K, 2] and `sizes` float32 [B, K] as `corruptions.zero_patches` takes them (size 0 where
      an image gets no cutout), `keep` bool [B, H/2, W/2] as `corruptions.pixel_dropout` takes it;
      the draws of each corruption in the table whose flag is above 0; and, where not all images
      are to be corrupted, `corrupted` bool [B].
    """
    batch, height, width = shape
    uniform = _uniform_by_name(seed)

    # How many of the two further corruptions, and which one if it is one.
    count = tf.cast(uniform("count", batch) * (config.max_further + 1), tf.int32)
    cutout_first = uniform("cutout_first", batch) < 0.5
    cutout = (count == 2) | ((count == 1) & cutout_first)
    dropout = (count == 2) | ((count == 1) & ~cutout_first)

    side = round(config.cutout_size * height)
    low, high = config.dropout_range
    share = tf.where(dropout, low + (high - low) * uniform("share", batch), 0.0)
    centers = uniform("centers", batch, config.cutout_patches, 2)
    parameters = {
        "sigma": tf.cast(uniform("sigma") * len(config.blur_sigmas), tf.int32),
        "blurred": uniform("blurred", batch) < config.blur_fraction,
        "centers": centers * (float(height), float(width)),
        "sizes": tf.where(cutout, float(side), 0.0)[:, None] * tf.ones(config.cutout_patches),
        "keep": uniform("keep", batch, height // 2, width // 2) >= share[:, None, None],
    }
    for found in _training_flags():
        if strength := getattr(config, found.name):
            for name, draw in found.draws.items():
                parameters[name] = draw(functools.partial(uniform, name), shape, strength)
    if config.fraction < 1:
        parameters["corrupted"] = uniform("corrupted", batch) < config.fraction
    return parameters


def _uniform_by_name(seed: tf.Tensor) -> Callable[..., tf.Tensor]:
    """Give `uniform(name, *sides)`: float32 in (0, 1), from the seed of the draw of that name.

    The numbers are the same on every device. TensorFlow's own floats are not: they take other bits
    of the same random integers under XLA.
    """
    parts = tf.unstack(tf.random.experimental.stateless_split(seed, len(_SEEDS), alg=_GENERATOR))
    seeds = dict(zip(_SEEDS, parts, strict=True))

    def uniform(name: str, *sides: int) -> tf.Tensor:
        if name not in seeds:
            number = tf.constant(zlib.crc32(name.encode()), tf.int64)
            seeds[name] = tf.random.fold_in(seed, number, alg=_GENERATOR)
        bits = tf.random.stateless_uniform(
            sides, seeds[name], None, None, tf.uint32, alg=_GENERATOR
        )
        return (tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5) * 2.0**-23

    return uniform


def apply(
    images: tf.Tensor, parameters: dict[str, tf.Tensor], config: AugmentationConfig
) -> tf.Tensor:
    """Corrupt images by parameters as `sample` gives them, drawing nothing.

    Args:
      images: float32 [B, H, W, 1] in [0, 1].
      parameters: of the same batch.
      config: with which they were sampled.
    """
    clean = images
    if config.blur_sigmas and config.blur_fraction:
        blurred = tf.switch_case(
            parameters["sigma"],
            [
                lambda sigma=sigma: corruptions.gaussian_blur(images, sigma)
                for sigma in config.blur_sigmas
            ],
        )
        images = tf.where(parameters["blurred"][:, None, None, None], blurred, images)
    images = corruptions.zero_patches(images, parameters["centers"], parameters["sizes"])
    images = corruptions.pixel_dropout(images, parameters["keep"])
    for found in _training_flags():
        if found.draws.keys() <= parameters.keys():
            drawn = {name: parameters[name] for name in found.draws}
            images = found.apply(images, **drawn)
    if "corrupted" in parameters:
        images = tf.where(parameters["corrupted"][:, None, None, None], images, clean)
    return images


def augment(
    images: tf.Tensor,
    index: tf.Tensor,
    *,
    config: AugmentationConfig,
    seed: int,
    batch_size: int,
) -> tf.Tensor:
    """Corrupt a replica's rows of a global batch.

    Args:
      images: float32 [b, H, W, 1] in [0, 1], the rows that this replica holds.
      index: int64 [b], each row's place in the order of all slices, as the input pipeline counts:
        global batch `index // batch_size`, row `index % batch_size` in it.
      config: what may happen.
      seed: of the run; another one gives other corruptions.
      batch_size: of the global batch.
    """
    block = tf.reduce_max(index) // batch_size
    rows = index % batch_size
    _, height, width, _ = images.shape
    # Drawn for the global batch on every replica, which is cheap; each takes its own rows.
    parameters = sample(
        config,
        seed=tf.stack([tf.constant(seed, tf.int64), block]),
        shape=(batch_size, height, width),
    )
    sigma = parameters.pop("sigma")
    mine = {name: tf.gather(values, rows) for name, values in parameters.items()}
    return apply(images, mine | {"sigma": sigma}, config)
