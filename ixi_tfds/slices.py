"""From a scan to its slice examples, for the builder and the Beam job."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import google_crc32c
import numpy as np

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig, in_words
from ixi_tfds.features import slice_key
from ixi_tfds.images.brain import Brain, brain_mask, brain_of, moved, planes_of
from ixi_tfds.images.head import Head, find_head
from ixi_tfds.images.resampling import pixels_inside, resampled_slices, slice_places, source_window
from ixi_tfds.images.scaling import (
    percentile_range,
    quantize,
    range_of_slices,
    stored_plane,
    stored_slice,
)
from ixi_tfds.images.tissue import HIGHEST
from ixi_tfds.nifti import Volume, check_finite, check_volume, check_window, read_volume
from ixi_tfds.system.errors import ScanError

MAX_REJECTED_FRACTION = 0.05
"""Default share of refused volumes above which no dataset is made."""

SAME_SPACING = 0.05
"""Relative difference of voxel sides that passes for none; those of IXI differ by 4%."""

LEAST_HEAD = 0.5
"""A window is refused if a smaller share of it lies within the head; 1 in all 66 heads of IXI."""

MOST_RATIO = 10.0
"""A volume is refused if its voxels are more times as large or small as those of the slices."""

_EXACT = 1e-6


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `check_scan` has found out about a volume.

    Attributes:
      window: the slices [first, last) of the volume itself that a config's window lies in.
      head: where the head is; None under configs of the old padding or of brains, which do not
        need it.
      brain: the brain, under configs with the scaling by tissue.
    """

    window: tuple[int, int]
    head: Head | None = None
    brain: Brain | None = None


def slices_of(
    scan: Scan,
    config: SliceConfig,
    volume: Volume | None = None,
    checked: Checked | None = None,
    copies: int = 0,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, example) for each slice of the window, in the order of the slices.

    The same file and config always give the same examples. An example has the fields of
    `ixi_tfds.features.slice_features`.

    Args:
      scan: the scan; its file is read.
      config: geometry and scaling.
      volume: the scan's volume, if the caller has read it already.
      checked: the result of `check_scan`, if the caller has it already.
      copies: number of moved copies of a brain that follow, for configs with the scaling by tissue.

    Raises:
      ScanError: the volume is refused, before any slice is yielded.
    """
    if volume is None:
        volume = read_volume(scan.path)
    if checked is None:
        checked = check_scan(volume, scan.path, config)
    about = {
        "subject": scan.subject,
        "site": scan.site,
        "sex": scan.sex,
        "ethnicity": scan.ethnicity,
        "age": scan.age,
    }
    if checked.brain:
        yield from _of_brain(about, checked.brain, config, copies)
        return
    slices = _resampled if config.spacing else _as_they_are
    for index, stored in enumerate(slices(volume, config, checked.head), start=config.window[0]):
        image, low, high = stored
        fields = {"image": image[..., None], "slice_index": index, "low": low, "high": high}
        yield slice_key(scan.subject, index), about | fields


def check_scan(volume: Volume, path: str, config: SliceConfig, mask: str | None = None) -> Checked:
    """Refuse a volume that lacks the slices of a config, or whose values are not those of a scan.

    Args:
      volume: the scan.
      path: of the scan.
      config: of the slices.
      mask: path of the brain's mask, for configs with the scaling by tissue; None for stripped
        heads.

    Raises:
      ScanError: with a reason of `nifti.check_volume` or `brain.brain_mask`.
    """
    if config.scaling == "tissue" and config.spacing:
        check_finite(volume, path)
        check_voxel_size(volume, path, config.spacing)
        inside = brain_mask(volume, path, read_volume(mask) if mask else None)
        brain = brain_of(volume, path, inside, config)
        return Checked((0, volume.voxels.shape[2]), brain=brain)
    if config.spacing is None:
        check_volume(volume, path, config)
        if config.padding is None:
            return Checked(config.window)
        head, window = find_head(volume), config.window
    else:
        check_finite(volume, path)
        check_voxel_size(volume, path, config.spacing)
        head = find_head(volume)
        _check_inside(volume, path, config, head)
        window = source_window(volume, config, head)
        check_window(volume, path, window)
    _check_head(head, path, window)
    return Checked(window, head)


def check_voxel_size(volume: Volume, path: str, sides: tuple[float, float, float]) -> None:
    """Refuse a volume whose voxels are of another order than `sides`, in mm, of the slices.

    Raises:
      ScanError: with reason wrong_in_plane_size.
    """
    pairs = zip(volume.zooms, sides, strict=True)
    if not all(side / MOST_RATIO <= own <= side * MOST_RATIO for own, side in pairs):
        shown, wanted = (
            " x ".join(f"{side:.3g}" for side in each) for each in (volume.zooms, sides)
        )
        raise ScanError(
            "wrong_in_plane_size",
            path,
            f"has voxels of {shown} mm, more than {MOST_RATIO:g} times as large or small as those "
            f"of the slices, {wanted} mm; is its affine in millimetres?",
        )


def check_spacing(volume: Volume, path: str, typical: tuple[float, float, float]) -> None:
    """Refuse a volume whose voxels are not of the typical size of its cohort, in mm.

    Raises:
      ScanError: with reason other_spacing.
    """
    if not same_spacing(volume.zooms, typical):
        raise ScanError(
            "other_spacing",
            path,
            f"has voxels of {in_words(volume.zooms)} mm (posterior x superior x right), the "
            f"cohort's median is {in_words(typical)} mm; bring all to one size by --spacing, such "
            f"as --spacing={max(typical):.2g} in place of --in_plane, or take it as it is "
            "by --allow_spacing",
        )


def same_spacing(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether no side of two voxels differs by more than `SAME_SPACING` of the second."""
    return all(abs(a - b) <= SAME_SPACING * b * (1 + 1e-6) for a, b in zip(one, other, strict=True))


