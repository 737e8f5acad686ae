"""Corrupting the input slices on the device: parameters are sampled, then applied.

The parameters are a function of the seed and of a slice's place in the order of the epoch, not of
the replica that holds it: any number of replicas or workers sees the same corruptions, and so does
a run that was stopped and resumed.
"""

import dataclasses

import tensorflow as tf

from ixi_tfds import corruptions

_GENERATOR = "philox"  # Left to itself, TensorFlow takes another one under XLA.


def _uniform(shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Uniform in (0, 1), float32, the same on every device.

    TensorFlow's own floats take other bits of the same random integers under XLA.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg=_GENERATOR)
    return (tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5) * 2.0**-23


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """What may happen to a slice, and how often.

    The thesis states the blurred half, the two further corruptions, their number and the dropout;
    it does not state sigmas and patch size: those here are assumed (patches of a fifth of the
    side, as the library it used has them by default). It had no noise.

    Attributes:
      fraction: share of the images that is corrupted at all.
      blur_fraction: share of these that is blurred.
      blur_sigmas: one of these, in pixels, is drawn for a whole batch.
      max_further: of {cutout, coarse dropout}, 0 to this many are applied, all numbers alike.
      cutout_patches: black patches that a cutout sets.
      cutout_size: side of a patch as a share of the image's height.
      dropout_range: share of pixels that a coarse dropout blackens, uniform in this range.
      gaussian_noise: standard deviation of Gaussian noise added to all of these; 0 is off.
      rician_noise: standard deviation in both channels of Rician noise; 0 is off.
    """

    fraction: float = 1.0
    blur_fraction: float = 0.5
    blur_sigmas: tuple[float, ...] = (0.5, 1.0, 1.5)
    max_further: int = 2
    cutout_patches: int = 2
    cutout_size: float = 0.2
    dropout_range: tuple[float, float] = (0.0, 0.05)
    gaussian_noise: float = 0.0
    rician_noise: float = 0.0


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
      and, where noise is on, `noise`, `real`, `imaginary` float32 [B, H, W, 1]; and, where not
      all images are to be corrupted, `corrupted` bool [B].
    """
    batch, height, width = shape
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 11, alg=_GENERATOR))

    def uniform(number: int, *sides: int) -> tf.Tensor:
        return _uniform(sides, seeds[number])

    # How many of the two further corruptions, and which one if it is one.
    count = tf.cast(uniform(0, batch) * (config.max_further + 1), tf.int32)
    cutout_first = uniform(1, batch) < 0.5
    cutout = (count == 2) | ((count == 1) & cutout_first)
    dropout = (count == 2) | ((count == 1) & ~cutout_first)

    side = round(config.cutout_size * height)
    low, high = config.dropout_range
    share = tf.where(dropout, low + (high - low) * uniform(2, batch), 0.0)
    parameters = {
        "sigma": tf.cast(uniform(3) * len(config.blur_sigmas), tf.int32),
        "blurred": uniform(4, batch) < config.blur_fraction,
        "centers": uniform(5, batch, config.cutout_patches, 2) * (float(height), float(width)),
        "sizes": tf.where(cutout, float(side), 0.0)[:, None] * tf.ones(config.cutout_patches),
        "keep": uniform(6, batch, height // 2, width // 2) >= share[:, None, None],
    }
    noises = (
        ("noise", config.gaussian_noise),
        ("real", config.rician_noise),
        ("imaginary", config.rician_noise),
    )
    for number, (name, deviation) in enumerate(noises, start=7):
        if deviation:
            normal = tf.math.ndtri(_uniform((batch, height, width, 1), seeds[number]))
            parameters[name] = deviation * normal
    if config.fraction < 1:
        parameters["corrupted"] = uniform(10, batch) < config.fraction
    return parameters


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
    if "noise" in parameters:
        images = corruptions.gaussian_noise(images, parameters["noise"])
    if "real" in parameters:
        images = corruptions.rician_noise(images, parameters["real"], parameters["imaginary"])
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
