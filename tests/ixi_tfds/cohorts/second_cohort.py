"""A second cohort, of made-up heads: with a roster, and with names and a workbook of its own form.

`--cohort=second_cohort:COHORT` names it to a command; importing this module makes
`tfds.load("second/thesis")` known.
"""

import csv
import pathlib
import re

import nibabel as nib

from ixi_tfds.builder import builder_class
from ixi_tfds.cohorts.cohort import Cohort, People
from ixi_tfds.demo.head import make_head

_NAME = re.compile(r"T1_(?P<site>[a-z]+)\.(?P<number>\d{2})(?=$|\.)")
_SEXES = {"w": "female", "m": "male"}


def read_name(stem):
    """`T1_coast.07` is of subject P07, scanned at the coast."""
    match = _NAME.match(stem)
    return match and (f"P{match['number']}", match["site"])


def find_people(source_dir, workbook=None):
    """From `who.csv`, which has columns person, sex (w or m) and born; all were scanned in 2020."""
    with pathlib.Path(workbook or pathlib.Path(source_dir, "who.csv")).open() as lines:
        rows = list(csv.DictReader(lines))
    facts = {
        row["person"]: {"sex": _SEXES[row["sex"]], "age": 2020.0 - float(row["born"])}
        for row in rows
        if row["sex"]
    }
    return People(facts, tuple(f"{r['person']}: no sex" for r in rows if not r["sex"]))


COHORT = Cohort(
    name="second",
    title="Second",
    read_name=read_name,
    find_people=find_people,
    roster=pathlib.Path(__file__).with_name("second_roster.csv"),
    description="Made-up heads.",
)
Second = builder_class(COHORT)


def write_scans(folder, numbers=range(1, 13)):
    """Heads and what is known of them; P12 is not in the roster, and of P11 the sex is unknown."""
    folder.mkdir()
    rows = ["person,sex,born"]
    for number in numbers:
        site = ("coast", "hills")[number % 2]
        zooms = (7.5, 7.5, 7.0)
        scanner = ("HH", "Guys")[number % 2]
        head = make_head(f"P{number:02d}", scanner, seed=2, shape=(32, 32, 24), zooms=zooms)
        nib.save(head, folder / f"T1_{site}.{number:02d}.nii.gz")
        sex = "" if number == 11 else "wm"[number % 2]
        rows.append(f"P{number:02d},{sex},{1940 + number}")
    (folder / "who.csv").write_text("\n".join(rows) + "\n")
    return folder
