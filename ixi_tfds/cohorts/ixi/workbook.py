"""Sex, ethnicity, age, height and weight of the subjects, read from IXI's workbook.

The sheet `Table` has one row for each subject, except that some subjects have two, and zeros for
missing values. The optional sheet `Study Date` has the date of each subject's scan.
"""

import collections
import dataclasses
import io
import math
import reprlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ixi_tfds.system import storage
from ixi_tfds.system.errors import WorkbookError

SEX_COLUMN = "SEX_ID (1=m, 2=f)"
SEX_CODES: Mapping[float, str] = {1: "male", 2: "female"}
ETHNIC_CODES: Mapping[float, str] = {1: "white", 3: "asian", 4: "black", 5: "chinese", 6: "other"}
PLAUSIBLE = {"AGE": (0.0, 120.0), "HEIGHT": (120.0, 220.0), "WEIGHT": (30.0, 200.0)}
"""Smallest and largest plausible values, in years, cm and kg."""

MOST_ROWS = 2000
"""Most rows that a sheet may have: ids have three digits, and IXI's own sheet has 619 rows."""

_MOST_BYTES = 1 << 24
_REQUIRED = ("IXI_ID", SEX_COLUMN, "ETHNIC_ID", "AGE", "HEIGHT", "WEIGHT")
_KEPT = _REQUIRED[1:]
# In these columns zero means missing. A row without a value in any of them was never filled in.
_ZERO_IS_MISSING = (
    "HEIGHT",
    "WEIGHT",
    "ETHNIC_ID",
    "MARITAL_ID",
    "OCCUPATION_ID",
    "QUALIFICATION_ID",
)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Demographics:
    """The demographics in a workbook.

    Attributes:
      table: indexed by the integer IXI id, ascending; columns `sex` and `ethnicity` (names as in
        `features.SEXES` and `features.ETHNICITIES`), `age` (years), `height` (cm), `weight` (kg),
        NaN where missing.
      warnings: one sentence for each value that could not be used, in the order of the ids.
    """

    table: pd.DataFrame
    warnings: tuple[str, ...]


