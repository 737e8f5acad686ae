"""Sizes of voxels in a cohort: read from headers before a job, and described after it."""

import dataclasses
import stat
import statistics
from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np
from nibabel import orientations
from tqdm import tqdm

from ixi_tfds.config import SliceConfig, in_words
from ixi_tfds.documents.shard_record import ShardRecord, VolumeRecord
from ixi_tfds.formats import MGH, MINC, NO_HEADER, PAIR, image_kind
from ixi_tfds.inflate import GZIP_MAGIC, inflate_start
from ixi_tfds.nifti import pair_of, read_volume
from ixi_tfds.other_formats import affine_in
from ixi_tfds.slices import same_spacing
from ixi_tfds.system import storage

MOST_TILT = 15.0
"""Heads that are tilted by more degrees get a warning: their sagittal slices are not sagittal."""

MOST_OFF_MIDDLE = 15.0
"""Windows by number that lie so many mm from the others' place in the head get a warning.

In 66 heads of IXI they lie within 5 mm of each other.
"""

_START = 1 << 12
_NIFTI = {348: nib.Nifti1Header, 540: nib.Nifti2Header}

Zooms = tuple[float, float, float]
"""Sides of a voxel along posterior, superior and right, in mm."""


@dataclasses.dataclass(frozen=True)
class CohortSpacing:
    """The typical voxel of a cohort, the lower median along each axis, and the volumes of another.

    `others` has the sides of voxels by path, for volumes that `slices.check_spacing` refuses.
    """

    typical: Zooms
    others: dict[str, Zooms]


def cohort_spacing(paths: Sequence[str]) -> CohortSpacing | None:
    """Read the voxel sizes of volumes from the first bytes of their files.

    Files without a readable header are passed over; None if that is all of them.
    """
    bar = tqdm(paths, unit="header", desc="voxel sizes", disable=None, leave=False)
    found = {path: zooms for path in bar if (zooms := zooms_of_file(path))}
    if not found:
        return None
    p, s, r = (statistics.median_low(sides) for sides in zip(*found.values(), strict=True))
    typical = (p, s, r)
    others = {path: zooms for path, zooms in found.items() if not same_spacing(zooms, typical)}
    return CohortSpacing(typical, others)


def zooms_of_file(path: str) -> Zooms | None:
    """The sides of a volume's voxels by its header; None if that cannot be read."""
    # Whatever is wrong with a file, its reader says later, with the reason.
    try:
        kind = image_kind(path)
        if kind == MINC:
            # It has no header of fixed size at its start; its reader has the bounds.
            return read_volume(path).zooms
        file_at = storage.at(pair_of(path)[0] if kind in (PAIR, NO_HEADER) else path)
        # A pipe would be waited for.
        if not stat.S_ISREG(file_at.stat().st_mode):
            return None
        with file_at.open("rb") as file:
            start = file.read(_START)
        if start.startswith(GZIP_MAGIC):
            start = inflate_start(path, start, max(_NIFTI))[0]
        if kind in (PAIR, NO_HEADER, MGH):
            affine = affine_in(path, start, kind)
        else:
            size = min(int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
            header = _NIFTI[size](start[: _NIFTI[size].template_dtype.itemsize], check=False)
            affine = header.get_best_affine()
        axes = orientations.io_orientation(affine)[:, 0].astype(int)
        sides = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(axes)].tolist()
    except Exception:
        return None
    right, posterior, superior = sides
    return (posterior, superior, right) if min(sides) > 0 and np.isfinite(sides).all() else None


def warnings_of(config: SliceConfig, records: Iterable[ShardRecord]) -> tuple[str, ...]:
    """What a user should know of voxels, windows and tilt of the volumes in a dataset."""
    volumes = [volume for record in records for volume in record.volumes]
    found = [_mixed_voxels(volumes)] if volumes and config.spacing is None else []
    return tuple(
        filter(None, [*found, _other_places(volumes), _tilted(volumes), _assumed(volumes)])
    )


def _mixed_voxels(volumes: Sequence[VolumeRecord]) -> str:
    sides = list(zip(*(volume.zooms for volume in volumes), strict=True))
    low, high = (tuple(end(axis) for axis in sides) for end in (min, max))
    if same_spacing(high, low):
        return ""
    share = max(b / a for a, b in zip(low, high, strict=True)) - 1
    return (
        f"voxels of the volumes differ by {share:.0%}, from {in_words(low)} to {in_words(high)} mm "
        "(posterior x superior x right), so heads have different sizes in the slices; --spacing, "
        "with a --config of your own, brings them to one"
    )


def off_the_others(volumes: Sequence[VolumeRecord]) -> dict[str, float]:
    """Distance in mm from the place of a volume's window to the others' place, by path.

    Volumes without `VolumeRecord.off_middle` are left out.
    """
    places = {v.path: v.off_middle for v in volumes if v.off_middle is not None}
    typical = statistics.median(places.values()) if places else 0.0
    return {path: abs(place - typical) for path, place in places.items()}


def _other_places(volumes: Sequence[VolumeRecord]) -> str:
    others = off_the_others(volumes)
    if not others:
        return ""
    worst = max(others, key=lambda path: others[path])
    if others[worst] <= MOST_OFF_MIDDLE:
        return ""
    count = sum(off > MOST_OFF_MIDDLE for off in others.values())
    return (
        f"in {count} volume{'s' * (count > 1)} the slices lie elsewhere in the head than in the "
        f"others, in {worst} by {others[worst]:.0f} mm; --slices in mm, with --spacing, counts "
        "from the middle of the head"
    )


def _tilted(volumes: Sequence[VolumeRecord]) -> str:
    tilts = {volume.path: volume.tilt or 0.0 for volume in volumes}
    count = sum(tilt > MOST_TILT for tilt in tilts.values())
    if not count:
        return ""
    worst = max(tilts, key=lambda path: tilts[path])
    return (
        f"{'1 head is' if count == 1 else f'{count} heads are'} tilted in the scanner by more than "
        f"{MOST_TILT:g} degrees, {worst} by {tilts[worst]:.0f}: such slices are not sagittal"
    )


def _assumed(volumes: Sequence[VolumeRecord]) -> str:
    assumed = [(volume.path, volume.assumed_axes) for volume in volumes if volume.assumed_axes]
    if not assumed:
        return ""
    path, axes = assumed[0]
    if len(assumed) == 1:
        said = "1 volume does not say how the head lies in it and was read by its"
    else:
        said = f"{len(assumed)} volumes do not say how the head lies in them and were read by their"
    return f"{said} format's convention, {path} as {axes}: check left and right"
