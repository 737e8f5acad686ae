"""The demo cohort: volumes and a workbook of made-up subjects, in the same form as IXI's.

Nothing is downloaded, and no id of the real IXI occurs. A subject depends only on the seed and its
id, not on the size of the cohort, the machine's cores or the time.
"""

import datetime
import io
import os
import pathlib
import re
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nibabel as nib
import numpy as np
import openpyxl
from tqdm import tqdm

from ixi_tfds.demo.head import brain_mask, make_head
from ixi_tfds.demo.head_model import head_model
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.files import generator, write_bytes

LAST_REAL_ID = 662
LAST_ID = 999
WORKBOOK = "IXI.xlsx"

_COLUMNS = (
    *("IXI_ID", "SEX_ID (1=m, 2=f)", "HEIGHT", "WEIGHT"),
    *("ETHNIC_ID", "MARITAL_ID", "OCCUPATION_ID", "QUALIFICATION_ID"),
    *("DOB", "DATE_AVAILABLE", "STUDY_DATE", "AGE"),
)
# Sheets of codes and their names, in the order of the real workbook.
_ETHNICITIES = {1: "White", 4: "Black or Black British", 3: "Asian or Asian British"}
_ETHNICITIES |= {5: "Chinese", 6: "Other"}
_MARITAL = {1: "Single", 2: "Married", 4: "Divorced or Separated", 3: "Cohabiting", 5: "Widowed"}
_OCCUPATIONS = (
    *("Go out to full time employment", "Go out to part time employment (<25hrs)"),
    *("Study at college or university", "Full-time housework", "Retired", "Unemployed"),
    *("Work for pay at home", "Other"),
)
_QUALIFICATIONS = (
    *("No qualifications", "O-levels, GCSEs, or CSEs", "A-levels"),
    *("Further education e.g. City & Guilds / NVQs", "University or Polytechnic degree"),
)
_LOOKUPS: dict[str, list[tuple[Any, str]]] = {
    "Ethnicity": [("ID", "ETHNIC"), *_ETHNICITIES.items()],
    "Marital Status": [("ID", "MARITAL"), *_MARITAL.items()],
    "Occupation": [("ID", "OCCUPATION"), *enumerate(_OCCUPATIONS, 1)],
    "Qualification": [("ID", "QUALIFICATION"), *enumerate(_QUALIFICATIONS, 1)],
}
# IXI has 322, 185 and 74 scans from its sites; these sixteen have the ratio 9 : 5 : 2.
_SITE_CYCLE = (
    *("Guys", "HH", "Guys", "Guys", "HH", "Guys", "IOP", "Guys"),
    *("HH", "Guys", "HH", "Guys", "Guys", "HH", "IOP", "Guys"),
)
# The quirks of the real workbook: each occurs once in 24 consecutive ids.
_QUIRKS = {
    **{7: "tenfold height", 9: "no age", 11: "zero-filled row", 13: "unknown ethnic code"},
    **{15: "no row", 17: "zeros", 19: "birthday as a date", 21: "two sexes"},
}


class Subject:
    """A subject of the cohort: its number, and what follows from the number alone.

    `name` is the id, such as `IXI701`. `quirk` is the fault of its rows in the workbook, or "".
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"IXI{number:03d}"
        self.site = _SITE_CYCLE[number % len(_SITE_CYCLE)]
        # The scan numbers of IXI end below 3000.
        self.file_name = f"{self.name}-{self.site}-{3000 + number}-T1.nii.gz"
        self.slices = {717: 140, 801: 130}.get(number, 146 if number % 8 == 1 else 150)
        self.quirk = _QUIRKS.get(number % 24, "")


def cohort(subjects: int, first_id: int = 701) -> list[Subject]:
    """The subjects of a cohort.

    Raises:
      UserError: `subjects` is less than 1, or an id belongs to IXI or is above 999.
    """
    last = first_id + subjects - 1
    if subjects < 1 or first_id <= LAST_REAL_ID or last > LAST_ID:
        raise UserError(
            f"a cohort of {subjects} subjects with ids from {first_id}: give at least one subject, "
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
    brain_masks: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Write the volumes of a cohort and their workbook.

    The volumes are 256x256 in-plane, 0.9375x0.9375x1.2 mm. Existing files are overwritten.

    Args:
      output_dir: the folder, made if missing.
      subjects: number of subjects; 24 of them have at least two slice counts, and every quirk.
      seed: another seed gives other heads under the same names.
      first_id: number of the first subject, above 662, the last of IXI. No id may exceed 999.
      progress: show a progress bar.
      coarsen: factor by which voxels are larger, and their number smaller, along each side.
      brain_masks: folder for a mask of each brain, such as `IXI701-Guys-3701-T1_mask.nii.gz`, made
        if missing; None writes none.

    Returns:
      The paths of the volumes, in the order of their ids. The workbook `IXI.xlsx` is beside them.

    Raises:
      UserError: as `cohort`, or the folder cannot be made.
    """
    people = cohort(subjects, first_id)
    folder = _made(output_dir)
    masks = _made(brain_masks) if brain_masks else None
    write_workbook(folder / WORKBOOK, people, seed=seed)

    def write_volume(subject: Subject) -> str:
        path = folder / subject.file_name
        head = _head(subject, seed, coarsen)
        write_bytes(path, _zipped(head))
        if masks:
            name = subject.file_name.replace(".nii.gz", "_mask.nii.gz")
            write_bytes(masks / name, _zipped(_brain_in(head, subject, seed, coarsen)))
        return str(path)

    head_model()  # Made here, or each thread would make its own.
    # Threads are enough: SciPy, NumPy and zlib release the interpreter lock.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        written = pool.map(write_volume, people)
        bar = tqdm(written, "demo cohort", len(people), unit="volume", disable=not progress or None)
        return list(bar)


