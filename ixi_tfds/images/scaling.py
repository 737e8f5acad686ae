"""Scaling scanner values to 8 bits and to [0, 1], and back, in NumPy and in TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epy

from ixi_tfds.config import SliceConfig
from ixi_tfds.images.resampling import crop_starts, pixels_inside, resampled_slices
from ixi_tfds.nifti import Volume, has_few_levels

with epy.lazy_imports():
    import tensorflow as tf

PERCENTILES = (0.5, 99.5)
"""The robust range of `volume` scaling, in percent of the window's voxels."""


def quantize(values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Map scanner values to uint8 so that `low` becomes 0 and `high` 255.

    Values beyond the range are clipped. The rule is `floor(255 * (v - low) / (high - low) +
    0.499999999)` in double precision: nearest, with ties going down, as imageio 2.8 rounds when it
    stretches a float image to 8 bits. That the thesis's slices were made this way is inferred from
    its tools, not stated in its text. An empty range (`high <= low`) gives zeros.

    Args:
      values: scanner values, any shape.
      low: scanner value of 0; an array is broadcast by the rules of NumPy.
      high: scanner value of 255, likewise.
    """
    high = np.maximum(low, high)
    span = np.where(high > low, high - low, 1.0)
    # In place: new arrays would take most of the time.
    share = np.clip(np.asarray(values, np.float64), low, high)
    share -= low
    share /= span
    share *= 255.0
    share += 0.499999999
    return share.astype(np.uint8)


def scale_to_unit(slices: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """`to_unit` of the result of `quantize`, in TensorFlow.

    The levels equal those of `quantize` if the scanner values are exact in float32, the input type
    of exported models (all integers of IXI are exact). If `scl_slope` makes them inexact, ties may
    round the other way: on the 62 heads at 2 mm, 0.3% of the voxels differ, by one level of 255.

    The operations and their order are part of the graph of exported models.

    Args:
      slices: float64 [B, H, W] in scanner units.
      low: float64 [B, 1, 1], scanner value of 0.
      high: float64 [B, 1, 1], scanner value of 1.

    Returns:
      float32 [B, H, W, 1].
    """
    empty = high <= low
    span = tf.where(empty, tf.ones_like(low), high - low)
    share = (tf.minimum(tf.maximum(slices, low), high) - low) / span
    levels = tf.floor(share * 255.0 + 0.499999999)
    levels = tf.where(empty, tf.zeros_like(levels), levels)
    return to_unit(levels)[..., None]


def to_unit(images: Any) -> Any:
    """Levels from 0 to 255 as float32 in [0, 1]; NumPy arrays stay arrays, tensors tensors."""
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) / np.float32(255)
    return tf.cast(images, tf.float32) / 255.0


def dequantize(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scanner values of 8-bit levels, float64; the error is at most half of (high - low) / 255."""
    return low + np.asarray(image, np.float64) * (high - low) / 255.0


def percentile_range(volume: Volume, config: SliceConfig) -> tuple[float, float]:
    """The robust range of a volume in scanner units, over the voxels of the config's window.

    The window is `config.window` slices of the in-plane crop to `config.size`; padding is
    excluded. A percentile is the smallest value with at least that share of the voxels at or below
    it (NumPy's "inverted_cdf"), so it is a value of the volume, without interpolation. With
    `config.spacing`, the voxels are those of the resampled volume.
    """
    if config.spacing is not None:
        return range_of_slices(resampled_slices(volume, config), *pixels_inside(volume, config))
    window = crop(volume.voxels[:, :, slice(*config.window)], config.size)
    lowest = window.min()
    if has_few_levels(window.dtype, lowest, window.max()):
        counts = np.bincount(np.subtract(window, lowest, dtype=np.int64).ravel())
        wanted = [np.ceil(q / 100 * window.size) for q in PERCENTILES]
        stored = int(lowest) + np.searchsorted(np.cumsum(counts), np.maximum(wanted, 1))
    else:
        stored = np.percentile(window, PERCENTILES, method="inverted_cdf")
    low, high = sorted(volume.scaled(stored).tolist())
    return low, high


def range_of_slices(
    slices: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """The robust range of slices [n, height, width] over some rows and columns, bool each."""
    low, high = np.percentile(slices[:, rows][..., columns], PERCENTILES, method="inverted_cdf")
    return float(low), float(high)


def stored_plane(
    plane: np.ndarray, limits: tuple[float, float] | None
) -> tuple[np.ndarray, float, float]:
    """A plane in scanner units in its stored form; see `stored_slice`."""
    low, high = limits or (float(plane.min()), float(plane.max()))
    return quantize(plane, low, high), low, high


def stored_slice(
    volume: Volume,
    index: int,
    config: SliceConfig,
    limits: tuple[float, float] | None,
    background: float = 0.0,
) -> tuple[np.ndarray, float, float]:
    """One slice of a volume in its stored form.

    The plane is first cropped or padded to `config.size` and then scaled, so that a slice's own
    extrema include the padding.

    Args:
      volume: the scan.
      index: index of the slice, along the last axis.
      config: window, size and scaling.
      limits: (low, high) in scanner units, or None for the slice's own extrema.
      background: value of the padding, in scanner units.

    Returns:
      The image, uint8 [height, width], and the scanner values of 0 and 255.
    """
    # In the row-major order of the result: the steps below are fastest in one order.
    plane = np.ascontiguousarray(crop(volume.voxels[:, :, index], config.size))
    padding = _padding(plane.shape, config.size)
    padded = any(before or after for before, after in padding)
    lowest, highest = plane.min(), plane.max()
    if limits is None:
        extremes = volume.scaled(np.array([lowest, highest])).tolist()
        limits = min(extremes), max(extremes)
        if padded:
            limits = min(limits[0], background), max(limits[1], background)
    low, high = limits
    if has_few_levels(plane.dtype, lowest, highest):
        # Scaling each level once and looking voxels up is exact and several times as fast. A voxel
        # is its index in the table: negative voxels count from the end.
        levels = np.arange(max(int(highest), 0) + 1), np.arange(min(int(lowest), 0), 0)
        image = quantize(volume.scaled(np.concatenate(levels)), low, high).take(plane)
    else:
        image = quantize(volume.scaled(plane), low, high)
    if padded:
        level = quantize(np.array(background), low, high)
        image = np.pad(image, padding, constant_values=level)
    return image, low, high


def crop(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of the first two axes, no larger than `size`; an odd voxel is cut at the end."""
    starts = crop_starts(planes.shape, size)
    return planes[starts[0] : starts[0] + size[0], starts[1] : starts[1] + size[1]]


def _padding(shape: tuple[int, ...], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Padding of each of the two axes, (before, after)."""
    missing = [want - have for have, want in zip(shape, size, strict=True)]
    return [(lacks // 2, lacks - lacks // 2) for lacks in missing]
