"""BIDS folders: their T1 volumes, and the sex and age of subjects in `participants.tsv`.

See https://bids-specification.readthedocs.io. Only `sub-*/[ses-*/]anat/*_T1w.nii[.gz]` is read;
other modalities, `derivatives/` and `sourcedata/` are ignored.
"""

import csv
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError, WorkbookError

_T1W = re.compile(r"_T1w\.nii(\.gz)?$", re.IGNORECASE)
_FOLDERS = ("sub-*/anat", "sub-*/ses-*/anat")
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_SAID_TO_BE_UNKNOWN = {"", "n/a", "na", "nan", "o", "other", "unknown"}
_OLDEST = 120.0


def is_bids(folder: str) -> bool:
    """Whether a folder has a `dataset_description.json` or a subject's `anat` folder."""
    root = storage.at(folder)
    described = (root / "dataset_description.json").is_file()
    return described or any(True for pattern in _FOLDERS for _ in root.glob(pattern))


def t1_volumes(folder: str) -> list[str]:
    """Paths of the T1 volumes of all subjects and sessions, sorted.

    Raises:
      UserError: the folder holds no T1 volume.
    """
    paths = sorted(
        str(path)
        for pattern in _FOLDERS
        for path in storage.at(folder).glob(f"{pattern}/sub-*")
        if _T1W.search(path.name)
    )
    if not paths:
        raise UserError(
            f"{folder}: is a BIDS folder without T1 volumes (sub-*/[ses-*/]anat/*_T1w.nii.gz)"
        )
    return paths


def subject_of(path: str, folder: str) -> str:
    """The subject of a volume in a BIDS folder, such as `sub-01`, without the session."""
    return storage.at(path).relative_to(storage.at(folder)).parts[0]


def read_participants(folder: str) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Sex and age of each subject in `participants.tsv`.

    Returns:
      `sex` (as in `features.SEXES`) and `age` (years, NaN where unknown; `89+` counts as 89) by
      subject, such as `sub-01`; and one warning for each value that could not be used.

    Raises:
      WorkbookError: the file cannot be read as a table, or has no column `participant_id`.
    """
    path = storage.at(folder, "participants.tsv")
    if not path.is_file():
        return {}, (f"{path}: not found; sex and age of all subjects will be missing",)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
    except (OSError, UnicodeError, csv.Error) as error:
        raise WorkbookError(f"{path}: cannot be read as a table ({error})") from error
    rows_of: dict[str, list[Mapping[str, str | None]]] = {}
    if rows and "participant_id" not in rows[0]:
        raise WorkbookError(f"{path}: has no column 'participant_id', separated by tabs")
    for row in rows:
        if not (row["participant_id"] or "").strip():
            continue
        name = "sub-" + row["participant_id"].strip().removeprefix("sub-")
        rows_of.setdefault(name, []).append(row)
    warnings: list[str] = []
    people = {
        name: {
            "sex": _sex(name, _agreed(name, mine, "sex", warnings), warnings),
            "age": _age(name, _agreed(name, mine, "age", warnings), warnings),
        }
        for name, mine in rows_of.items()
    }
    return people, tuple(warnings)


def _agreed(
    name: str, rows: Iterable[Mapping[str, str | None]], column: str, warnings: list[str]
) -> str:
    """The value of a column in all rows of a subject; empty where the rows disagree."""
    said = {(row.get(column) or "").strip().lower() for row in rows} - _SAID_TO_BE_UNKNOWN
    if len(said) > 1:
        stated = " and ".join(reprlib.repr(each)[1:-1] for each in sorted(said)[:3])
        warnings.append(
            f"{name}: rows of participants.tsv disagree on {column} ({stated}): missing"
        )
    return said.pop() if len(said) == 1 else ""


def _sex(name: str, text: str, warnings: list[str]) -> str:
    if text and text not in _SEXES:
        warnings.append(
            f"{name}: sex {reprlib.repr(text)} in participants.tsv is not known: missing"
        )
    return _SEXES.get(text, "unknown")


def _age(name: str, text: str, warnings: list[str]) -> float:
    if not text:
        return math.nan
    try:
        age = float(text.removesuffix("+"))
    except ValueError:
        age = math.nan
    if not 0 <= age <= _OLDEST:
        shown = reprlib.repr(text)
        warnings.append(f"{name}: age {shown} in participants.tsv is not an age in years: missing")
        return math.nan
    return age
