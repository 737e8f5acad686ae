"""Rosters: the volumes of a cohort, with the fixed split of each subject."""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class RosterEntry:
    """One volume of a cohort.

    Attributes:
      name: the file's canonical name without extension, such as `IXI002-Guys-0828-T1`.
      subject: such as `IXI002`.
      site: where the subject was scanned, such as `Guys`.
      split: `train`, `validation` or `test`.
      git_blob_sha1: `files.git_blob_sha1` of the original `.nii.gz`; empty where unknown.
    """

    name: str
    subject: str
    site: str
    split: str
    git_blob_sha1: str


Roster = Mapping[str, RosterEntry]
"""Entries by subject."""


@functools.cache
def read_roster(path: pathlib.Path | None) -> Roster:
    """Read a roster: a CSV file with one column for each field of `RosterEntry`.

    None, for a cohort without a roster, gives an empty one.
    """
    if path is None:
        return {}
    with path.open(encoding="utf-8") as lines:
        return {row["subject"]: RosterEntry(**row) for row in csv.DictReader(lines)}


def is_original(roster: Roster, subject: str, sha1: str) -> bool | None:
    """Whether a file is the volume that was published for a subject.

    Args:
      roster: of the subject's cohort.
      subject: such as `IXI002`.
      sha1: `files.git_blob_sha1` of the `.nii.gz` on disk.

    Returns:
      None where the checksum of the original is unknown, or the subject is not in the roster.
    """
    entry = roster.get(subject)
    if entry is None or not entry.git_blob_sha1:
        return None
    return entry.git_blob_sha1 == sha1
