"""Who is the person in a file: conventions of public datasets, folders, names and flags."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from ixi_tfds.cohorts import NameFlags
from ixi_tfds.cohorts import catalog as catalogs
from ixi_tfds.cohorts.cohort import People
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.cohorts.subjects import CONVENTIONS
from ixi_tfds.splits import assign_splits
from ixi_tfds.system.errors import UserError

NOBODY = dataclasses.replace(IXI, find_people=lambda *_: People({}))


def find(folder, names, **flags):
    for name in names.split():
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return catalogs.find_scans(str(folder), NOBODY, names=NameFlags(**flags))


def people(folder, names, **flags):
    """The files of each person, the one that is taken first."""
    found = {}
    for scan in find(folder, names, **flags).scans:
        paths = [str(Path(one.path).relative_to(folder)) for one in scan.candidates]
        found[scan.subject] = [path.removesuffix(".nii.gz") for path in paths]
    return found


def refusal_of(folder, names, **flags):
    with pytest.raises(UserError) as caught:
        find(folder, names, **flags)
    return str(caught.value)


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.name)
def test_each_convention_reads_its_example_and_shows_it_in_the_plan(tmp_path, convention):
    file, person = convention.example
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    catalog = catalogs.find_scans(str(tmp_path), NOBODY)
    assert [scan.subject for scan in catalog.scans] == [person]
    assert catalog.told_apart == (f"by {convention.name} (1 file): {file} -> {person}",)


def test_the_page_has_each_convention_in_the_order_in_which_they_are_tried():
    page = (Path(__file__).parents[3] / "docs/people.md").read_text()
    rows = [f"| {one.name} | `{one.example[0]}` | `{one.example[1]}` |" for one in CONVENTIONS]
    assert "\n".join(rows) in page


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "OAS1_0003_MR2_mpr-1_anon OAS1_0003_MR1_mpr-1_anon OAS1_0003_MR1_mpr-2_anon "
            "OAS1_0004_MR1_mpr-1_anon OASIS_OAS1_0004_MR1/aligned_norm",
            {"OAS1_0003": 3, "OAS1_0004": 2},
        ),
        (
            "OAS2_0001_MR1/RAW/mpr-1.nifti OAS2_0001_MR1/RAW/mpr-2.nifti "
            "OAS2_0001_MR2/RAW/mpr-1.nifti OAS2_0002_MR1/RAW/mpr-1.nifti",
            {"OAS2_0001": 3, "OAS2_0002": 1},
        ),
        (
            "OAS30001_MR_d0129 sub-OAS30001_sess-d0757_T1w OAS30001_MR_d2430/anat2/x "
            "sub-OAS30002_ses-d0653_run-01_T1w",
            {"sub-OAS30001": 3, "sub-OAS30002": 1},
        ),
        (
            "ADNI_002_S_0295_MR_MPRAGE_br_raw_20060418193713091_1_S13408_I13722 002_S_0295 "
            "011_S_0002/MPRAGE/2005-08-26_08_20_30.0/I7355/x "
            "011_S_0002/MPRAGE/2006-03-06_10_20_30.0/I7356/x",
            {"002_S_0295": 2, "011_S_0002": 2},
        ),
        ("sub-01_ses-1_T1w sub-01_ses-2_T1w b/sub-02_run-1_T1w", {"sub-01": 2, "sub-02": 1}),
        (
            "bert/mri/T1 bert/mri/orig bert/mri/orig/001 s1_v2.long.s1/mri/norm s1/mri/T1",
            {"bert": 3, "s1": 2},
        ),
        ("100307_3T_T1w_MPR1 100307_3T_T1w_MPR2", {"100307": 2}),
        (
            "BraTS-GLI-00000-000-t1n BraTS-GLI-00000-001-t1n UPENN-GBM-00001_11_T1 "
            "UPENN-GBM-00001_21_T1",
            {"BraTS-GLI-00000": 2, "UPENN-GBM-00001": 2},
        ),
        ("training01_01_mprage_pp training01_02_mprage_pp", {"training01": 2}),
        ("imagesTr/CASE_000_0000 imagesTr/CASE_001_0000", {"CASE_000": 1, "CASE_001": 1}),
    ],
)
def test_two_scans_of_one_person_of_a_public_dataset_are_one_person(tmp_path, names, expected):
    found = people(tmp_path, names)
    assert {person: len(files) for person, files in found.items()} == expected
    for files in found.values():
        assert files == sorted(files)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            "patient01/T1 patient02/T1",
            {"patient01": ["patient01/T1"], "patient02": ["patient02/T1"]},
        ),
        (
            "patient01/T1 patient01/study1_T1W",
            {"patient01": ["patient01/T1", "patient01/study1_T1W"]},
        ),
        (
            "p01/ses-1/anat/T1 p01/ses-2/anat/T1 p02/ses-1/anat/T1",
            {"p01": ["p01/ses-1/anat/T1", "p01/ses-2/anat/T1"], "p02": ["p02/ses-1/anat/T1"]},
        ),
        (
            "p01/scan1/T1 p01/scan2/T1 p02/2019-01-02/T1",
            {"p01": ["p01/scan1/T1", "p01/scan2/T1"], "p02": ["p02/2019-01-02/T1"]},
        ),
        (
            "visit1/p01/T1 visit2/p01/T1 visit1/p02/T1",
            {"p01": ["visit1/p01/T1", "visit2/p01/T1"], "p02": ["visit1/p02/T1"]},
        ),
        (
            "a/p1/t1_sag_x7 a/p2/t1_sag_x7 b/p3/t1_sag_x7 b/p3/x8 b/p4/t1_sag_x7 p5/t1_sag_x7",
            {
                "p1": ["a/p1/t1_sag_x7"],
                "p2": ["a/p2/t1_sag_x7"],
                "p3": ["b/p3/t1_sag_x7", "b/p3/x8"],
                "p4": ["b/p4/t1_sag_x7"],
                "p5": ["p5/t1_sag_x7"],
            },
        ),
        ("100307/T1w/T1w_acpc_dc_restore", {"100307": ["100307/T1w/T1w_acpc_dc_restore"]}),
        ("sub-02/T1 sub-02_ses-2_T1w", {"sub-02": ["sub-02/T1", "sub-02_ses-2_T1w"]}),
        ("controls/anna controls/bob", {"anna": ["controls/anna"], "bob": ["controls/bob"]}),
    ],
)
def test_a_folder_is_a_person_where_names_say_nobody_or_repeat(tmp_path, names, expected):
    assert people(tmp_path, names) == expected


@pytest.mark.parametrize(
    "names",
    [
        *("a_ses1_T1 a_ses2_T1", "a_ses-pre_T1w a_ses-post_T1w", "a_visit1 a_visit2"),
        *("a_MR1 a_MR2", "a_mpr-1 a_mpr-2", "mpr-1 mpr-2", "a_run-1 a_run-2", "a_run_01 a_run_02"),
        *("a_echo1_T1 a_echo2_T1", "a_scan1 a_scan2", "a_T1_baseline a_T1_followup", "a a_ses2"),
        *("a_20190101_T1 a_20210304_T1", "a_2019-01-01 a_2021-03-04", "a_T1 a_T1_brain"),
        *("a_ses1/T1 a_ses2/T1", "x/ses-1/a x/ses-2/a", "ses-1/a ses-2/a", "ses-1/T1 ses-2/T1"),
        *("siteA/001 siteA/002 siteB/001 siteB/002", "siteA/p01/T1 siteB/p01/T1"),
        *("siteA/sub01_T1w siteB/sub01_T1w", "siteA/anna siteA/bob siteB/anna"),
        *(
            "batch/T1 batch/anna_T1 batch/bob_T1",
            "T1 brain",
            "a_T1 a_mprage",
            "a_T1 a_T1_anomaly",
            "a/x_T1 b/x",
        ),
    ],
)
def test_where_names_leave_it_open_the_job_stops_and_says_which_flag_decides(tmp_path, names):
    said = refusal_of(tmp_path, names)
    assert "--subjects=FILE" in said and "--subject_pattern=REGEX" in said
    assert str(tmp_path) in said or names.split()[0].rpartition("/")[0] in said
    # A flag does decide, and the job goes on.
    assert len(people(tmp_path, names, subject_pattern="(?P<person>.+/?.*)")) >= 1


@pytest.mark.parametrize(
    "names",
    [
        *("head_001 head_002 head_010", "MR_001 MR_002", "scan_001 scan_002", "mprage_1 mprage_2"),
        *("p1_ses1_T1 p2_ses2_T1", "patient 7", "oas-1.v2-t1", "openms_p07_T1_MNI", "T1_a T1_b"),
        *("anna bob carl", "control_01 patient_01", "x_20190101 y_20190101", "sub1 sub2 sub-3"),
        " ".join(f"head_{number:04d}" for number in range(12)),
    ],
)
def test_plain_names_are_people_as_before(tmp_path, names):
    expected = {name.removesuffix("_T1").removesuffix("-t1"): [name] for name in names.split()}
    if names == "patient 7":
        expected = {"patient": ["patient"], "7": ["7"]}
    assert people(tmp_path, names) == expected


def test_channels_of_a_case_stop_the_job_until_a_flag_says_which_is_t1(tmp_path):
    names = "CASE_000_0000 CASE_000_0001 CASE_001_0000 CASE_001_0001"
    said = refusal_of(tmp_path, names)
    assert "CASE_000_0000" in said and "CASE_000_0001" in said
    pattern = "(?P<person>.+)_0000$"
    assert f"--subject_pattern='{pattern}'" in said
    catalog = find(tmp_path, names, subject_pattern=pattern)
    assert [scan.subject for scan in catalog.scans] == ["CASE_000", "CASE_001"]
    assert [(error.reason, Path(error.path).name) for error in catalog.refused] == [
        ("no_person", "CASE_000_0001.nii.gz"),
        ("no_person", "CASE_001_0001.nii.gz"),
    ]


def test_a_pattern_gives_person_site_and_session_from_name_or_path(tmp_path):
    names = "x/a_s2_Guys y/a_s10_Guys x/b_s1_HH"
    catalog = find(
        tmp_path, names, subject_pattern="(?P<person>[a-z])_s(?P<session>[0-9]+)_(?P<site>.+)"
    )
    first, second = catalog.scans
    assert (first.subject, first.site, len(first.alternatives)) == ("a", "Guys", 1)
    # Sessions are ordered by number, files by name.
    assert first.path.endswith("x/a_s2_Guys.nii.gz") and second.site == "HH"
    assert people(tmp_path, names, subject_pattern="^(?P<person>[xy])/") == {
        "x": ["x/a_s2_Guys", "x/b_s1_HH"],
        "y": ["y/a_s10_Guys"],
    }


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "is no regular expression"),
        ("(.+)", r"has no group (?P<person>...)"),
        ("(?P<person>zzz)", "fits none of 1 files, such as a.nii.gz"),
        ("(?P<person>z?)", "fits none of 1 files"),
    ],
)
def test_a_pattern_that_finds_nobody_is_an_error(tmp_path, pattern, said):
    assert said in refusal_of(tmp_path, "a", subject_pattern=pattern)


TABLE = """file,person,site,sex,age,session
?_T1,dora,,,,
a_T1,anna,Guys,F,31.5,
x/b_T1.nii.gz,anna,Guys,,n/a,2
c*,carl,,m,,
"""


@pytest.mark.parametrize(("ending", "mark"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
def test_a_table_says_who_is_who(tmp_path, ending, mark):
    table = tmp_path / f"people.{ending}"
    table.write_text("\ufeff" + TABLE.replace(",", mark))
    source = tmp_path / "in"
    catalog = find(source, "a_T1 x/b_T1 c_1 c_2 d_T1 ee_T1", subjects=str(table))
    anna, carl, dora = catalog.scans
    assert dora.path.endswith("/d_T1.nii.gz") and not dora.alternatives
    assert (anna.subject, anna.site, anna.sex, anna.age) == ("anna", "Guys", "female", 31.5)
    assert [Path(one.path).name for one in anna.candidates] == ["a_T1.nii.gz", "b_T1.nii.gz"]
    assert (carl.subject, carl.sex, len(carl.alternatives)) == ("carl", "male", 1)
    assert math.isnan(carl.age)
    (error,) = catalog.refused
    assert (error.reason, Path(error.path).name) == ("no_person", "ee_T1.nii.gz")
    assert catalog.warnings == ()


def test_rows_that_fit_nothing_are_counted(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("file,person\na,anna\nzz,zoe\nyy,yan\n")
    (warning,) = find(tmp_path / "in", "a", subjects=str(table)).warnings
    assert "2 of 3 rows fit no volume, the first in line 3, zz" in warning


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,person\na,anna\n", "has no column 'file'"),
        ("file,who\na,anna\n", "has no column 'person'"),
        ("file,person\na,\n", "line 2: has no person"),
        ("file,person,age\na,anna,old\n", "line 2: age 'old' is not an age in years"),
        ("file,person,sex\na,anna,?\n", "line 2: sex '?' is not known"),
        (
            "file,person\na,anna\na*,bea\na.nii.gz,carl\n",
            "lines 2 and 4: say two people for a.nii.gz",
        ),
        ("file,person\nb,bea\n", "none of its 1 rows fits a volume"),
    ],
)
def test_a_table_that_says_nothing_clear_is_an_error(tmp_path, text, said):
    table = tmp_path / "people.csv"
    table.write_text(text)
    assert said in refusal_of(tmp_path / "in", "a", subjects=str(table))


def test_a_missing_table_and_two_flags_are_errors(tmp_path):
    said = refusal_of(tmp_path, "a", subjects=str(tmp_path / "none.csv"))
    assert "none.csv: cannot be read as a table" in said
    said = refusal_of(tmp_path, "a", subjects="x", subject_pattern="y")
    assert "--subjects and --subject_pattern: give one of them" in said


def test_folders_of_bids_name_people_themselves(tmp_path):
    said = refusal_of(tmp_path, "sub-01/anat/sub-01_T1w", subject_pattern="(?P<person>.+)")
    assert "is a BIDS folder" in said
    catalog = catalogs.find_scans(str(tmp_path), NOBODY)
    assert catalog.told_apart == (
        "by the folders of BIDS (1 people): sub-01/anat/sub-01_T1w.nii.gz -> sub-01",
    )


def test_a_person_of_ixi_keeps_the_split_where_the_folder_has_the_name(tmp_path):
    roster = read_roster(IXI.roster)
    entry = next(entry for entry in roster.values() if entry.split == "test")
    catalog = find(tmp_path, f"{entry.name}/T1 other/T1")
    assert [scan.subject for scan in catalog.scans] == [entry.subject, "other"]
    assert catalog.scans[0].site == entry.site
    assert assign_splits(catalog.scans, roster)[entry.subject] == "test"


def test_the_workbook_describes_people_of_the_cohort_and_those_whom_a_flag_names(tmp_path):
    facts = {"IXI002": {"sex": "female", "age": 35.8}}
    cohort = dataclasses.replace(IXI, find_people=lambda *_: People(facts))
    for name in ("IXI002", "b"):
        (tmp_path / f"{name}.nii.gz").touch()

    def sexes(**flags):
        scans = catalogs.find_scans(str(tmp_path), cohort, names=NameFlags(**flags)).scans
        return {scan.subject: scan.sex for scan in scans}

    assert sexes() == {"IXI002": "unknown", "b": "unknown"}
    assert sexes(subject_pattern="(?P<person>.+)") == {"IXI002": "female", "b": "unknown"}
    table = tmp_path / "who.csv"
    table.write_text("file,person,sex\nb,IXI002,\nIXI002,x,m\n")
    assert sexes(subjects=str(table)) == {"IXI002": "female", "x": "male"}


def test_the_first_scan_is_that_of_the_smallest_number(tmp_path):
    found = people(tmp_path, "OAS1_0003_MR10_mpr-1_anon OAS1_0003_MR2_mpr-1_anon")
    assert found == {"OAS1_0003": ["OAS1_0003_MR2_mpr-1_anon", "OAS1_0003_MR10_mpr-1_anon"]}


@pytest.mark.parametrize(
    ("names", "mark", "expected"),
    [
        ("p1_ses1_T1 p1_ses2_T1 p2_T1", "ses1", {"p1": 2, "p2": 1}),
        ("p1_baseline p1_followup p2_baseline p3", "baseline", {"p1": 2, "p2": 1, "p3": 1}),
        ("p1_T1 p1_visit2_T1 p2_T1", "visit2", {"p1": 2, "p2": 1}),
        ("a_b_20200131_T1 a_b_20210131_T1 c_d_20200131_T1", "20200131", {"a_b": 2, "c_d": 1}),
        ("run-1_anna run-2_anna run-1_bob", "run-1", {"anna": 2, "bob": 1}),
        ("p1_ses1/T1 p1_ses2/T1 p2/T1", "ses1", {"p1": 2, "p2": 1}),
        ("p1_ses1/anat/T1 p1_ses2/anat/T1 p2_ses1/anat/T1", "ses1", {"p1": 2, "p2": 1}),
        ("p1_brain p1", "brain", {"p1": 2}),
    ],
)
def test_where_names_differ_in_a_mark_the_message_names_it_and_a_pattern(
    tmp_path, names, mark, expected
):
    said = refusal_of(tmp_path, names)
    assert f"{mark!r}" in said
    (pattern,) = re.findall("--subject_pattern='([^']+)'", said)
    found = people(tmp_path, "", subject_pattern=pattern)
    assert {person: len(files) for person, files in found.items()} == expected


def test_no_pattern_is_advised_where_none_fits_all_files(tmp_path):
    said = refusal_of(tmp_path, "ses1p1_ses1 p1_ses1 p1_ses2 x_ses1_p2_T1 y_ses2_p2_T1")
    assert "'ses1'" in said and "--subject_pattern=REGEX" in said
