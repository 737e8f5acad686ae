"""The demo cohort: made-up subjects, as volumes and a workbook just as IXI publishes its own.

Nothing is downloaded, and no id of the real IXI occurs. A subject depends on the seed and its id
alone, not on the size of the cohort, the machine's cores or the time.
"""

import dataclasses
import datetime
import io
import os
import pathlib
import re
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openpyxl
from tqdm import tqdm

from ixi_tfds.errors import UserError
from ixi_tfds.head import generator, make_head
from ixi_tfds.head_model import head_model

LAST_REAL_ID = 662
LAST_ID = 999
WORKBOOK = "IXI.xlsx"

_COLUMNS = (
    "IXI_ID",
    "SEX_ID (1=m, 2=f)",
    "HEIGHT",
    "WEIGHT",
    "ETHNIC_ID",
    "MARITAL_ID",
    "OCCUPATION_ID",
    "QUALIFICATION_ID",
    "DOB",
    "DATE_AVAILABLE",
    "STUDY_DATE",
    "AGE",
)
_LOOKUPS: dict[str, tuple[tuple[Any, str], ...]] = {
    "Ethnicity": (
        ("ID", "ETHNIC"),
        (1, "White"),
        (4, "Black or Black British"),
        (3, "Asian or Asian British"),
        (5, "Chinese"),
        (6, "Other"),
    ),
    "Marital Status": (
        ("ID", "MARITAL"),
        (1, "Single"),
        (2, "Married"),
        (4, "Divorced or Separated"),
        (3, "Cohabiting"),
        (5, "Widowed"),
    ),
    "Occupation": (
        ("ID", "OCCUPATION"),
        (1, "Go out to full time employment"),
        (2, "Go out to part time employment (<25hrs)"),
        (3, "Study at college or university"),
        (4, "Full-time housework"),
        (5, "Retired"),
        (6, "Unemployed"),
        (7, "Work for pay at home"),
        (8, "Other"),
    ),
    "Qualification": (
        ("ID", "QUALIFICATION"),
        (1, "No qualifications"),
        (2, "O-levels, GCSEs, or CSEs"),
        (3, "A-levels"),
        (4, "Further education e.g. City & Guilds / NVQs"),
        (5, "University or Polytechnic degree"),
    ),
}
# Sites stand in IXI as 322 : 185 : 74; these sixteen ids in turn, as 9 : 5 : 2.
_SITE_CYCLE = (
    *("Guys", "HH", "Guys", "Guys", "HH", "Guys", "IOP", "Guys"),
    *("HH", "Guys", "HH", "Guys", "Guys", "HH", "IOP", "Guys"),
)
# The quirks of the real workbook, one subject each in every 24 ids in a row.
_QUIRK_CYCLE = 24
_QUIRKS = {
    7: "tenfold height",
    9: "no age",
    11: "stands twice",
    13: "unknown ethnic code",
    15: "no row",
    17: "zeros",
    19: "birthday as a date",
    21: "two sexes",
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A subject of the cohort: its number, and what follows from it without any randomness."""

    number: int

    @property
    def name(self) -> str:
        """The id, as `IXI701`."""
        return f"IXI{self.number:03d}"

    @property
    def site(self) -> str:
        """Guys, HH or IOP."""
        return _SITE_CYCLE[self.number % len(_SITE_CYCLE)]

    @property
    def file_name(self) -> str:
        """Name of its volume, in IXI's form; the scan numbers of IXI end below 3000."""
        return f"{self.name}-{self.site}-{3000 + self.number}-T1.nii.gz"

    @property
    def slices(self) -> int:
        """Slices of its volume: 150, now and then 146, one subject each 140 and 130."""
        return {717: 140, 801: 130}.get(self.number, 146 if self.number % 8 == 1 else 150)

    @property
    def quirk(self) -> str:
        """What is wrong with its rows in the workbook, one of `_QUIRKS`, or nothing."""
        return _QUIRKS.get(self.number % _QUIRK_CYCLE, "")


def cohort(subjects: int, first_id: int = 701) -> list[Subject]:
    """The subjects of a cohort.

    Raises:
      UserError: fewer than one, or ids that IXI has or that do not fit in three digits.
    """
    last = first_id + subjects - 1
    if subjects < 1 or first_id <= LAST_REAL_ID or last > LAST_ID:
        raise UserError(
            f"a cohort of {subjects} subjects from id {first_id} on: give at least one subject, "
            f"with ids between {LAST_REAL_ID + 1} and {LAST_ID}"
        )
    return [Subject(number) for number in range(first_id, last + 1)]


def write_cohort(
    output_dir: str | os.PathLike[str],
    *,
    subjects: int = 24,
    seed: int = 0,
    first_id: int = 701,
    progress: bool = True,
    coarsen: int = 1,
) -> list[str]:
    """Write the volumes of a cohort and their workbook.

    The volumes are 256x256 in-plane, 0.9375x0.9375x1.2 mm; files that are there are overwritten.

    Args:
      output_dir: the folder, made where it is missing.
      subjects: how many; any 24 in a row have two slice counts at least, and every quirk.
      seed: another seed gives other people under the same names.
      first_id: number of the first subject, above the 662 of IXI; the last may be 999.
      progress: show a progress bar.
      coarsen: voxels this many times larger along each side, so that many fewer.

    Returns:
      The paths of the volumes, in the order of their ids; the workbook is `IXI.xlsx` beside them.

    Raises:
      UserError: the ids would not be free ones of three digits, or the folder cannot be made.
    """
    people = cohort(subjects, first_id)
    folder = pathlib.Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    write_workbook(folder / WORKBOOK, people, seed=seed)

    def write_volume(subject: Subject) -> str:
        path = folder / subject.file_name
        _write_whole(path, volume_bytes(subject, seed=seed, coarsen=coarsen))
        return str(path)

    # Threads are enough: SciPy, NumPy and zlib leave the interpreter free while they work.
    workers = min(os.cpu_count() or 1, 8)
    with (
        tqdm(
            total=len(people),
            desc="demo cohort",
            unit="volume",
            disable=None if progress else True,
        ) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        head_model()  # before the threads, which would each make it
        paths = []
        for path in pool.map(write_volume, people):
            paths.append(path)
            bar.update()
    return paths


def volume_bytes(subject: Subject, *, seed: int, coarsen: int = 1) -> bytes:
    """The `.nii.gz` file of a subject, with no name and no time in its gzip header."""
    image = make_head(
        subject.name,
        subject.site,
        seed=seed,
        shape=(256 // coarsen, 256 // coarsen, subject.slices // coarsen),
        zooms=(0.9375 * coarsen, 0.9375 * coarsen, 1.2 * coarsen),
    )
    deflate = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return deflate.compress(image.to_bytes()) + deflate.flush()


def write_workbook(path: str | os.PathLike[str], people: list[Subject], *, seed: int) -> None:
    """Write an .xlsx with the sheets, columns and quirks of the real `IXI.xls`.

    Of every 24 subjects in a row one each has: a height ten times too large, no age, a second row
    full of zeros, the ethnic code 2 (which has no name), no row at all, zeros for missing
    values, a birthday that is a date and not text, a second row that disagrees on sex.
    """
    rows = [row for person in people for row in _rows(person, seed)]
    sheets: dict[str, list[tuple[Any, ...]]] = {"Table": [_COLUMNS, *rows]}
    sheets |= {name: list(lookup) for name, lookup in _LOOKUPS.items()}
    dates = {row[0]: row[10] for row in rows if row[10] is not None}
    sheets["Study Date"] = [("ixi_id", "study_date"), *dates.items()]
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, content in sheets.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    book.properties.created = datetime.datetime(2006, 1, 1)
    saved = io.BytesIO()
    book.save(saved)
    _write_whole(pathlib.Path(path), _without_times(saved.getvalue()))


def _rows(person: Subject, seed: int) -> list[tuple[Any, ...]]:
    """The rows of a subject in the sheet `Table`: one, or as many as its quirk makes of it."""
    rng = generator(f"{seed}:{person.name}:workbook")
    sex = 1 + int(rng.random() < 0.55)
    height = int(rng.normal((176, 163)[sex - 1], 7))
    weight = int(rng.normal((80, 66)[sex - 1], 11))
    ethnic = int(rng.choice([1, 3, 4, 5, 6], p=[0.8, 0.09, 0.05, 0.03, 0.03]))
    codes = [ethnic, *(int(rng.integers(1, end)) for end in (6, 9, 6))]
    study = datetime.datetime(2006, 1, 2) + datetime.timedelta(days=int(rng.integers(330)))
    born = study - datetime.timedelta(days=int(rng.uniform(20, 86) * 365.25))
    age = (study - born).days / 365.25
    birthday: Any = born.date().isoformat()
    quirk = person.quirk
    if quirk == "tenfold height":
        height *= 10
    elif quirk == "unknown ethnic code":
        codes[0] = 2
    elif quirk == "birthday as a date":
        birthday = born
    elif quirk == "zeros":
        height, weight, codes = 0, 0, [0, 0, 0, 0]
    tail = (birthday, 0, None, None) if quirk == "no age" else (birthday, 1, study, age)
    row = (person.number, sex, height, weight, *codes, *tail)
    if quirk == "no row":
        return []
    if quirk == "stands twice":
        return [row, (person.number, sex, 0, 0, 0, 0, 0, 0, *tail)]
    if quirk == "two sexes":
        return [row, (person.number, 3 - sex, height, weight, *codes, *tail)]
    return [row]


def _without_times(xlsx: bytes) -> bytes:
    """The same workbook without the time at which it was saved."""
    fixed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(xlsx)) as source,
        zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(
                    rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2006-01-01T00:00:00Z", content
                )
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, content)
    return fixed.getvalue()


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_bytes(content)
    partial.replace(path)
