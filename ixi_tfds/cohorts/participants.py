"""Sex and age of the people of a BIDS folder, from `participants.tsv` and `participants.json`."""

import csv
import json
import math
import pathlib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from ixi_tfds.system import storage
from ixi_tfds.system.errors import WorkbookError

_WHEN = "in|at|of|first|baseline|enrollment|scan|mri|acquisition|visit|session|test"
_UNIT = "years?|yrs?|y|months?"
_COLUMNS = {
    "participant_id": re.compile("(participant|subject|sub|patient)s?(id|label|code)?"),
    "sex": re.compile(
        "(biological|birth|participant|subject|patient)?(sex|gender)(assigned)?(atbirth)?"
    ),
    "age": re.compile(f"(participant|subject|patient|scan|mri)?age({_WHEN}|{_UNIT})*"),
}
"""Names of columns that are taken, in lower case with letters and digits only."""

_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_WORDS = _SEXES | {"woman": "female", "women": "female", "females": "female"}
_WORDS |= {"man": "male", "men": "male", "males": "male"}
_SAID_TO_BE_UNKNOWN = {"", "n/a", "na", "nan", "o", "other", "unknown"}
_OLDEST = 120.0
_UNITS = {"year": 1.0, "yr": 1.0, "y": 1.0, "month": 12.0, "week": 365.25 / 7, "day": 365.25}
"""How many of a unit are a year, by its name in the singular."""

_Rows = Mapping[str, list[Mapping[str, str | None]]]