def find_workbook(source_dir: str) -> str | None:
    """The path of `IXI.xls`, `IXI.xlsx` or `IXI.csv` (in any case) at the top of a folder.

    Returns:
      None where no such file exists.

    Raises:
      WorkbookError: the folder has several.
    """
    folder = storage.at(source_dir)
    names = {"ixi.xls", "ixi.xlsx", "ixi.csv"}
    found = sorted(
        str(path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.lower() in names and path.is_file()
    )
    if len(found) > 1:
        raise WorkbookError(
            f"several workbooks, {' and '.join(found)}: keep one, or name one by --workbook"
        )
    return found[0] if found else None


def read_demographics(workbook: str | None) -> Demographics:
    """Read a workbook: `.xls`, `.xlsx`, or the sheet `Table` as `.csv`.

    Several rows with the same id are reduced to one:

    1. A zero-filled row (no value in HEIGHT, WEIGHT and the *_ID columns other than sex) loses to
       a row with values.
    2. If several rows are left, and STUDY_DATE of exactly one of them is the date that the sheet
       `Study Date` has for the id, that row wins.
    3. Rows that are still equally good are merged: a value that one lacks comes from another. A
       field on which they disagree becomes missing, with a warning.
    4. Missing values are completed from the rows that lost. A row that contradicts the result in
       any field is ignored, with a warning: it may describe someone else.

    After that, values outside `PLAUSIBLE` become missing, and codes without a name become unknown.
    Text in place of a number becomes missing. Rows whose id is not a whole number from 0 to 999 are
    ignored. Each of these has a warning. A formula has the value that the workbook stores for it,
    and is missing if the workbook stores none.

    Args:
      workbook: its path. None gives an empty table, and one warning that says so.

    Raises:
      WorkbookError: the file cannot be read, is too large to be IXI's, or lacks the sheet, its
        columns or any row.
    """
    columns = ["sex", "ethnicity", "age", "height", "weight"]
    if workbook is None:
        table = pd.DataFrame(columns=columns, index=pd.Index([], dtype="int64", name="ixi_id"))
        lacks = "no workbook: sex, ethnicity and age of all subjects will be missing"
        return Demographics(table, (lacks,))
    cells, study_dates = _read_sheets(workbook)
    warnings: list[str] = []
    rows_of = _rows_by_id(cells, warnings)
    if not rows_of:
        raise WorkbookError(f"{workbook}: sheet 'Table' has no row with an id in 'IXI_ID'")
    records = {}
    for ixi_id, rows in sorted(rows_of.items()):
        chosen = _one_row(ixi_id, rows, study_dates.get(ixi_id, set()), warnings)
        records[ixi_id] = _decode(ixi_id, chosen, warnings)
    table = pd.DataFrame.from_dict(records, orient="index", columns=columns)
    table.index.name = "ixi_id"
    return Demographics(table, tuple(warnings))


def _read_sheets(workbook: str) -> tuple[list[Row], dict[int, set[pd.Timestamp]]]:
    """The unchanged rows of `Table`, and the dates of each id in `Study Date`."""
    try:
        content = _content(storage.at(workbook))
        if workbook.lower().endswith(".csv"):
            sheets = {"Table": pd.read_csv(content, dtype=object, nrows=MOST_ROWS + 1)}
        else:
            with pd.ExcelFile(content) as book:
                names = {"Table", "Study Date"} & {str(name) for name in book.sheet_names}
                sheets = {
                    name: book.parse(name, dtype=object, nrows=MOST_ROWS + 1) for name in names
                }
    # A broken file makes the readers raise errors of any type.
    except Exception as error:
        raise WorkbookError(f"{workbook}: cannot be read as a workbook ({error})") from error
    if "Table" not in sheets:
        raise WorkbookError(f"{workbook}: has no sheet 'Table'; bring IXI's own workbook")
    table = _checked(workbook, "Table", sheets["Table"], _REQUIRED)
    if table.empty:
        raise WorkbookError(f"{workbook}: sheet 'Table' has no rows")
    dates: dict[int, set[pd.Timestamp]] = collections.defaultdict(set)
    if "Study Date" in sheets:
        sheet = _checked(workbook, "Study Date", sheets["Study Date"], ("ixi_id", "study_date"))
        for cell, date in zip(sheet["ixi_id"], sheet["study_date"], strict=True):
            when = pd.to_datetime(date, errors="coerce")
            if _number(cell).is_integer() and not pd.isna(when):
                dates[int(_number(cell))].add(when)
    rows = [{str(key): cell for key, cell in row.items()} for row in table.to_dict("records")]
    return rows, dates


def _content(workbook: Path) -> io.BytesIO:
    """The bytes of a file. ValueError: it is too large, or would be when unpacked (`.xlsx`)."""
    size = workbook.stat().st_size
    if size <= _MOST_BYTES:
        content = io.BytesIO(workbook.read_bytes())
        if zipfile.is_zipfile(content):
            with zipfile.ZipFile(content) as packed:
                size += sum(member.file_size for member in packed.infolist())
    if size > _MOST_BYTES:
        raise ValueError(f"it holds {size} bytes, more than {_MOST_BYTES}")
    content.seek(0)
    return content


def _checked(workbook: str, name: str, sheet: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    missing = [repr(column) for column in columns if column not in sheet.columns]
    if missing:
        raise WorkbookError(f"{workbook}: sheet '{name}' lacks the column {', '.join(missing)}")
    if len(sheet) > MOST_ROWS:
        raise WorkbookError(
            f"{workbook}: sheet '{name}' has more than {MOST_ROWS} rows; bring IXI's own workbook"
        )
    return sheet.dropna(how="all")


def _rows_by_id(cells: Sequence[Row], warnings: list[str]) -> dict[int, list[Row]]:
    """Group the rows by id. Numbers become floats, missing values NaN."""
    rows_of: dict[int, list[Row]] = collections.defaultdict(list)
    for position, cell in enumerate(cells, start=1):
        number = _number(cell["IXI_ID"])
        if not (number.is_integer() and 0 <= number <= 999):
            shown = reprlib.repr(cell["IXI_ID"])
            warnings.append(f"row {position} of 'Table' has {shown} as id: ignored")
            continue
        ixi_id = int(number)
        row: Row = {"STUDY_DATE": pd.to_datetime(cell.get("STUDY_DATE", pd.NaT), errors="coerce")}
        for column in dict.fromkeys((*_KEPT, *_ZERO_IS_MISSING)):
            row[column] = _number(cell.get(column, math.nan))
            if math.isnan(row[column]) and not _blank(cell.get(column)):
                shown = reprlib.repr(cell[column])
                warnings.append(f"id {ixi_id}: {column} is {shown}, which is not a number: missing")
            elif row[column] == 0 and column in _ZERO_IS_MISSING:
                row[column] = math.nan
        rows_of[ixi_id].append(row)
    return rows_of


def _blank(cell: Any) -> bool:
    return not cell.strip() if isinstance(cell, str) else bool(pd.isna(cell))


def _number(cell: Any) -> float:
    try:
        number = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _one_row(
    ixi_id: int, rows: Sequence[Row], study_dates: set[pd.Timestamp], warnings: list[str]
) -> dict[str, float]:
    """Reduce the rows of an id to one, as `read_demographics` describes."""
    best = [row for row in rows if not all(math.isnan(row[key]) for key in _ZERO_IS_MISSING)]
    best = best or list(rows)
    dated = [row for row in best if row["STUDY_DATE"] in study_dates]
    if len(dated) == 1:
        best = dated
    merged, disputed = {}, set()
    for column in _KEPT:
        values = sorted({row[column] for row in best if not math.isnan(row[column])})
        merged[column] = values[0] if len(values) == 1 else math.nan
        if len(values) > 1:
            disputed.add(column)
            stated = " and ".join(f"{value:g}" for value in values)
            warnings.append(f"id {ixi_id}: rows disagree on {column} ({stated}): missing")
    for row in rows:
        if any(row is winner for winner in best):
            continue
        against = [c for c in _KEPT if row[c] != merged[c] and not math.isnan(row[c] + merged[c])]
        if against:
            warnings.append(
                f"id {ixi_id}: ignored a row that contradicts the kept one on {', '.join(against)}"
            )
            continue
        for column in _KEPT:
            if math.isnan(merged[column]) and column not in disputed:
                merged[column] = row[column]
    return merged


def _decode(ixi_id: int, row: Mapping[str, float], warnings: list[str]) -> list[Any]:
    """Sex, ethnicity, age, height and weight of a row; implausible values become missing."""
    names = []
    for column, codes in ((SEX_COLUMN, SEX_CODES), ("ETHNIC_ID", ETHNIC_CODES)):
        code = row[column]
        names.append("unknown" if math.isnan(code) else codes.get(code, "unknown"))
        if not math.isnan(code) and code not in codes:
            warnings.append(f"id {ixi_id}: {column} has the unlisted code {code:g}: unknown")
    numbers = []
    for column, (lowest, highest) in PLAUSIBLE.items():
        value = row[column]
        if value < lowest or value > highest:
            warnings.append(
                f"id {ixi_id}: {column} {value:g} is outside {lowest:g} to {highest:g}: missing"
            )
            value = math.nan
        numbers.append(value)
    return [*names, *numbers]
