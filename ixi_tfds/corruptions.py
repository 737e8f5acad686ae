"""What can go wrong with a slice: blur, black patches, lost pixels, noise, as tensor functions.

Every function takes float32 images [B, H, W, C] in [0, 1] and gives the same. None draws a random
number: whoever calls samples the parameters, so that training's augmentation and the evaluator's
robustness tests apply one and the same operation, exactly testable. All work in graphs and compile
under XLA.
"""

import math
import warnings

import tensorflow as tf

with warnings.catch_warnings():
    # It announces on import that it is no longer developed; docs tell that story once.
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa


def gaussian_blur(images: tf.Tensor, sigma: float) -> tf.Tensor:
    """Blur all images by one Gaussian, the borders reflected.

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      sigma: standard deviation in pixels, above 0; a Python number, for the kernel's size
        (cut off at 3 sigma) depends on it.
    """
    side = 2 * math.ceil(3 * sigma) + 1
    # Rows, then columns: the same result as one square kernel for a fraction of the work.
    for shape in ((side, 1), (1, side)):
        images = tfa.image.gaussian_filter2d(images, filter_shape=shape, sigma=float(sigma))
    return images


def zero_patches(images: tf.Tensor, centers: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Set square patches to 0; parts beyond the border are cut off.

    `tfa.image.cutout` does the same for one size a batch, but does not compile under XLA.

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      centers: float32 [B, K, 2], (row, column) of K patches an image, in pixels; the centre of the
        first pixel is 0.
      sizes: float32 [B, K], sides in pixels; 0 leaves a patch out. A pixel is inside when
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
      keep: bool [B, h, w] with h dividing H and w dividing W; each entry decides for a block of
        H/h x W/w pixels, so a mask of half the resolution makes black 2x2 blocks.
    """
    rows = images.shape[1] // keep.shape[1]
    columns = images.shape[2] // keep.shape[2]
    mask = tf.repeat(tf.repeat(tf.cast(keep, images.dtype), rows, axis=1), columns, axis=2)
    return images * mask[..., None]


def gaussian_noise(images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Add `noise` (of the images' shape, in their units) and clip to [0, 1]."""
    return tf.clip_by_value(images + noise, 0.0, 1.0)


def rician_noise(images: tf.Tensor, real: tf.Tensor, imaginary: tf.Tensor) -> tf.Tensor:
    """Add noise as a magnitude image has it, `sqrt((x + real)^2 + imaginary^2)`, clipped to [0, 1].

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      real: noise of the real channel, of the images' shape and in their units.
      imaginary: noise of the imaginary channel, likewise.
    """
    magnitude = tf.sqrt(tf.square(images + real) + tf.square(imaginary))
    return tf.clip_by_value(magnitude, 0.0, 1.0)
