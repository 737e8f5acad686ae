"""BIDS folders: what is taken from them, and a dataset made from one by the real main."""

import json
import math

import pytest
import tensorflow_datasets as tfds
from bids_folder import write_bids
from volumes import SMALL

from beam_preprocess.__main__ import run
from ixi_tfds.cohorts.bids import is_bids
from ixi_tfds.cohorts.catalog import find_scans, find_volumes
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.participants import read_participants
from ixi_tfds.system.errors import UserError, WorkbookError


@pytest.mark.parametrize("described", [True, False])
def test_t1_volumes_of_subjects_and_nothing_else(tmp_path, described):
    folder = write_bids(tmp_path / "study", subjects=4, described=described)
    assert is_bids(str(folder)) and not is_bids(str(tmp_path))
    paths, refused = find_volumes(str(folder))
    assert [path.removeprefix(f"{folder}/") for path in paths] == [
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "sub-03/anat/sub-03_run-2_T1w.nii.gz",
        "sub-04/anat/sub-04_T1w.nii.gz",
    ]
    assert refused == []


def test_one_volume_a_person_with_what_participants_tsv_says(tmp_path):
    catalog = find_scans(str(write_bids(tmp_path, subjects=6)), IXI)
    assert [(s.subject, s.sex, s.age) for s in catalog.scans if not math.isnan(s.age)] == [
        ("sub-01", "female", 25.5),
        ("sub-02", "male", 89.0),
    ]
    unknown = {s.subject: s.sex for s in catalog.scans if math.isnan(s.age)}
    assert unknown == {
        "sub-03": "female",
        "sub-04": "unknown",
        "sub-05": "female",
        "sub-06": "unknown",
    }
    others = {
        s.subject: [path.removeprefix(f"{tmp_path}/") for path in s.alternatives]
        for s in catalog.scans
        if s.alternatives
    }
    assert others == {
        "sub-02": ["sub-02/ses-b/anat/sub-02_T1w.nii.gz"],
        "sub-03": ["sub-03/anat/sub-03_run-2_T1w.nii.gz"],
    }
    assert catalog.refused == ()
    said = " / ".join(catalog.warnings)
    for part in ("sub-04: sex 'x'", "sub-04: age '930'", "sub-05: rows", "31 and 32", "sub-06 the"):
        assert part in said
    assert len(catalog.warnings) == 4


def participants(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "participants.tsv").write_text(text, encoding="utf-8")
    return read_participants(str(folder))


@pytest.mark.parametrize("unknown", ["", "n/a", "N/A", "NA", "nan", "O", "other", "Unknown", " "])
def test_words_for_unknown_are_missing_without_a_warning(tmp_path, unknown):
    text = f"participant_id\tsex\tage\nsub-01\t{unknown}\t{unknown}\n"
    people, warnings = participants(tmp_path, text)
    assert people["sub-01"]["sex"] == "unknown" and math.isnan(people["sub-01"]["age"])
    assert warnings == ()


@pytest.mark.parametrize(
    ("word", "sex"),
    [("F", "female"), ("f", "female"), ("Female", "female"), (" M ", "male"), ("MALE", "male")],
)
def test_words_for_sex(tmp_path, word, sex):
    people, warnings = participants(tmp_path, f"participant_id\tage\tsex\nsub-01\t9\t{word}\n")
    assert people["sub-01"]["sex"] == sex and warnings == ()


@pytest.mark.parametrize("age", ["0", "120", "0.5", "33", "-0.5", "120.5", "200", "inf", "3O"])
def test_ages_are_believed_from_0_to_120(tmp_path, age):
    people, warnings = participants(tmp_path, f"participant_id\tage\tsex\nsub-01\t{age}\tF\n")
    if age in ("0", "120", "0.5", "33"):
        assert people["sub-01"]["age"] == float(age) and warnings == ()
    else:
        assert math.isnan(people["sub-01"]["age"])
        assert warnings == (
            f"sub-01: age '{age.lower()}' in participants.tsv is not an age in years: missing",
        )


def test_what_one_row_of_a_person_lacks_another_tells(tmp_path):
    """A row a session is usual; columns stand in any order, and Excel begins with a mark."""
    text = (
        "\ufeffgroup\tage\tparticipant_id\tsex\n"
        "1\tn/a\tsub-02\tM\n2\t41\tsub-01\tn/a\n3\t62\tsub-02\tm\n4\t41\t01\tF\n"
    )
    people, warnings = participants(tmp_path, text)
    assert people == {
        "sub-01": {"sex": "female", "age": 41.0},
        "sub-02": {"sex": "male", "age": 62.0},
    }
    assert warnings == ()


def test_names_of_people_keep_all_their_letters(tmp_path):
    people, _ = participants(tmp_path, "participant_id\tage\nsub-bus1\t30\nus2\t40\n")
    assert {name: person["age"] for name, person in people.items()} == {
        "sub-bus1": 30.0,
        "sub-us2": 40.0,
    }


