"""BIDS folders: what is taken from them, and a dataset made from one by the real main."""

import json
import math

import pytest
import tensorflow_datasets as tfds
from bids_folder import write_bids
from volumes import SMALL

from beam_preprocess.__main__ import run
from ixi_tfds.bids import is_bids
from ixi_tfds.catalog import find_scans, find_volumes
from ixi_tfds.errors import UserError, WorkbookError


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
    catalog = find_scans(str(write_bids(tmp_path, subjects=6)))
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
    assert [(error.reason, error.detail) for error in catalog.refused] == [
        (
            "same_person",
            "is another volume of sub-02, of whom sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz "
            "is taken",
        ),
        (
            "same_person",
            "is another volume of sub-03, of whom sub-03/anat/sub-03_T1w.nii.gz is taken",
        ),
    ]
    said = " / ".join(catalog.warnings)
    for part in ("sub-04: sex 'x'", "sub-04: age '930'", "sub-05: rows", "31 and 32", "sub-06 the"):
        assert part in said
    assert len(catalog.warnings) == 4


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
    # Sex is a stratum, and age is told: people who are better known make another dataset.
    (source / "participants.tsv").write_text("participant_id\tsex\nsub-01\tM\n")
    assert run([f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]) == 2
    assert "other inputs" in capsys.readouterr().err


def test_what_is_wrong_with_a_bids_folder_is_said(tmp_path, capsys):
    source = write_bids(tmp_path / "study", subjects=3)
    flags = [f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]
    assert run([*flags, "--workbook=IXI.xls"]) == 2
    assert "leave the flag out" in capsys.readouterr().err
    (source / "participants.tsv").write_text("participant_id,sex\nsub-01,M\n")
    with pytest.raises(WorkbookError, match="no column 'participant_id', separated by tabs"):
        find_scans(str(source))
    (source / "participants.tsv").write_bytes(b"participant_id\tsex\nsub-01\t\xff\n")
    with pytest.raises(WorkbookError, match="cannot be read as a table"):
        find_scans(str(source))
    (source / "participants.tsv").unlink()
    assert "is not there" in find_scans(str(source)).warnings[0]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/dataset_description.json").write_text("{}")
    with pytest.raises(UserError, match="BIDS folder without T1 volumes"):
        find_scans(str(tmp_path / "bare"))
