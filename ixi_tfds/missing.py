"""Voxels that are NaN: background where they surround the head, a fault inside it."""

import numpy as np
from etils import epy

with epy.lazy_imports():
    import scipy.ndimage

_LEAST_BORDER = 0.5


def fill_outside(voxels: np.ndarray, *, falling: bool = False) -> np.ndarray:
    """Replace NaN by the value of the background, if all of them lie outside the head.

    Masking tools write NaN around a head. The value of the background is the median of the voxels
    of the six faces if at least half of these are no NaN, otherwise the lowest value.

    Args:
      voxels: [i, j, k] of any real type, as stored.
      falling: whether scanner units fall with stored values: the slope is negative.

    Returns:
      The same array if it has no NaN, or some inside the head; otherwise a new one of its type.
    """
    if voxels.dtype.kind != "f" or not _holds_nan(voxels):
        return voxels
    missing = np.isnan(voxels)
    if missing.all() or inside_head(missing).any():
        return voxels
    known = voxels[~missing]
    planes = [np.moveaxis(voxels, axis, 0) for axis in range(3)]
    border = np.concatenate([planes[axis][end].ravel() for axis in range(3) for end in (0, -1)])
    seen = border[~np.isnan(border)]
    if len(seen) >= _LEAST_BORDER * len(border):
        value = np.median(seen)
    else:
        value = known.max() if falling else known.min()
    return np.where(missing, voxels.dtype.type(value), voxels).astype(voxels.dtype, copy=False)


def inside_head(missing: np.ndarray) -> np.ndarray:
    """Which of the missing voxels lie inside the head, bool of the same shape.

    These are groups of neighbours that reach no face of the volume, and whole planes between others
    that are not missing as a whole.
    """
    groups, _ = scipy.ndimage.label(missing)
    faces = [np.moveaxis(groups, axis, 0)[end] for axis in range(3) for end in (0, -1)]
    outside = np.zeros(groups.max() + 1, bool)
    outside[np.unique(np.concatenate([face.ravel() for face in faces]))] = True
    inside = missing & ~outside[groups]
    for axis in range(3):
        empty = np.all(missing, axis=tuple(other for other in range(3) if other != axis))
        full = np.flatnonzero(~empty)
        if len(full):
            between = np.zeros_like(empty)
            between[full[0] : full[-1]] = empty[full[0] : full[-1]]
            np.moveaxis(inside, axis, 0)[between] = True
    return inside


def where_not_finite(voxels: np.ndarray) -> str:
    """Which voxels [posterior, superior, right] are not finite, as the end of a message."""
    missing = np.isnan(voxels)
    infinite = np.isinf(voxels)
    if infinite.any():
        bad, kind = infinite, "infinite"
    elif missing.all():
        return "holds nothing but NaN"
    else:
        bad, kind = inside_head(missing), "NaN inside the head"
    first = ", ".join(map(str, np.argwhere(bad)[0].tolist()))
    return (
        f"holds {int(bad.sum())} voxels that are {kind}, the first at [{first}] (posterior, "
        "superior, right)"
    )


def _holds_nan(voxels: np.ndarray) -> bool:
    # The lowest value of an array with NaN is NaN; nothing of the array's size is made.
    with np.errstate(invalid="ignore"):
        return bool(np.isnan(voxels.min()))
