"""Volumes and their lesion masks in one folder, by their names."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ixi_tfds import storage
from ixi_tfds.catalog import Scan, find_scans, stem_of
from ixi_tfds.errors import UserError
from ixi_tfds.nifti import Volume, read_volume

MASK_WORDS = {"lesion", "lesions", "mask", "label", "labels", "seg", "dseg", "segmentation", "roi"}
_MODALITY_WORDS = {"t1", "t1w", "t1n", "mprage"}
_SEPARATORS = re.compile(r"[-_. ]+")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A T1 volume and the file that marks its lesions."""

    scan: Scan
    mask: str


def find_pairs(source_dir: str) -> tuple[list[Pair], list[str]]:
    """T1 volumes with lesion masks in a folder, at any depth, or in a BIDS folder.

    A mask has one of `MASK_WORDS` among the words of its name, which `-`, `_`, `.` and spaces
    part. It belongs to the volume whose name has the same words, these and the modality (T1, T1w)
    left out: `a_T1.nii.gz` and `a_lesion.nii.gz`, `a.nii.gz` and `a_mask.nii.gz`,
    `sub-01_T1w.nii.gz` and `sub-01_label-lesion_mask.nii.gz`. Where several do, those with the
    word lesion go first.

    Returns:
      The pairs, ordered by subject, and the paths of volumes without a mask.

    Raises:
      UserError: there is no pair, or a volume has several masks.
    """
    catalog = find_scans(source_dir)
    masks: dict[tuple[str, ...], list[str]] = {}
    files = [
        storage.at(folder, name)
        for folder, _, names in storage.walk(storage.at(source_dir))
        for name in names
    ]
    for path in sorted(files):
        words = _words(str(path))
        if path.name.lower().endswith((".nii", ".nii.gz")) and MASK_WORDS & set(words):
            masks.setdefault(_identity(words), []).append(str(path))
    pairs, alone = [], []
    for scan in catalog.scans:
        candidates = masks.get(_identity(_words(scan.path)), [])
        if candidates:
            pairs.append(Pair(scan, _only(scan.path, candidates)))
        else:
            alone.append(scan.path)
    if not pairs:
        raise UserError(
            f"--source_dir={source_dir}: no volume there has a lesion mask; name them alike, such "
            "as a_T1.nii.gz and a_lesion.nii.gz"
        )
    return pairs, alone


def read_mask(pair: Pair, volume: Volume) -> np.ndarray:
    """Where a volume has lesions: voxels above 0, bool on the grid of `volume.voxels`.

    Raises:
      UserError: the mask cannot be read, or lies on another grid than its volume.
    """
    mask = read_volume(pair.mask)
    same = mask.voxels.shape == volume.voxels.shape
    if not same or not np.allclose(mask.affine, volume.affine, atol=1e-2):
        raise UserError(
            f"{pair.mask}: lies on another grid than {pair.scan.path}; resample the mask to the "
            "volume's shape and affine"
        )
    return mask.scaled(mask.voxels) > 0


def _words(path: str) -> list[str]:
    return [word.lower() for word in _SEPARATORS.split(stem_of(path))]


def _identity(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in MASK_WORDS | _MODALITY_WORDS)


def _only(path: str, candidates: Sequence[str]) -> str:
    certain = [mask for mask in candidates if {"lesion", "lesions"} & set(_words(mask))]
    chosen = certain or candidates
    if len(chosen) > 1:
        raise UserError(
            f"{path}: has several masks, {' and '.join(sorted(chosen))}; keep one of them there"
        )
    return chosen[0]
