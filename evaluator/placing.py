"""Where the slices of a model lie in a volume, by the rule of the model's config."""

import dataclasses

import numpy as np

from ixi_tfds.config import SliceConfig
from ixi_tfds.images.head import Head
from ixi_tfds.images.resampling import Places, places_of, slice_places
from ixi_tfds.nifti import Volume
from ixi_tfds.slices import check_voxel_size, same_spacing
from ixi_tfds.system.errors import ScanError


def pads_with_background(config: SliceConfig) -> bool:
    """Whether pixels outside the volume are its background; otherwise they are scanner zeros."""
    return config.padding == "background" or config.spacing is not None


def rule_for(
    path: str,
    volume: Volume,
    config: SliceConfig,
    zooms: tuple[float, float, float] | None,
) -> SliceConfig:
    """The config of training; with a spacing if the volume is to be resampled.

    Args:
      path: of the volume.
      volume: the scan.
      config: config of training.
      zooms: sides of the voxels of training, in mm; None if they are not known.

    Raises:
      ScanError: the voxels are of another order than in training.
    """
    sides = config.spacing or zooms
    if sides is None:
        return config
    check_voxel_size(volume, path, sides)
    if config.spacing is None and same_spacing(volume.zooms, sides):
        return config
    return dataclasses.replace(config, spacing=sides)


def grid(volume: Volume, rule: SliceConfig, head: Head) -> tuple[Places, Places, Places, int]:
    """Places of rows, columns and slices in mm, and the number of the first slice.

    Slices have the numbers of the rule's window. They reach beyond both ends of the volume.
    """
    p, s, r = places_of(volume)
    if rule.spacing is None:
        rows, columns = (_around(own, n) for own, n in zip((p, s), rule.size, strict=True))
        return rows, columns, r, 0
    rows, columns, slices = slice_places(volume, rule, head)
    side = slices.side
    before = 1 + max(0, int((slices.first + 0.5 * r.side) / side))
    end = (r.n - 0.5) * r.side - slices.first
    after = 1 + max(0, int(end / side) - (slices.n - 1))
    around = Places(before + slices.n + after, side, slices.first - before * side)
    return rows, columns, around, -before


def _around(own: Places, n: int) -> Places:
    """The middle n of places or, if these are fewer, n around them.

    As in preprocessing, an odd one is cropped or padded at the end.
    """
    shift = (own.n - n) // 2 if own.n >= n else -((n - own.n) // 2)
    return Places(n, own.side, shift * own.side)


def middle(volume: Volume, rule: SliceConfig, head: Head) -> float:
    """Where places along right are told from, in mm from the centre of the first voxel.

    It is the middle of the head if the window is in mm, else that of the volume.
    """
    if rule.window_mm is None:
        return (volume.voxels.shape[2] - 1) / 2 * volume.zooms[2]
    return head.middle[2] * volume.zooms[2]


def window(path: str, volume: Volume, rule: SliceConfig, numbers: np.ndarray) -> tuple[int, int]:
    """Of slices with these numbers, in order, those [first, last) in the window of training.

    Raises:
      ScanError: there is none.
    """
    first, last = np.searchsorted(numbers, rule.window)
    if first < last:
        return int(first), int(last)
    shown = f"{rule.window[0]} to {rule.window[1] - 1}"
    if rule.window_mm is not None:
        shown = f"{rule.window_mm[0]:g} to {rule.window_mm[1]:g} mm from the middle of the head"
    raise ScanError(
        "too_few_slices",
        path,
        f"has {volume.voxels.shape[2]} sagittal slices, none of them in the window of training, "
        f"{shown}",
    )
