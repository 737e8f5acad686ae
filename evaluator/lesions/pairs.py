"""Volumes and their lesion masks, matched by file names."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from evaluator import volumes
from evaluator.options import ScanChecks
from ixi_tfds.cohorts import AS_NAMED, DEFAULT, NameFlags
from ixi_tfds.cohorts.bids_filter import Filter
from ixi_tfds.cohorts.catalog import Scan, find_scans
from ixi_tfds.cohorts.names import LESION_MASKS, T1, is_mask, words_of
from ixi_tfds.cohorts.walking import find_files
from ixi_tfds.nifti import Volume, read_volume
from ixi_tfds.system.errors import UserError

# As in ATLAS: label-L_desc-T1lesion_mask. Other descriptions, such as desc-brain, mark no lesion.
_DESCRIBED = re.compile(r"(_label-[a-z0-9]+)?_desc-[a-z0-9]*lesion[a-z0-9]*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A T1 volume and the file that marks its lesions."""

    scan: Scan
    mask: str


def find_pairs(
    source_dir: str, asked: Filter | None = None, names: NameFlags = AS_NAMED
) -> tuple[list[Pair], list[str]]:
    """T1 volumes with lesion masks in a folder, at any depth, or in a BIDS folder.

    Names are split into words at `-`, `_`, `.` and spaces. The name of a mask has one of
    `LESION_MASKS` among its words. A mask belongs to the volume with the same other words, apart
    from the modality (T1, T1w): `a_T1.nii.gz` and `a_lesion.nii.gz`, `a.nii.gz` and
    `a_mask.nii.gz`, `sub-01_T1w.nii.gz` and `sub-01_label-lesion_mask.nii.gz` or
    `sub-01_label-L_desc-T1lesion_mask.nii.gz`. If a volume has
    several masks, those in its own folder and then those with the word lesion are preferred. Of a
    person with several volumes, the first that has a mask is taken.

    Args:
      source_dir: the folder.
      asked: which volumes of a BIDS folder are asked for; None for all.
      names: who is the person in a file, and whether names are believed; masks always are.

    Returns:
      The pairs, ordered by subject, and the paths of volumes of people without a mask.

    Raises:
      UserError: there is no pair, or a volume has several masks.
    """
    catalog = find_scans(source_dir, DEFAULT, bids_filter=asked, names=names, but_masks=True)
    masks: dict[tuple[str, ...], list[str]] = {}
    for path in find_files(source_dir).volumes:
        if is_mask(path):
            masks.setdefault(_identity(words_of(_DESCRIBED.sub("", path))), []).append(path)
    pairs, alone = [], []
    for person in catalog.scans:
        for scan in person.candidates:
            identity = _identity(words_of(scan.path))
            candidates = masks.get(identity, [])
            if not identity:
                # A file such as p01/T1 has its person from the folder, and so has its mask.
                candidates = [mask for mask in candidates if _beside(mask, scan.path)]
            if candidates:
                pairs.append(Pair(scan, _only(scan.path, candidates)))
                break
        else:
            alone.append(person.path)
    if not pairs:
        raise UserError(
            f"--source_dir={source_dir}: no volume there has a lesion mask; give both the same "
            "name, such as a_T1.nii.gz and a_lesion.nii.gz"
        )
    return pairs, alone


def open_pair(
    pair: Pair, geometry: volumes.Geometry, checks: ScanChecks
) -> tuple[volumes.Stack, np.ndarray]:
    """The slices of a volume, and its mask as `read_mask` gives it.

    Raises:
      UserError: either cannot be used.
    """
    allowed = checks.allow_unknown_orientation
    stack = volumes.open_stack(pair.scan.path, geometry, allow_unknown_orientation=allowed)
    return stack, read_mask(pair, stack.volume, allow_unknown_orientation=allowed)


def read_mask(pair: Pair, volume: Volume, *, allow_unknown_orientation: bool = False) -> np.ndarray:
    """Read a lesion mask: voxels above 0, bool on the grid of `volume.voxels`.

    Raises:
      UserError: the mask cannot be read, or has another grid than its volume.
    """
    mask = read_volume(pair.mask, allow_unknown_orientation=allow_unknown_orientation)
    same = mask.voxels.shape == volume.voxels.shape
    if not same or not np.allclose(mask.affine, volume.affine, atol=1e-2):
        raise UserError(
            f"{pair.mask}: lies on another grid than {pair.scan.path}; resample the mask to the "
            "volume's shape and affine"
        )
    return mask.scaled(mask.voxels) > 0


def _identity(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in LESION_MASKS | T1)


def _beside(one: str, other: str) -> bool:
    return PurePath(one).parent == PurePath(other).parent


def _only(path: str, candidates: Sequence[str]) -> str:
    candidates = [mask for mask in candidates if _beside(mask, path)] or candidates
    certain = [mask for mask in candidates if {"lesion", "lesions"} & set(words_of(mask))]
    chosen = certain or candidates
    if len(chosen) > 1:
        raise UserError(
            f"{path}: has several masks, {' and '.join(sorted(chosen))}; keep one of them there"
        )
    return chosen[0]
