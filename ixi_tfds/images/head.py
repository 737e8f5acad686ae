"""Where the head lies in a volume, and the value of the background around it."""

import dataclasses

import numpy as np

from ixi_tfds.nifti import Volume

LEVEL = 0.1
"""A voxel is foreground if it differs from the background by more than this share of the range."""

HEIGHT_MM = 170.0
"""Only the top of the foreground counts as head: a neck in the field of view moves nothing."""

_TAIL = 0.01
_TOP_TAIL = 0.002
_RANGE_PERCENTILE = 99.5


@dataclasses.dataclass(frozen=True)
class Head:
    """The box around a head, in voxels along posterior, superior and right.

    Coordinates are continuous and count from the centre of the first voxel. The box leaves out 1%
    of the head at each end of each axis, so that specks in the background do not matter.

    Attributes:
      background: value of the background in scanner units, as from `background_of`.
      low: lower end of the box.
      high: upper end of the box.
    """

    background: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @property
    def middle(self) -> tuple[float, float, float]:
        """Middle of the box, in voxels."""
        p, s, r = ((a + b) / 2 for a, b in zip(self.low, self.high, strict=True))
        return p, s, r


def background_of(volume: Volume) -> float:
    """The value of the background in scanner units: the median of the voxels of the six faces."""
    planes = [np.moveaxis(volume.voxels, axis, 0) for axis in range(3)]
    faces = [axis[end].ravel() for axis in planes for end in (0, -1)]
    return float(np.median(volume.scaled(np.concatenate(faces))))


def tilt_of(affine: np.ndarray) -> float:
    """Largest angle between an axis of the voxels and the scanner's axis next to it, in degrees.

    0 for straight heads, at most 54.7. `affine` is [4, 4], from voxels to mm.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    nearest = np.abs(axes).max(axis=0).min()
    return float(np.degrees(np.arccos(min(1.0, nearest))))


def find_head(volume: Volume, every_mm: float = 3.0) -> Head:
    """Find the head by the share of foreground in planes along each axis.

    A shift of the head in its file shifts the result alike, whatever the number of slices or the
    padding around it. Without foreground, the box is the whole volume.

    Args:
      volume: a volume with finite voxels.
      every_mm: distance of the voxels that are looked at, if the voxels are smaller than this.
    """
    background = background_of(volume)
    shape = volume.voxels.shape
    steps = [
        max(1, int(min(every_mm / side, n))) for side, n in zip(volume.zooms, shape, strict=True)
    ]
    starts = [min(step // 2, n - 1) for step, n in zip(steps, shape, strict=True)]
    picked = tuple(slice(a, None, step) for a, step in zip(starts, steps, strict=True))
    edges = [
        np.minimum(np.arange(len(range(n)[part]) + 1) * step, n) - 0.5
        for n, part, step in zip(shape, picked, steps, strict=True)
    ]
    # Stored voxels are enough to tell foreground, and conversion to scanner units takes longer.
    distance = volume.voxels[picked].astype(np.float32, order="F")
    distance -= np.float32((background - volume.inter) / volume.slope)
    np.abs(distance, out=distance)
    wide = np.percentile(distance[::2, ::2, ::2], _RANGE_PERCENTILE)
    mass = (distance > LEVEL * wide).astype(np.float32)
    by_depth, by_row = mass.sum(axis=0), mass.sum(axis=2)
    top = _quantile(by_depth.sum(axis=1), edges[1], 1 - _TOP_TAIL)
    # Planes below the head weigh nothing, and the one at its lower end in part.
    above = edges[1][1:] - (top - HEIGHT_MM / volume.zooms[1])
    kept = np.clip(above / np.diff(edges[1]), 0.0, 1.0)
    profiles = [by_row @ kept, by_row.sum(axis=0) * kept, kept @ by_depth]
    ends = [
        [_quantile(profile, edge, share) for profile, edge in zip(profiles, edges, strict=True)]
        for share in (_TAIL, 1 - _TAIL)
    ]
    (low_p, low_s, low_r), (high_p, high_s, high_r) = ends
    return Head(background, (low_p, low_s, low_r), (high_p, high_s, high_r))


def _quantile(profile: np.ndarray, edges: np.ndarray, share: float) -> float:
    """Where a share of a profile lies below, linear within a plane; without mass, of the edges."""
    sums = np.concatenate([[0.0], np.cumsum(profile, dtype=np.float64)])
    if not sums[-1]:
        return float(edges[0] if share < 0.5 else edges[-1])
    # Planes without mass would make the answer ambiguous.
    keep = np.concatenate([[True], np.diff(sums) > 0])
    keep[:-1] |= keep[1:]
    return float(np.interp(share * sums[-1], sums[keep], edges[keep]))
