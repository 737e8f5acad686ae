"""Resampling: the slices of a volume on another grid, and values of slices on the volume's grid.

Along each axis the result is a weighted mean of the voxels near it. The kernel is a triangle as
wide as the larger of both voxels, so that fine detail does not alias and values stay in the range
of the input. Pixels whose centres lie outside the volume are background.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from etils import epy

from ixi_tfds.config import SliceConfig
from ixi_tfds.images.head import Head, find_head
from ixi_tfds.nifti import Volume

with epy.lazy_imports():
    import scipy.sparse

Weights: TypeAlias = "tuple[scipy.sparse.csr_array, scipy.sparse.csr_array, scipy.sparse.csr_array]"
"""Matrices [result, source] along posterior, superior and right."""

_EXACT = 1e-9


@dataclasses.dataclass(frozen=True)
class Places:
    """Evenly spaced places along an axis: `n` of them, `side` mm apart, the first at `first` mm.

    Millimetres count from the centre of the volume's first voxel.
    """

    n: int
    side: float
    first: float = 0.0


def places_of(volume: Volume) -> tuple[Places, Places, Places]:
    """The voxels of a volume along posterior, superior and right."""
    p, s, r = (Places(n, side) for n, side in zip(volume.voxels.shape, volume.zooms, strict=True))
    return p, s, r


def slice_places(
    volume: Volume, config: SliceConfig, head: Head | None = None
) -> tuple[Places, Places, Places]:
    """Where the pixels of a config's slices lie in a volume: rows, columns, and all slices.

    Slices are numbered as in `config.window`. Number 0 of a window in mm is its first slice, of a
    window by number the first slice of the resampled volume.

    Args:
      volume: the scan.
      config: a config with `spacing`.
      head: the result of `find_head`, if the caller has it already.

    Returns:
      `config.size` rows and columns, around the middle of the head if the window is in mm, else
      around the middle of the volume; and the slices: those of a window in mm, or all slices of
      the volume.
    """
    if config.spacing is None:
        raise ValueError(f"the config {config.name} has no spacing")
    if config.window_mm is None:
        middle = [(n - 1) / 2 for n in volume.voxels.shape]
    else:
        middle = list((head or find_head(volume)).middle)
    centre = [place * side for place, side in zip(middle, volume.zooms, strict=True)]
    rows, columns = (
        Places(n, side, at - (n - 1) / 2 * side)
        for n, side, at in zip(config.size, config.spacing, centre, strict=False)
    )
    side = config.spacing[2]
    if config.window_mm is None:
        n = max(1, round(volume.voxels.shape[2] * volume.zooms[2] / side))
        first = centre[2] - (n - 1) / 2 * side
    else:
        n = config.slices_per_volume
        first = centre[2] + config.window_mm[0] + side / 2
    return rows, columns, Places(n, side, first)


def weights(result: Sequence[Places], source: Sequence[Places]) -> Weights:
    """The matrices that bring values at places along three axes to other places."""
    p, s, r = (_weights(a, b) for a, b in zip(result, source, strict=True))
    return p, s, r


def resample(values: np.ndarray, matrices: Weights, background: float = 0.0) -> np.ndarray:
    """Values [p, s, r] at the rows of the matrices, as float of the same or 64-bit precision.

    Places outside the volume get `background`.
    """
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    # Products are fastest in row-major order and along its first axis. In most volumes the axes
    # are reversed.
    turned = values.flags.f_contiguous
    result = values.T if turned else values
    in_order = matrices[::-1] if turned else matrices
    growth = [matrix.shape[0] / matrix.shape[1] for matrix in in_order]
    for axis in sorted(range(3), key=lambda axis: max(1.0, growth[axis])):
        result = _product(in_order[axis].astype(values.dtype), result, axis)
    result = result.T if turned else result
    for axis, matrix in enumerate(matrices):
        np.moveaxis(result, axis, 0)[~reached(matrix)] = background
    return result


def crop_starts(shape: Sequence[int], size: tuple[int, int]) -> list[int]:
    """First row and column of a plane's middle, no larger than `size`; an odd voxel is at the end.

    Only the first two sides of `shape` count.
    """
    return [max(0, (side - most) // 2) for side, most in zip(shape, size, strict=False)]


def share_cropped(volume: Volume, config: SliceConfig, head: Head) -> float:
    """Share of the head's box, in the plane of the slices, that the stored slices leave out."""
    if config.spacing is None:
        starts = crop_starts(volume.voxels.shape, config.size)
        fields = [
            (start - 0.5, start + most - 0.5)
            for start, most in zip(starts, config.size, strict=True)
        ]
    else:
        places = slice_places(volume, config, head)[:2]
        fields = [
            ((each.first - each.side / 2) / side, (each.first + (each.n - 0.5) * each.side) / side)
            for each, side in zip(places, volume.zooms, strict=False)
        ]
    kept = 1.0
    for (start, end), low, high in zip(fields, head.low, head.high, strict=False):
        kept *= max(0.0, min(end, high) - max(start, low)) / (high - low)
    return 1 - kept