def volume_bytes(subject: Subject, *, seed: int, coarsen: int = 1) -> bytes:
    """The `.nii.gz` file of a subject; its gzip header has no name and no time."""
    return _zipped(_head(subject, seed, coarsen))


def _head(subject: Subject, seed: int, coarsen: int) -> nib.Nifti1Image:
    return make_head(subject.name, subject.site, seed=seed, **_grid(subject, coarsen))


def _brain_in(head: nib.Nifti1Image, subject: Subject, seed: int, coarsen: int) -> nib.Nifti1Image:
    """The mask of the brain in a subject's head, on its grid; uint8, 1 in the brain."""
    mask = brain_mask(subject.name, subject.site, seed=seed, **_grid(subject, coarsen))
    image = nib.Nifti1Image(mask.astype(np.uint8), head.affine)
    image.set_qform(head.affine, code=1)
    return image


def _made(path: str | os.PathLike[str]) -> pathlib.Path:
    """The folder, made if missing."""
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def _grid(subject: Subject, coarsen: int) -> dict[str, Any]:
    """Shape and zooms of a subject's volume."""
    return {
        "shape": (256 // coarsen, 256 // coarsen, subject.slices // coarsen),
        "zooms": (0.9375 * coarsen, 0.9375 * coarsen, 1.2 * coarsen),
    }


def _zipped(image: nib.Nifti1Image) -> bytes:
    deflate = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return deflate.compress(image.to_bytes()) + deflate.flush()


def write_workbook(path: str | os.PathLike[str], people: list[Subject], *, seed: int) -> None:
    """Write an .xlsx with the sheets, columns and quirks of the real `IXI.xls`.

    Each of these occurs once in 24 consecutive subjects: a height ten times too large, no age, a
    second row of zeros, the ethnic code 2 (which has no name), no row at all, zeros for missing
    values, a birthday as a date instead of text, a second row that disagrees on sex.
    """
    rows = [row for person in people for row in _rows(person, seed)]
    dates = {row["IXI_ID"]: row["STUDY_DATE"] for row in rows if row["STUDY_DATE"]}
    sheets = {"Table": [_COLUMNS, *(tuple(row.values()) for row in rows)], **_LOOKUPS}
    sheets["Study Date"] = [("ixi_id", "study_date"), *dates.items()]
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, content in sheets.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    saved = io.BytesIO()
    book.save(saved)
    write_bytes(pathlib.Path(path), _without_times(saved.getvalue()))


def _rows(person: Subject, seed: int) -> list[dict[str, Any]]:
    """The rows of a subject in the sheet `Table`: one, unless its quirk makes it none or two."""
    rng = generator(f"{seed}:{person.name}:workbook")
    sex = 1 + int(rng.random() < 0.55)
    height = int(rng.normal((176, 163)[sex - 1], 7))
    weight = int(rng.normal((80, 66)[sex - 1], 11))
    ethnic = int(rng.choice([1, 3, 4, 5, 6], p=[0.8, 0.09, 0.05, 0.03, 0.03]))
    codes = [ethnic, *(int(rng.integers(1, end)) for end in (6, 9, 6))]
    study = datetime.datetime(2006, 1, 2) + datetime.timedelta(days=int(rng.integers(330)))
    born = study - datetime.timedelta(days=int(rng.uniform(20, 86) * 365.25))
    dates = (born.date().isoformat(), 1, study, (study - born).days / 365.25)
    values = (person.number, sex, height, weight, *codes, *dates)
    row: dict[str, Any] = dict(zip(_COLUMNS, values, strict=True))
    zeros = dict.fromkeys(_COLUMNS[2:8], 0)
    match person.quirk:
        case "tenfold height":
            row["HEIGHT"] *= 10
        case "no age":
            row |= {"DATE_AVAILABLE": 0, "STUDY_DATE": None, "AGE": None}
        case "zero-filled row":
            return [row, row | zeros]
        case "unknown ethnic code":
            row["ETHNIC_ID"] = 2
        case "no row":
            return []
        case "zeros":
            row |= zeros
        case "birthday as a date":
            row["DOB"] = born
        case "two sexes":
            return [row, row | {"SEX_ID (1=m, 2=f)": 3 - sex}]
    return [row]


def _without_times(xlsx: bytes) -> bytes:
    """A workbook with fixed dates instead of the time at which it was saved."""
    fixed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(xlsx)) as source, zipfile.ZipFile(fixed, "w") as target:
        for name in source.namelist():
            times = rb"(<dcterms:\w+ [^>]*>)[^<]*"  # created and modified
            content = re.sub(times, rb"\g<1>2006-01-01T00:00:00Z", source.read(name))
            # A ZipInfo made from a name alone is dated 1980.
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()