def test_a_byte_order_mark_before_the_names_of_people_is_passed_over(tmp_path):
    people, warnings = participants(tmp_path, "\ufeffparticipant_id\tsex\tage\nsub-01\tF\t9\n")
    assert people["sub-01"]["sex"] == "female" and warnings == ()


def test_what_is_refused_in_a_bids_folder_is_listed_by_path(tmp_path):
    for name in (
        *("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"),
        *("sub-01/ses-3/anat/sub-01_seg_T1w.nii.gz", "sub-02/anat/sub-02_label-roi_T1w.nii"),
        *("sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_T1w.json", "sub-02/sub-02_T1w.nii"),
        *("sub-02/anat/sub-02_T1w.nii.gz.part", "sub-02/anat/x_T1w.nii"),
        "sub-02/anat/sub-02_ce-gad_T1w.nii.gz",
        *("sub-02/func/sub-02_T1w.nii", "sourcedata/sub-03/anat/sub-03_T1w.nii"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    catalog = find_scans(str(tmp_path), IXI)
    assert [(scan.subject, scan.path.removeprefix(f"{tmp_path}/")) for scan in catalog.scans] == [
        ("sub-01", "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii"),
        ("sub-02", "sub-02/anat/sub-02_T1w.nii.gz"),
    ]
    assert [
        (error.reason, error.path.removeprefix(f"{tmp_path}/")) for error in catalog.refused
    ] == [
        ("label_map", "sub-01/ses-3/anat/sub-01_seg_T1w.nii.gz"),
        ("other_modality", "sub-02/anat/sub-02_ce-gad_T1w.nii.gz"),
        ("label_map", "sub-02/anat/sub-02_label-roi_T1w.nii"),
    ]
    assert [len(scan.alternatives) for scan in catalog.scans] == [1, 0]


def test_a_dataset_is_made_from_a_bids_folder(tmp_path, capsys):
    source = write_bids(tmp_path / "study")
    assert run([f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]) == 0
    shown = capsys.readouterr()
    assert "same_person" in shown.out and "no workbook" not in shown.err
    seen = {}
    for split in ("train", "validation", "test"):
        dataset = tfds.load("ixi_t1/small", data_dir=str(tmp_path), split=split)
        for example in tfds.as_numpy(dataset):
            subject = example["subject"].decode()
            assert seen.setdefault(subject, (split, []))[0] == split
            seen[subject][1].append(int(example["slice_index"]))
            if subject == "sub-01":
                assert (int(example["sex"]), float(example["age"])) == (0, 25.5)
    assert sorted(seen) == [f"sub-{number:02d}" for number in range(1, 13)]
    assert all(sorted(indices) == list(range(8, 14)) for _, indices in seen.values())
    manifest = json.loads((tmp_path / "ixi_t1/small/1.0.0/manifest.json").read_text())
    assert manifest["volumes"]["sub-02"]["path"] == "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz"
    assert manifest["skipped"] == {"same_person": 2}
    listed = (tmp_path / "ixi_t1/small/1.0.0/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["detail"] for line in listed] == [
        "is another volume of sub-02, of whom sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz is taken",
        "is another volume of sub-03, of whom sub-03/anat/sub-03_T1w.nii.gz is taken",
    ]
    # Sex is a stratum, and age is told: people who are better known make another dataset.
    (source / "participants.tsv").write_text("participant_id\tsex\nsub-01\tM\n")
    assert run([f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]) == 2
    assert "other inputs" in capsys.readouterr().err
    with_sex = [(scan.subject, scan.sex) for scan in find_scans(str(source), IXI).scans]
    assert with_sex[:2] == [("sub-01", "male"), ("sub-02", "unknown")]


def test_what_is_wrong_with_a_bids_folder_is_said(tmp_path, capsys):
    source = write_bids(tmp_path / "study", subjects=3)
    flags = [f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]
    assert run([*flags, "--workbook=IXI.xls"]) == 2
    assert "leave the flag out" in capsys.readouterr().err
    (source / "participants.tsv").write_text("participant_id,sex\nsub-01,M\n")
    with pytest.raises(WorkbookError, match="no column 'participant_id', separated by tabs"):
        find_scans(str(source), IXI)
    (source / "participants.tsv").write_bytes(b"participant_id\tsex\nsub-01\t\xff\n")
    with pytest.raises(WorkbookError, match="cannot be read as a table"):
        find_scans(str(source), IXI)
    (source / "participants.tsv").unlink()
    assert "not found" in find_scans(str(source), IXI).warnings[0]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/dataset_description.json").write_text("{}")
    with pytest.raises(UserError, match="BIDS folder without T1 volumes"):
        find_scans(str(tmp_path / "bare"), IXI)