Stored = tuple[np.ndarray, float, float]
"""A slice as `stored_slice` returns it."""


def _as_they_are(volume: Volume, config: SliceConfig, head: Head | None) -> Iterator[Stored]:
    """The window's slices by number, cropped or padded."""
    background = head.background if head else 0.0
    limits = percentile_range(volume, config) if config.scaling == "volume" else None
    for index in range(*config.window):
        yield stored_slice(volume, index, config, limits, background)


def _resampled(volume: Volume, config: SliceConfig, head: Head | None) -> Iterator[Stored]:
    """The window's slices of the resampled volume."""
    slices = resampled_slices(volume, config, head)
    limits = None
    if config.scaling == "volume":
        limits = range_of_slices(slices, *pixels_inside(volume, config, head))
    for plane in slices:
        yield stored_plane(plane, limits)


def _of_brain(
    about: dict[str, Any], brain: Brain, config: SliceConfig, copies: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The slices of a brain, then those of its moved copies."""
    for copy in range(copies + 1):
        each = moved(brain, f"{about['subject']}~{copy}") if copy else brain
        images = planes_of(quantize(each.values, 0, HIGHEST), config)
        masks = planes_of(each.mask.astype(np.uint8), config)
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            fields = {"image": image[..., None], "mask": mask[..., None], "copy": copy}
            fields |= {"slice_index": index, "low": 0.0, "high": HIGHEST}
            yield slice_key(about["subject"], index, copy), about | fields


def _check_inside(volume: Volume, path: str, config: SliceConfig, head: Head) -> None:
    """Refuse a volume that the window of a config with `spacing` goes beyond."""
    *_, depths = slice_places(volume, config, head)
    if config.window_mm is None:
        if depths.n < config.window[1]:
            raise ScanError(
                "too_few_slices",
                path,
                f"has {depths.n} slices of {depths.side:g} mm, the window needs "
                f"{config.window[1]}; see --slices",
            )
        return
    side = volume.zooms[2]
    low, high = -0.5 * side, (volume.voxels.shape[2] - 0.5) * side
    first, last = depths.first, depths.first + (depths.n - 1) * depths.side
    if first < low - _EXACT or last > high + _EXACT:
        middle = head.middle[2] * side
        raise ScanError(
            "too_few_slices",
            path,
            f"reaches from {low - middle:.0f} to {high - middle:.0f} mm around the middle of the "
            f"head, the window from {config.window_mm[0]:g} to {config.window_mm[1]:g} mm; see "
            "--slices",
        )


def _check_head(head: Head, path: str, window: tuple[int, int]) -> None:
    """Refuse a window of slices [first, last) that mostly lies beside the head."""
    low, high = head.low[2], head.high[2]
    first, last = window[0] - 0.5, window[1] - 0.5
    inside = max(0.0, min(high, last) - max(low, first)) / (last - first)
    if inside < LEAST_HEAD:
        raise ScanError(
            "near_empty",
            path,
            f"only {inside:.0%} of its window lies within the head, which is in slices {low:.0f} "
            f"to {high:.0f}; see --slices, which also takes mm with --spacing",
        )


def pixels_digest(images: Iterable[np.ndarray]) -> str:
    """Digest, in hex, of the stored slices of a volume, uint8 [height, width, 1] each.

    Volumes with the same voxels have the same, whatever their containers and units.
    """
    # A checksum a slice takes a twentieth of the time of SHA-1 over all pixels; sixty of them are
    # the same by chance as rarely.
    checksums = [google_crc32c.value(image.tobytes()) for image in images]
    return hashlib.sha1(repr(checksums).encode(), usedforsecurity=False).hexdigest()