def _product(matrix: scipy.sparse.csr_array, values: np.ndarray, axis: int) -> np.ndarray:
    """A matrix times an array along one of its three axes; fastest for a row-major array."""
    values = np.ascontiguousarray(values)
    a, b, c = values.shape
    if axis == 0:
        return (matrix @ values.reshape(a, b * c)).reshape(-1, b, c)
    if axis == 1:
        return np.stack([matrix @ plane for plane in values])
    return (matrix @ values.reshape(a * b, c).T).reshape(-1, a, b).transpose(1, 2, 0)


def reached(matrix: scipy.sparse.csr_array) -> np.ndarray:
    """Which results of a matrix have any source, bool [result]."""
    return np.diff(matrix.indptr) > 0


def source_window(volume: Volume, config: SliceConfig, head: Head | None = None) -> tuple[int, int]:
    """The slices [first, last) of the volume itself that the window of a config lies in.

    Without `spacing` this is `config.window`. With it, slices that do not exist in the volume are
    left out, and one at least is kept.
    """
    if config.spacing is None:
        return config.window
    *_, depths = slice_places(volume, config, head)
    side = volume.zooms[2]
    first, last = (depths.first + index * depths.side for index in config.window)
    # The ends of the window, in voxels; slices whose centres lie in it.
    low, high = ((end - depths.side / 2) / side for end in (first, last))
    n = volume.voxels.shape[2]
    start = min(max(0, math.ceil(low - _EXACT)), n - 1)
    return start, min(max(start + 1, math.ceil(high - _EXACT)), n)


def pixels_inside(
    volume: Volume, config: SliceConfig, head: Head | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and which columns of the slices of a config with `spacing` lie in the volume."""
    places = slice_places(volume, config, head)
    rows, columns, _ = weights(places, places_of(volume))
    return reached(rows), reached(columns)


def resampled_slices(volume: Volume, config: SliceConfig, head: Head | None = None) -> np.ndarray:
    """The slices of a config with `spacing`, float32 [n, height, width] in scanner units.

    Args:
      volume: the scan.
      config: a config with `spacing`.
      head: the result of `find_head`, if the caller has it already.

    Raises:
      ValueError: the volume lacks slices of the window; `ixi_tfds.slices` refuses it before.
    """
    head = head or find_head(volume)
    rows, columns, depths = slice_places(volume, config, head)
    first, last = config.window
    if last > depths.n:
        raise ValueError(f"the volume has {depths.n} slices, the window needs {last}")
    kept = Places(last - first, depths.side, depths.first + first * depths.side)
    matrices = weights((rows, columns, kept), places_of(volume))
    # Only the part of the volume that the slices are made of is read.
    used = [np.flatnonzero(np.diff(matrix.tocsc().indptr)) for matrix in matrices]
    parts = [slice(places[0], places[-1] + 1) if places.size else slice(0, 1) for places in used]
    values = volume.voxels[tuple(parts)].astype(np.float32, order="F")
    p, s, r = (matrix[:, part] for matrix, part in zip(matrices, parts, strict=True))
    # Means of stored voxels are scaled, which are fewer.
    background = (head.background - volume.inter) / volume.slope
    made = np.ascontiguousarray(resample(values, (p, s, r), background).transpose(2, 0, 1))
    made *= np.float32(volume.slope)
    made += np.float32(volume.inter)
    return made


def _weights(result: Places, source: Places) -> scipy.sparse.csr_array:
    """Weights of the source's places in each place of the result, sparse [result, source]."""
    at = result.first + np.arange(result.n) * result.side - source.first
    width = max(result.side, source.side)
    reach = int(np.ceil(width / source.side)) + 1
    near = np.rint(at / source.side).astype(int)[:, None] + np.arange(-reach, reach + 1)
    distance = np.abs(at[:, None] - near * source.side) / width
    distance[distance < _EXACT] = 0.0
    distance[np.abs(distance - 1) < _EXACT] = 1.0
    values = np.maximum(0.0, 1.0 - distance)
    values[(near < 0) | (near >= source.n)] = 0.0
    # Half a voxel beyond the outermost centres the volume ends.
    inside = (at > -0.5 * source.side - _EXACT) & (at < (source.n - 0.5) * source.side + _EXACT)
    values[~inside] = 0.0
    total = values.sum(axis=1, keepdims=True)
    values = np.divide(values, total, where=total > 0, out=values)
    row, entry = np.nonzero(values)
    return scipy.sparse.csr_array(
        (values[row, entry], (row, near[row, entry])), shape=(result.n, source.n)
    )
