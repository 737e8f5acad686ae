"""The 581 T1 volumes of IXI: their names, sites, splits and the checksums of the originals.

The table is `roster.csv`. Its split column is what `splits.derive_roster_splits` gives for IXI's
own workbook, so that a person of IXI stays in one split whatever lies on disk.
"""

import csv
import dataclasses
import functools
import hashlib
from importlib import resources


@dataclasses.dataclass(frozen=True)
class RosterEntry:
    """One volume of IXI.

    Attributes:
      name: the file's canonical name without extension, such as `IXI002-Guys-0828-T1`.
      subject: the person, such as `IXI002`.
      site: `Guys`, `HH` or `IOP`.
      split: `train`, `validation` or `test`.
      git_blob_sha1: checksum of the original `.nii.gz` as `git_blob_sha1` gives it; empty for the
        15 volumes for which none is published.
    """

    name: str
    subject: str
    site: str
    split: str
    git_blob_sha1: str


@functools.cache
def load_roster() -> dict[str, RosterEntry]:
    """The 581 volumes by subject, in the order of their names."""
    with resources.files("ixi_tfds").joinpath("roster.csv").open(encoding="utf-8") as lines:
        return {row["subject"]: RosterEntry(**row) for row in csv.DictReader(lines)}


def git_blob_sha1(data: bytes) -> str:
    """The SHA-1, in hex, that git gives a file of these bytes."""
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def is_original(subject: str, sha1: str) -> bool | None:
    """Whether a file is the very volume that IXI published for a subject.

    Args:
      subject: such as `IXI002`.
      sha1: `git_blob_sha1` of the `.nii.gz` as it lies on disk.

    Returns:
      None where the checksum of the original is not known, people outside IXI among them.
    """
    entry = load_roster().get(subject)
    if entry is None or not entry.git_blob_sha1:
        return None
    return entry.git_blob_sha1 == sha1
