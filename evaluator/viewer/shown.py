"""What a view shows: scan, anomaly map and marks in the axes of a viewer."""

import dataclasses

import numpy as np
from nibabel import orientations
from scipy import ndimage

from ixi_tfds.images.head import LEVEL, find_head
from ixi_tfds.images.resampling import Places, resample, weights
from ixi_tfds.nifti import AXES, Volume

VIEW_AXES = "RAS"

ABOVE = "Above the threshold"
"""The fact on a mark that the picture repeats."""

_LIMIT_PERCENTILE = 99.9
_THRESHOLD_PERCENTILE = 99.0
_SCAN_PERCENTILES = (0.1, 99.8)
_SMOOTHING_MM = 3.0
_DEPTH_MM = 12.0
_COARSE_MM = 4.0


@dataclasses.dataclass(frozen=True)
class Shown:
    """A scan and its anomaly map, in the axes right, anterior, superior.

    Attributes:
      scan: float32 [right, anterior, superior] in scanner units, finite.
      anomaly: the same for the anomaly map; 0 where the model never saw the voxel.
      seen: bool, whether the model saw the voxel.
      lesion: bool, mask to be outlined; None if there is none.
      affine: float64 [4, 4], from voxels to mm.
      window: where the window of training begins and ends, as shares of the width from left to
        right.
      levels: values of the scan that are shown black and white.
      limit: absolute anomaly at which colours saturate.
      threshold: absolute anomaly below which the overlay is transparent at first.
      place: voxel at which the view opens.
      is_mark: whether the map is the mark of an ensemble, which has no window of training.
    """

    scan: np.ndarray
    anomaly: np.ndarray
    seen: np.ndarray
    lesion: np.ndarray | None
    affine: np.ndarray
    window: tuple[float, float]
    levels: tuple[float, float]
    limit: float
    threshold: float
    place: tuple[int, int, int]
    is_mark: bool = False

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Sides of a voxel along right, anterior and superior, in mm."""
        right, anterior, superior = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return right, anterior, superior


def shown_of(
    volume: Volume,
    anomaly: np.ndarray,
    *,
    window: tuple[float, float],
    lesion: np.ndarray | None = None,
    levels: tuple[float, float] | None = None,
) -> Shown:
    """The view of a scan; the arguments are those of `write_view`.

    Without `levels`, limit and threshold are percentiles of the absolute anomaly in the window,
    deep in the head: in whole heads, eyes and scalp differ most. The view opens where the smoothed
    absolute anomaly there is largest, or at the thickest place of the lesion.
    """
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt(AXES), orientations.axcodes2ornt(VIEW_AXES)
    )

    def turned(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(orientations.apply_orientation(values, turn))

    shape = volume.voxels.shape
    scan = turned(volume.scaled(volume.voxels).astype(np.float32))
    finite = np.isfinite(scan)
    scan = np.where(finite, scan, scan[finite].min() if finite.any() else 0)
    values = turned(np.asarray(anomaly, np.float32))
    seen = np.isfinite(values)
    values = np.where(seen, values, 0)
    # AXES count slices to the right, as VIEW_AXES do.
    first, last = (float(np.clip(edge / shape[2], 0, 1)) for edge in window)
    marked = None if lesion is None else turned(np.asarray(lesion, bool))
    affine = volume.affine @ orientations.inv_ornt_aff(turn, shape)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    inside = seen & _between(scan.shape, first, last) & turned(_inner(volume))
    size = np.abs(values)
    threshold, limit = levels or _usual_levels(size, inside, seen)
    low, high = np.percentile(scan, _SCAN_PERCENTILES).tolist()
    return Shown(
        scan=scan,
        anomaly=values,
        seen=seen,
        lesion=marked,
        affine=affine,
        window=(first, last),
        levels=(low, high if high > low else low + 1),
        limit=limit,
        threshold=threshold,
        place=_place(np.where(inside, size, 0), marked, zooms),
        is_mark=levels is not None,
    )


def _usual_levels(size: np.ndarray, inside: np.ndarray, seen: np.ndarray) -> tuple[float, float]:
    """Threshold and limit from the absolute anomaly inside, or else where seen, or of all."""
    used = size[inside] if inside.any() else size[seen] if seen.any() else size.ravel()
    limit = float(np.percentile(used, _LIMIT_PERCENTILE)) or float(size.max()) or 1.0
    return min(float(np.percentile(used, _THRESHOLD_PERCENTILE)), limit), limit


def shrunk(shown: Shown, side: float) -> Shown:
    """The same view with voxels of at least `side` mm along each axis, averaged, not picked."""
    zooms = shown.zooms
    old = [Places(n, zoom) for n, zoom in zip(shown.scan.shape, zooms, strict=True)]
    new = [_coarser(places, side) for places in old]
    matrices = weights(new, old)
    # Voxels as shares of the old ones, and where the first of them lies.
    scale = np.diag([*(a.side / b.side for a, b in zip(new, old, strict=True)), 1.0])
    scale[:3, 3] = [a.first / b.side for a, b in zip(new, old, strict=True)]
    place = (np.linalg.inv(scale) @ [*shown.place, 1.0])[:3]
    i, j, k = (int(np.clip(round(at), 0, a.n - 1)) for at, a in zip(place, new, strict=True))

    def mask(marked: np.ndarray) -> np.ndarray:
        return resample(marked.astype(np.float32), matrices) >= 0.5

    wide, fits = new[0], old[0].n * old[0].side / (new[0].n * new[0].side)
    start = (wide.first - wide.side / 2 + zooms[0] / 2) / (wide.n * wide.side)
    first, last = (float(np.clip(edge * fits - start, 0, 1)) for edge in shown.window)
    return dataclasses.replace(
        shown,
        scan=resample(shown.scan, matrices),
        anomaly=resample(shown.anomaly, matrices),
        seen=mask(shown.seen),
        lesion=None if shown.lesion is None else mask(shown.lesion),
        affine=shown.affine @ scale,
        window=(first, last),
        place=(i, j, k),
    )


def _coarser(places: Places, side: float) -> Places:
    """Places of at least `side` mm over the same length, around the same middle."""
    side = max(side, places.side)
    n = max(1, round(places.n * places.side / side))
    return Places(n, side, ((places.n - 1) * places.side - (n - 1) * side) / 2)


def _inner(volume: Volume) -> np.ndarray:
    """The upper half of the head without its outermost `_DEPTH_MM`, bool, in the volume's axes."""
    head, shape = find_head(volume), volume.voxels.shape
    steps = [max(1, int(_COARSE_MM / side)) for side in volume.zooms]
    picked = tuple(slice(None, None, step) for step in steps)
    distance = np.nan_to_num(np.abs(volume.scaled(volume.voxels[picked]) - head.background))
    mass = ndimage.binary_fill_holes(distance > LEVEL * np.percentile(distance, 99.5))
    sides = [step * side for step, side in zip(steps, volume.zooms, strict=True)]
    deep = ndimage.distance_transform_edt(np.pad(mass, 1), sampling=sides) > _DEPTH_MM
    deep = deep[1:-1, 1:-1, 1:-1]
    deep[:, : round(head.middle[1] / steps[1])] = False
    for axis, step in enumerate(steps):
        deep = np.repeat(deep, step, axis)
    p, s, r = shape
    return deep[:p, :s, :r]


def _between(shape: tuple[int, ...], first: float, last: float) -> np.ndarray:
    """Voxels whose middle lies between two shares of the width, bool [right, 1, 1]."""
    middles = (np.arange(shape[0]) + 0.5) / shape[0]
    return ((middles >= first) & (middles < last))[:, None, None]


def _place(size: np.ndarray, lesion: np.ndarray | None, zooms: np.ndarray) -> tuple[int, int, int]:
    wanted = size if lesion is None or not lesion.any() else lesion.astype(np.float32)
    smooth = ndimage.gaussian_filter(wanted, _SMOOTHING_MM / zooms)
    if not smooth.any():
        i, j, k = (n // 2 for n in size.shape)
    else:
        i, j, k = map(int, np.unravel_index(np.argmax(smooth), size.shape))
    return i, j, k