def read_participants(folder: str) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Sex and age of each subject in `participants.tsv`.

    Columns may have other common names, such as `Gender` and `age_at_scan`. `participants.json` may
    say what the values of sex mean (`Levels`) and in which unit ages are (`Units`).

    Returns:
      `sex` (as in `features.SEXES`) and `age` (years, NaN where unknown; `89+` counts as 89) by
      subject, such as `sub-01`; and one warning for each value that could not be used, each column
      that is missing, and columns of other names.

    Raises:
      WorkbookError: the file cannot be read as a table, or has no column `participant_id`.
    """
    path = storage.at(folder, "participants.tsv")
    if not path.is_file():
        return {}, (f"{path}: not found; sex and age of all subjects will be missing",)
    rows = _read_rows(path)
    warnings: list[str] = []
    columns = _find_columns(path, rows, warnings)
    rows_of: dict[str, list[Mapping[str, str | None]]] = {}
    for row in rows:
        if not (row[columns["participant_id"]] or "").strip():
            continue
        name = "sub-" + row[columns["participant_id"]].strip().removeprefix("sub-")
        rows_of.setdefault(name, []).append(row)
    described = _read_sidecar(storage.at(folder, "participants.json"), warnings)
    sexes = _sexes(rows_of, columns.get("sex"), described, warnings)
    ages = _ages(rows_of, columns.get("age"), described, warnings)
    return {name: {"sex": sexes[name], "age": ages[name]} for name in rows_of}, tuple(warnings)


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t"))
    except (OSError, UnicodeError, csv.Error) as error:
        raise WorkbookError(f"{path}: cannot be read as a table ({error})") from error


def _find_columns(
    path: pathlib.Path, rows: list[dict[str, Any]], warnings: list[str]
) -> dict[str, str]:
    """The names of the columns for `participant_id`, `sex` and `age`, of those that are there."""
    if not rows:
        warnings.append(f"{path}: has no rows; sex and age of all subjects will be missing")
        return {}
    plain = {header: re.sub("[^a-z0-9]", "", header.lower()) for header in rows[0] if header}
    columns = {}
    for wanted, names in _COLUMNS.items():
        fitting = [header for header in plain if names.fullmatch(plain[header])]
        if fitting:
            # Of several names the one that says least besides: Age before age_at_first_scan.
            shortest = min(fitting, key=lambda header: len(plain[header]))
            columns[wanted] = wanted if wanted in fitting else shortest
    if "participant_id" not in columns:
        raise WorkbookError(f"{path}: has no column 'participant_id', separated by tabs")
    other = [
        f"{reprlib.repr(column)} as {name}" for name, column in columns.items() if column != name
    ]
    if other:
        warnings.append(f"participants.tsv: takes the column {', '.join(other)}")
    missing = " and ".join(name for name in ("sex", "age") if name not in columns)
    if missing:
        warnings.append(f"participants.tsv: has no column for {missing}: missing for everybody")
    return columns


def _read_sidecar(path: pathlib.Path, warnings: list[str]) -> Mapping[str, Any]:
    """What `participants.json` says of each column; empty where it says nothing usable."""
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"participants.json: cannot be read and is passed over ({error})")
        return {}
    columns = described.items() if isinstance(described, dict) else ()
    return {name: column for name, column in columns if isinstance(column, dict)}


def _agreed(
    name: str,
    rows: Iterable[Mapping[str, str | None]],
    column: str | None,
    what: str,
    warnings: list[str],
) -> str:
    """The value of a column in all rows of a subject; empty where the rows disagree."""
    said = {(row.get(column or "") or "").strip().lower() for row in rows} - _SAID_TO_BE_UNKNOWN
    if len(said) > 1:
        stated = " and ".join(reprlib.repr(each)[1:-1] for each in sorted(said)[:3])
        warnings.append(f"{name}: rows of participants.tsv disagree on {what} ({stated}): missing")
    return said.pop() if len(said) == 1 else ""


def _sexes(
    rows_of: _Rows, column: str | None, described: Mapping[str, Any], warnings: list[str]
) -> dict[str, str]:
    levels = described.get(column or "", {}).get("Levels")
    meaning = _SEXES | _meanings(levels if isinstance(levels, dict) else {})
    found, codes = {}, set()
    for name, rows in rows_of.items():
        text = _agreed(name, rows, column, "sex", warnings).removesuffix(".0")
        if text.isdecimal() and text not in meaning:
            codes.add(text)
        elif text and text not in meaning:
            shown = reprlib.repr(text)
            warnings.append(f"{name}: sex {shown} in participants.tsv is not known: missing")
        found[name] = meaning.get(text, "unknown")
    if codes:
        listed = ", ".join(reprlib.repr(code)[1:-1] for code in sorted(codes)[:3])
        warnings.append(
            f"participants.tsv: sex is coded ({listed}) and participants.json has no Levels that "
            "say what that means: missing"
        )
    return found


def _meanings(levels: Mapping[str, Any]) -> dict[str, str]:
    """What values of sex mean, of those whose description names one sex."""
    found = {}
    for value, text in levels.items():
        text = text.get("Description") if isinstance(text, dict) else text
        words = re.findall("[a-z]+", text.lower()) if isinstance(text, str) else []
        named = {_WORDS[word] for word in words if word in _WORDS}
        if len(named) == 1:
            found[value.strip().lower()] = named.pop()
    return found


def _ages(
    rows_of: _Rows, column: str | None, described: Mapping[str, Any], warnings: list[str]
) -> dict[str, float]:
    unit = described.get(column or "", {}).get("Units")
    if not isinstance(unit, str) or not unit.strip():
        unit = "months" if column and "month" in column.lower() else "years"
    a_year = _UNITS.get(unit.strip().lower().rstrip("s"), 0.0)
    if not a_year:
        shown = reprlib.repr(unit)
        warnings.append(f"participants.json: the unit {shown} of ages is not known: taken as years")
        a_year = 1.0
    elif a_year != 1:
        warnings.append(f"participants.tsv: ages are in {unit}, and stored in years")
    return {
        name: _age(name, _agreed(name, rows, column, "age", warnings), a_year, warnings)
        for name, rows in rows_of.items()
    }


def _age(name: str, text: str, a_year: float, warnings: list[str]) -> float:
    if not text:
        return math.nan
    try:
        age = float(text.removesuffix("+")) / a_year
    except ValueError:
        age = math.nan
    if not 0 <= age <= _OLDEST:
        shown = reprlib.repr(text)
        warnings.append(f"{name}: age {shown} in participants.tsv is not an age in years: missing")
        return math.nan
    return age
