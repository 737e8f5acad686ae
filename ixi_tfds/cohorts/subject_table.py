"""`--subjects`: a table that says who is the person in each file."""

import csv
import dataclasses
import fnmatch
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ixi_tfds.cohorts.names import stem_of
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError

_COLUMNS = {
    "file": ("file", "pattern", "file_or_pattern", "path", "filename"),
    "person": ("person", "subject", "participant_id", "subject_id"),
    "site": ("site",),
    "sex": ("sex", "gender"),
    "age": ("age",),
    "session": ("session", "visit"),
}
"""Names of the columns, in lower case; the first two are needed."""

_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_UNKNOWN = {"", "n/a", "na", "nan", "o", "other", "unknown"}
_OLDEST = 120.0


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: the person in the files that a name or pattern fits.

    Attributes:
      line: number of the line in the file.
      file: path below the source folder or file name, with or without extension, or a pattern with
        `*`, `?` or `[...]`.
      person: the subject.
      site: empty where unknown.
      session: orders the scans of a person; empty where unknown.
      facts: `sex` and `age` as in a `Scan`, those that are known.
    """

    line: int
    file: str
    person: str
    site: str = ""
    session: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of the table in the file `path`, those that are no patterns by their `file` too."""

    path: str
    rows: tuple[Row, ...]
    by_name: Mapping[str, Sequence[Row]]
    patterns: tuple[Row, ...]


def read_table(path: str) -> Table:
    """The table in a file with values separated by tabs, commas or semicolons.

    Raises:
      UserError: the file cannot be read, lacks a column, or has a row without file or person, or
        with a sex or age that is none.
    """
    where = f"--subjects={path}"
    try:
        with storage.at(path).open(encoding="utf-8-sig", newline="") as lines:
            text = lines.read()
        header = text.partition("\n")[0]
        delimiter = next((mark for mark in "\t,;" if mark in header), ",")
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
        columns = _find_columns(reader.fieldnames or [], where)
        rows = [
            _row(f"{where}, line {reader.line_num}", reader.line_num, row, columns)
            for row in reader
            if any((value or "").strip() for value in row.values() if not isinstance(value, list))
        ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as a table ({error})") from error
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.file, []).append(row)
    patterns = tuple(row for row in rows if re.search(r"[*?\[]", row.file))
    return Table(path, tuple(rows), by_name, patterns)


def row_of(table: Table, file: str) -> Row | None:
    """The row of a file, by its path below the source folder; None without one.

    A row with the very name of a file goes before patterns.

    Raises:
      UserError: rows say two different people.
    """
    name = PurePosixPath(file).name
    stem = stem_of(name)
    names = {file, file.removesuffix(name) + stem, name, stem}
    fits = [row for each in sorted(names) for row in table.by_name.get(each, ())] or [
        row for row in table.patterns if any(fnmatch.fnmatchcase(each, row.file) for each in names)
    ]
    fits.sort(key=lambda row: row.line)
    for row in fits:
        if row.person != fits[0].person:
            raise UserError(
                f"--subjects={table.path}, lines {fits[0].line} and {row.line}: say two people for "
                f"{file}, {fits[0].person} and {row.person}"
            )
    return fits[0] if fits else None


def _find_columns(header: Iterable[str], where: str) -> dict[str, str]:
    known = {name.strip().lower(): name for name in header if name}
    found = {
        column: known[name]
        for column, names in _COLUMNS.items()
        for name in reversed(names)
        if name in known
    }
    for column in ("file", "person"):
        if column not in found:
            raise UserError(
                f"{where}: has no column {column!r}; its first line names the columns, file and "
                "person, and if you have them site, sex, age and session"
            )
    return found


def _row(where: str, line: int, row: Mapping[str, str], columns: Mapping[str, str]) -> Row:
    values = {column: (row[name] or "").strip() for column, name in columns.items()}
    for column in ("file", "person"):
        if not values[column]:
            raise UserError(f"{where}: has no {column}")
    facts: dict[str, Any] = {}
    sex, age = values.get("sex", "").lower(), values.get("age", "").lower()
    if sex not in _UNKNOWN:
        if sex not in _SEXES:
            raise UserError(f"{where}: sex {reprlib.repr(sex)} is not known; write f, m or nothing")
        facts["sex"] = _SEXES[sex]
    if age not in _UNKNOWN:
        facts["age"] = _age(where, age)
    file = values["file"].removeprefix("./")
    return Row(
        line, file, values["person"], values.get("site", ""), values.get("session", ""), facts
    )


def _age(where: str, text: str) -> float:
    try:
        age = float(text.removesuffix("+"))
    except ValueError:
        age = math.nan
    if not 0 <= age <= _OLDEST:
        raise UserError(f"{where}: age {reprlib.repr(text)} is not an age in years")
    return age
