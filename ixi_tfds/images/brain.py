"""The brain of a scan in the box of a config, on one scale of tissues.

This is all that models of brains ever see, in training and in use.
"""

import dataclasses
import hashlib
import math

import numpy as np
from etils import epy

from ixi_tfds.config import PLANES, SliceConfig, in_words
from ixi_tfds.images.head import background_of
from ixi_tfds.images.look import BETWEEN_KINDS, look_of
from ixi_tfds.images.resampling import Places, places_of, resample, weights
from ixi_tfds.images.tissue import clean_mask, scale_tissues, scaling_steps
from ixi_tfds.nifti import Volume
from ixi_tfds.system.errors import ScanError

with epy.lazy_imports():
    import scipy.ndimage

_CLOSING_MM = 4.0
_CLOSING_STRIPPED_MM = 2.0
_SAME_PLACE = 0.01  # of a voxel

_MOST_TURN = 12.0  # degrees
_MOST_SCALE = 0.08
_MOST_SHIFT_MM = 6.0


@dataclasses.dataclass(frozen=True)
class Brain:
    """A brain in a box of voxels along posterior, superior and right.

    Attributes:
      values: float32 [p, s, r] on the scale of `tissue.scale_tissues`, 0 outside the mask.
      mask: bool [p, s, r].
      places: of the box in the scan.
      outside: share of the brain that lies outside the box.
    """

    values: np.ndarray
    mask: np.ndarray
    places: tuple[Places, Places, Places]
    outside: float


def brain_mask(volume: Volume, path: str, mask: Volume | None) -> np.ndarray:
    """The brain of a scan on its own grid, bool [p, s, r].

    Args:
      volume: the scan, skull-stripped if `mask` is None.
      path: of the scan, for messages.
      mask: a mask or label map on the scan's grid; what is above 0.5 is brain.

    Raises:
      ScanError: the mask is of another grid or empty, or there is none and the head is whole.
    """
    if mask is not None:
        _check_same_grid(volume, path, mask)
        inside, closing = mask.scaled(mask.voxels) > 0.5, _CLOSING_MM
    elif look_of(volume).shell < BETWEEN_KINDS:
        values = volume.scaled(volume.voxels)
        inside, closing = values != background_of(volume), _CLOSING_STRIPPED_MM
    else:
        raise ScanError(
            "no_brain_mask",
            path,
            "is a whole head, and a model of brains needs a mask of its brain: make one with "
            "HD-BET or SynthStrip, see docs/lesions.md, and pass it by --brain_masks",
        )
    try:
        return clean_mask(inside, max(1, round(closing / max(volume.zooms))))
    except ValueError:
        raise ScanError("no_brain_mask", path, "the mask of its brain is empty") from None


def brain_of(volume: Volume, path: str, mask: np.ndarray, config: SliceConfig) -> Brain:
    """The brain in the box of a config, around the middle of its mask.

    A voxel of the box is the mean of the brain's voxels near it, so a whole head with a mask gives
    what the same head gives after its skull was removed.

    Args:
      volume: the scan.
      path: of the scan, for messages.
      mask: bool [p, s, r], result of `brain_mask`.
      config: a config with the scaling by tissue.

    Raises:
      ScanError: nothing in the brain is brighter than the background.
    """
    if config.spacing is None:
        raise ValueError(f"the config {config.name} has no spacing")
    source = places_of(volume)
    result = tuple(
        Places(n, side, _middle(mask, axis) * own.side - (n - 1) / 2 * side)
        for axis, (n, side, own) in enumerate(zip(config.box, config.spacing, source, strict=True))
    )
    p, s, r = result
    matrices = weights((p, s, r), source)
    share = resample(mask.astype(np.float32), matrices)
    inside = share >= 0.5
    values = (volume.scaled(volume.voxels) - background_of(volume)).astype(np.float32)
    means = resample(values * mask, matrices) / np.where(inside, share, 1)
    voxel = math.prod(config.spacing) / math.prod(volume.zooms)
    outside = max(0.0, 1 - float(share.sum()) * voxel / float(mask.sum()))
    try:
        scaled = scale_tissues(means, inside, config.spacing)
    except ValueError as error:
        raise ScanError("near_empty", path, str(error)) from None
    return Brain(scaled, inside, (p, s, r), round(outside, 4))


