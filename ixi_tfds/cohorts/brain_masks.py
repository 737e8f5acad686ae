"""Which mask file belongs to which volume, by names."""

import collections
import os
import pathlib
import re
from collections.abc import Container, Iterator, Sequence

from ixi_tfds.cohorts.walking import find_files
from ixi_tfds.formats import stem_of
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError

_SHOWN = 3
_ENDING = re.compile(
    r"[-_.]((desc|label)-)?"
    r"(brain|brainmask|bet|hd-?bet|synthstrip|strip|stripped|mask|labels?|d?seg)$",
    re.IGNORECASE,
)
_ANY_MASK = re.compile(r"(mask|labels?|seg)$", re.IGNORECASE)
_SAME_SPACE = re.compile(r"_space-(T1w|orig)(?=_|$)")
_BIDS_SUFFIX = re.compile(r"^(sub-.*)_(T1w|UNIT1)$")


def find_masks(mask_dir: str, source_dir: str, paths: Sequence[str]) -> dict[str, str]:
    """The mask of each volume that has one.

    A mask has the name of its volume, perhaps followed by words such as `_mask`, `_brain_mask`,
    `_bet_mask`, `.labels` or, after the name without `_T1w`, `_desc-brain_mask`. Where names repeat
    in several folders, the folders below `mask_dir` and `source_dir` have to agree, too. A stripped
    head may lie beside its mask, as HD-BET writes them, with fewer of these words in its name.

    Args:
      mask_dir: folder with the masks at any depth.
      source_dir: folder with the volumes.
      paths: of the volumes.

    Returns:
      Path of the mask by path of the volume; volumes without one are left out.

    Raises:
      UserError: there is no such folder, two masks fit one volume, or no mask fits any volume.
    """
    if not storage.at(mask_dir).is_dir():
        raise UserError(f"--brain_masks={mask_dir}: no such folder")
    # A scan that lies among the masks is no mask, not of itself either.
    scans = {os.path.realpath(path) for path in paths}
    masks = [mask for mask in find_files(mask_dir).volumes if os.path.realpath(mask) not in scans]
    by_name = _by_name(masks, {_name_of_volume(stem_of(path)) for path in paths})
    found = {}
    for path in paths:
        fitting = by_name.get(_name_of_volume(stem_of(path)), [])
        if len(fitting) > 1:
            folder = _folder(path, source_dir)
            fitting = [mask for mask in fitting if _folder(mask, mask_dir) == folder] or fitting
        fitting = _without_stripped(fitting)
        if len(fitting) > 1:
            raise UserError(
                f"--brain_masks={mask_dir}: {' and '.join(sorted(fitting)[:2])} both fit {path}; "
                "keep one mask a volume"
            )
        if fitting:
            found[path] = fitting[0]
    _refuse_shared(mask_dir, found)
    if not found:
        raise UserError(
            f"--brain_masks={mask_dir}: none of its {len(masks)} volumes has "
            f"the name of a scan, such as {stem_of(paths[0])}_mask.nii.gz"
        )
    return found


def _by_name(masks: Sequence[str], names: Container[str]) -> dict[str, list[str]]:
    """Masks by the longest name of a volume that each fits; others are left out."""
    found = collections.defaultdict(list)
    for mask in masks:
        name = next((name for name in _names_of_mask(mask) if name in names), None)
        if name is not None:
            found[name].append(mask)
    return found


def _refuse_shared(mask_dir: str, found: dict[str, str]) -> None:
    users = collections.defaultdict(list)
    for path, mask in found.items():
        users[mask].append(path)
    for mask, paths in users.items():
        if len(paths) > 1:
            raise UserError(
                f"--brain_masks={mask_dir}: {mask} fits {' and '.join(paths[:_SHOWN])}; put masks "
                "into folders of the same names as those of the volumes"
            )


def _without_stripped(masks: list[str]) -> list[str]:
    """Files of one name without those that are stripped heads, by the words in their names."""
    for words in (_ANY_MASK, _ENDING):
        named = [mask for mask in masks if words.search(stem_of(mask))]
        if named:
            return named
    return masks


def _names_of_mask(path: str) -> Iterator[str]:
    """The names of volumes that a mask fits, the longest first."""
    stem = stem_of(path)
    while True:
        yield _name_of_volume(stem)
        shorter = _ENDING.sub("", stem)
        if shorter == stem:
            return
        stem = shorter


def _name_of_volume(stem: str) -> str:
    stem = _SAME_SPACE.sub("", stem)
    bids = _BIDS_SUFFIX.match(stem)
    return (bids[1] if bids else stem).lower()


def _folder(path: str, root: str) -> str:
    return str(pathlib.PurePath(os.path.relpath(path, root)).parent)
