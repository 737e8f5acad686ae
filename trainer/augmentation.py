"""Corrupts the input slices on the device: parameters are sampled, then applied.

The parameters depend on the seed and on a slice's number in the order of all epochs, not on the
replica that holds it. So the corruptions are the same with any number of replicas or workers, and
after a resume.
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

ONLY_WITH = "task=reconstruct"
"""Other tasks damage slices in their own ways."""

_GENERATOR = "philox"  # TensorFlow's default differs under XLA.

_SEEDS = (
    *("count", "cutout_first", "share", "sigma", "blurred", "centers", "keep"),
    *("noise", "real", "imaginary", "corrupted"),
)
"""Draws whose seeds are the parts of the batch's seed, in this order. The list must not change, so
that runs of earlier versions resume with the same numbers. Other draws get seeds from their names.
"""

_Config = TypeVar("_Config")


def _with_flags_of_corruptions(config: type[_Config]) -> type[_Config]:
    for found in _training_flags():
        config.__annotations__[found.name] = float
        setattr(config, found.name, flag(found.help, 0.0, least=0, most=1, only_with=ONLY_WITH))
    return config


def _training_flags() -> list[TrainingFlag]:
    return [each.flag for each in CORRUPTIONS.values() if each.flag]


@dataclasses.dataclass(frozen=True)
@_with_flags_of_corruptions
class AugmentationConfig:
    """Which corruptions an image may get, and how often.

    The thesis states the blur of half of the images, cutout and coarse dropout, how many of them
    an image gets, and the range of the dropout. It does not state the sigmas and the patch size;
    those here are assumed (a fifth of the side is the default of the library that it used). It had
    no noise.

    Each entry of `CORRUPTIONS` with a flag adds a field of that flag's name: the strength of the
    corruption in all corrupted images. The default 0 turns it off.

    Attributes:
      fraction: share of the images that get any corruption.
      blur_fraction: share of the corrupted images that are blurred.
      blur_sigmas: sigmas in pixels; one is drawn for each batch.
      max_further: an image gets 0 to this many of {cutout, coarse dropout}, each number equally
        often.
      cutout_patches: number of black patches in a cutout.
      cutout_size: side of a patch as a share of the image's height.
      dropout_range: limits of the share of pixels that a coarse dropout sets to 0; uniform.
    """

    fraction: float = flag(
        "Share of the training inputs to corrupt.",
        1.0,
        name="augment_fraction",
        least=0,
        most=1,
        only_with=ONLY_WITH,
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
      config: possible corruptions.
      seed: int64 [2]; the same seed gives the same parameters.
      shape: (B, H, W) of the batch; H and W even.

    Returns:
      `sigma` int32 scalar (an index into `blur_sigmas`), `blurred` bool [B]; `centers` float32
      [B, K, 2] and `sizes` float32 [B, K] for `corruptions.zero_patches` (size 0 where an image
      gets no cutout); `keep` bool [B, H/2, W/2] for `corruptions.pixel_dropout`; the draws of each
      corruption in the table whose flag is above 0; `corrupted` bool [B] if `fraction` is below 1.
    """
    batch, height, width = shape
    uniform = _uniform_by_name(seed)

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
    """Returns `uniform(name, *sides)`: float32 in (0, 1), from the seed of the draw of that name.

    The numbers are the same on every device. TensorFlow's own random floats are not: under XLA it
    uses other bits of the same random integers.
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


def uniform_of_rows(index: tf.Tensor, *, seed: int, batch_size: int) -> Callable[..., tf.Tensor]:
    """Random numbers by name for a replica's rows of a global batch, as a `corruptions.Uniform`.

    The first side of what is asked for counts as the batch, whatever it is.

    Args:
      index: int64 [b], as for `augment`.
      seed: seed of the run.
      batch_size: size of the global batch.
    """
    uniform = _uniform_by_name(_seed_of_batch(index, seed, batch_size))

    def of_rows(name: str, *sides: int) -> tf.Tensor:
        if not sides:
            return uniform(name)
        return tf.gather(uniform(name, batch_size, *sides[1:]), index % batch_size)

    return of_rows


def _seed_of_batch(index: tf.Tensor, seed: int, batch_size: int) -> tf.Tensor:
    """The seed of the global batch that rows are of; rows that fill it up have the index -1."""
    block = tf.reduce_max(index) // batch_size
    return tf.stack([tf.constant(seed, tf.int64), block])


def apply(
    images: tf.Tensor, parameters: dict[str, tf.Tensor], config: AugmentationConfig
) -> tf.Tensor:
    """Corrupt images, float32 [B, H, W, 1] in [0, 1], with the parameters from `sample`."""
    clean = images
    if config.blur_sigmas and config.blur_fraction:
        blurs = [
            functools.partial(corruptions.gaussian_blur, images, s) for s in config.blur_sigmas
        ]
        blurred = tf.switch_case(parameters["sigma"], blurs)
        images = tf.where(parameters["blurred"][:, None, None, None], blurred, images)
    images = corruptions.zero_patches(images, parameters["centers"], parameters["sizes"])
    images = corruptions.pixel_dropout(images, parameters["keep"])
    for found in _training_flags():
        if found.draws.keys() <= parameters.keys():
            images = found.apply(images, **{name: parameters[name] for name in found.draws})
    if "corrupted" in parameters:
        images = tf.where(parameters["corrupted"][:, None, None, None], images, clean)
    return images


def augment(
    images: tf.Tensor, index: tf.Tensor, *, config: AugmentationConfig, seed: int, batch_size: int
) -> tf.Tensor:
    """Corrupt a replica's rows of a global batch.

    Args:
      images: float32 [b, H, W, 1] in [0, 1], the rows of this replica.
      index: int64 [b], each row's number in the order of all epochs: row `index % batch_size` of
        global batch `index // batch_size`.
      config: the possible corruptions.
      seed: seed of the run.
      batch_size: size of the global batch.
    """
    rows = index % batch_size
    _, height, width, _ = images.shape
    # Every replica draws for the whole global batch, which is cheap, and takes its own rows.
    seeds = _seed_of_batch(index, seed, batch_size)
    parameters = sample(config, seed=seeds, shape=(batch_size, height, width))
    sigma = parameters.pop("sigma")
    mine = {name: tf.gather(values, rows) for name, values in parameters.items()}
    return apply(images, mine | {"sigma": sigma}, config)