def steps(config: SliceConfig) -> dict[str, str]:
    """What makes a `Brain` of a scan, by step, exactly enough to do it again."""
    box, spacing = in_words(config.box), in_words(config.spacing or ())
    return {
        "mask": "ixi_tfds.images.brain.brain_mask: what is above 0.5, or without a mask what is "
        f"not background; gaps closed by max(1, round({_CLOSING_MM:g} mm / longest side of a "
        f"voxel)) voxels, without a mask {_CLOSING_STRIPPED_MM:g} mm; the largest piece, its holes "
        "filled",
        "box": f"ixi_tfds.images.brain.brain_of: {box} voxels of {spacing} mm along posterior, "
        "superior and right around the middle of the mask's bounds; the scan less its background "
        "is averaged over the brain's voxels by ixi_tfds.images.resampling, and where half of a "
        "voxel or more is brain, it is brain",
        **scaling_steps(),
    }


def moved(brain: Brain, name: str) -> Brain:
    """A copy of a brain that is turned, scaled, shifted and perhaps mirrored.

    Turns are up to 12 degrees about each axis, scales up to 8% along each, shifts up to 6 mm; about
    half of the copies are mirrored from left to right. All follow from `name` alone.
    """
    seed = int.from_bytes(hashlib.sha256(f"moved:{name}".encode()).digest()[:8])
    draws = np.random.Generator(np.random.PCG64(seed))
    turns = np.radians(draws.uniform(-_MOST_TURN, _MOST_TURN, 3))
    scales = 1 + draws.uniform(-_MOST_SCALE, _MOST_SCALE, 3)
    shifts = draws.uniform(-_MOST_SHIFT_MM, _MOST_SHIFT_MM, 3)
    mirror = np.array([1.0, 1.0, draws.choice([-1.0, 1.0])])
    sides = np.array([each.side for each in brain.places])
    # From places of the result to places of the source, in mm around the middle.
    turned = _rotation(0, turns[0]) @ _rotation(1, turns[1]) @ _rotation(2, turns[2])
    matrix = np.diag(1 / sides) @ turned @ np.diag(scales * mirror) @ np.diag(sides)
    middle = (np.array(brain.mask.shape) - 1) / 2
    offset = middle - matrix @ middle + shifts / sides
    share = scipy.ndimage.affine_transform(brain.mask.astype(np.float32), matrix, offset, order=1)
    values = scipy.ndimage.affine_transform(brain.values, matrix, offset, order=1)
    mask = share >= 0.5
    values = np.where(mask, values / np.where(mask, share, 1), 0).astype(np.float32)
    return dataclasses.replace(brain, values=values, mask=mask)


def planes_of(values: np.ndarray, config: SliceConfig) -> np.ndarray:
    """Values [p, s, r] of a box as the slices of a config, [n, height, width]."""
    return np.moveaxis(values, slice_axis(config.plane), 0)


def slice_axis(plane: str | None) -> int:
    """The axis of a volume, 0 to 2 for posterior, superior, right, that slices are cut across.

    `plane` is one of `PLANES`, or None for the first.
    """
    return {PLANES[1]: 1, PLANES[2]: 0}.get(plane or "", 2)


def _middle(mask: np.ndarray, axis: int) -> float:
    """Middle of the box around a mask along an axis, in voxels."""
    others = tuple(other for other in range(3) if other != axis)
    places = np.flatnonzero(mask.any(axis=others))
    return (places[0] + places[-1]) / 2


def _rotation(axis: int, angle: float) -> np.ndarray:
    """The matrix of a turn about an axis."""
    one, other = (number for number in range(3) if number != axis)
    matrix = np.eye(3)
    matrix[one, one] = matrix[other, other] = math.cos(angle)
    matrix[one, other], matrix[other, one] = -math.sin(angle), math.sin(angle)
    return matrix


def _check_same_grid(volume: Volume, path: str, mask: Volume) -> None:
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in volume.voxels.shape), 1]]).T
    apart = np.abs(volume.affine @ corners - mask.affine @ corners).max()
    same = volume.voxels.shape == mask.voxels.shape
    if not same or apart > _SAME_PLACE * min(volume.zooms):
        raise ScanError(
            "no_brain_mask",
            path,
            f"has {volume.voxels.shape} voxels (posterior, superior, right), its brain mask has "
            f"{mask.voxels.shape}"
            + (f" that lie up to {apart:.1f} mm elsewhere" if same else "")
            + "; make the mask from this very file",
        )
