"""Which volume of each person a dataset holds, where a person has several.

The volumes of a person are tried in the order of `Scan.candidates`, and the first that is not
refused is taken. What was read can be told from the scans and the volumes that were taken.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.documents.shard_record import Refusal
from ixi_tfds.nifti import digest_of


def tried(
    scans: Iterable[Scan], taken: Mapping[str, str], source_dir: str
) -> Iterator[tuple[str, Scan]]:
    """Each volume that was read, by its path within the source folder.

    Args:
      scans: the people with their volumes.
      taken: path of the volume that was taken, within the source folder, by subject. All volumes of
        a person who is missing were read, and refused.
      source_dir: folder that paths are relative to.
    """
    for scan in scans:
        for candidate in scan.candidates:
            path = os.path.relpath(candidate.path, source_dir)
            yield path, candidate
            if path == taken.get(scan.subject):
                break


def digests_of_masks(masks: Mapping[str, str], source_dir: str) -> dict[str, str | None]:
    """`git_blob_sha1` of each mask by its path relative to the source folder.

    `masks` are paths by path of the volume.
    """
    return {os.path.relpath(mask, source_dir): digest_of(mask) for mask in masks.values()}


def left(scans: Iterable[Scan], taken: Mapping[str, str], source_dir: str) -> Iterator[Refusal]:
    """Each volume that was not read, because another one of its person was taken before.

    The arguments are those of `tried`.
    """
    scans = tuple(scans)
    read = {path for path, _ in tried(scans, taken, source_dir)}
    for scan in scans:
        for candidate in scan.candidates:
            path = os.path.relpath(candidate.path, source_dir)
            if path not in read:
                other = f"is another volume of {scan.subject}, of whom {taken[scan.subject]}"
                yield Refusal(path, "same_person", f"{other} is taken")
