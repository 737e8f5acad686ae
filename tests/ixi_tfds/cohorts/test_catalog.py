import dataclasses
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ixi_tfds.cohorts import catalog
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.cohorts.cohort import People
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.formats import stem_of
from ixi_tfds.splits import assign_splits
from ixi_tfds.system.errors import ScanError, UserError


def find_scans(folder, people=None):
    known = people or People({})
    return catalog.find_scans(folder, dataclasses.replace(IXI, find_people=lambda *_: known))


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def people():
    columns = ("sex", "ethnicity", "age")
    rows = {"IXI002": ("female", "white", 35.8), "IXI701": ("male", "black", math.nan)}
    facts = {subject: dict(zip(columns, row, strict=True)) for subject, row in rows.items()}
    return People(facts, ("one thing",))


def test_scans_are_found_at_any_depth_with_what_the_workbook_says(tmp_path, people):
    touch(
        tmp_path, "a/b/IXI002-Guys-0828-T1.nii.gz", "IXI701-IOP-0701-T1.NII", "c/IXI003-HH-1-T1.nii"
    )
    touch(tmp_path, "IXI.xls", "notes.txt", "a/._IXI004-Guys-0001-T1.nii.gz", ".cache/x.nii")
    touch(tmp_path, "a/.IXI005-Guys-0002-T1.nii.gz")
    catalog = find_scans(str(tmp_path), people)
    known, own, odd = catalog.scans
    assert known == Scan(
        "IXI002", "Guys", str(tmp_path / "a/b/IXI002-Guys-0828-T1.nii.gz"), "female", "white", 35.8
    )
    assert (odd.subject, odd.site) == ("IXI701", "IOP")
    assert (odd.sex, odd.ethnicity) == ("male", "black")
    assert math.isnan(odd.age)
    assert math.isnan(own.age)
    path = str(tmp_path / "c/IXI003-HH-1-T1.nii")
    assert dataclasses.replace(own, age=0) == Scan("IXI003-HH-1", "", path, age=0)
    assert catalog.refused == () and catalog.warnings == ("one thing",)


def test_without_a_workbook_everything_is_unknown(tmp_path):
    touch(tmp_path, "IXI002-Guys-0828-T1.nii.gz")
    (scan,) = find_scans(str(tmp_path), None).scans
    assert (scan.sex, scan.ethnicity, scan.site) == ("unknown", "unknown", "Guys")
    assert math.isnan(scan.age)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("sub-01_ses-2_T1w.nii.gz", "sub-01"),
        ("sub-01_space-T2w_T1w.nii.gz", "sub-01"),
        ("patient 7.nii", "patient 7"),
        ("PD_003_T1.nii.gz", "PD_003"),
        ("oas-1.v2-t1.nii.gz", "oas-1.v2"),
        ("openms_p07_T1_MNI.nii.gz", "openms_p07_T1_MNI"),
        ("labelled01.nii.gz", "labelled01"),
        ("IXI012-HH-12110-T1.nii.gz", "IXI012-HH-12110"),
        ("IXI0123-HH-1211-T1.nii.gz", "IXI0123-HH-1211"),
    ],
)
def test_own_names_give_own_subjects(tmp_path, name, subject):
    touch(tmp_path, name)
    (scan,) = find_scans(str(tmp_path)).scans
    assert (scan.subject, scan.site) == (subject, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("IXI012-HH-1211-T2.nii.gz", "other_modality"),
        ("IXI012-HH-1211-PD.nii.gz", "other_modality"),
        ("IXI012-HH-1211-MRA.nii.gz", "other_modality"),
        ("IXI012-HH-1211-DTI-00.nii.gz", "other_modality"),
        ("sub-01_FLAIR.nii.gz", "other_modality"),
        ("sub-01_task-rest_space-T1w_bold.nii.gz", "other_modality"),
        ("brats_001_t1ce.nii.gz", "other_modality"),
        ("IXI012-HH-1211-T1.labels.nii.gz", "label_map"),
        ("openms_p07_lesion_MNI.nii.gz", "label_map"),
        ("sub-01_T1w_brain_MASK.nii", "label_map"),
        ("aparc+aseg_seg.nii.gz", "label_map"),
    ],
)
def test_other_things_are_refused_by_name(tmp_path, name, reason):
    touch(tmp_path, name, "IXI002-Guys-0828-T1.nii.gz")
    catalog = find_scans(str(tmp_path))
    assert [scan.subject for scan in catalog.scans] == ["IXI002"]
    (error,) = catalog.refused
    assert (error.reason, error.path) == (reason, str(tmp_path / name))
    assert "in its name" in str(error)


OTHER_THINGS = {
    "other_modality": (
        "T2 T2w T2f T2star T2starw PD PDw PDT2 MRA angio TOF DTI DWI ADC FA MD FLAIR bold fMRI EPI "
        "sbref ASL CBF SWI SWAN T1c T1ce T1Gd T1map T2map phase magnitude fieldmap CT PET"
    ),
    "label_map": (
        "label labels labelmap mask masks brainmask seg dseg probseg segmentation lesion lesions "
        "aseg aparc parc wmparc parcellation atlas ROI ROIs"
    ),
}


def test_each_word_for_another_thing_is_known(tmp_path):
    words = {word: reason for reason, text in OTHER_THINGS.items() for word in text.split()}
    touch(tmp_path, *(f"{word}/person {number}_{word}.nii" for number, word in enumerate(words)))
    touch(tmp_path, *(f"ok/p{number}_{word}.nii" for number, word in enumerate(("T1n", "MPRAGE"))))
    # Among words for T1 the last one counts.
    touch(tmp_path, "ok/p3_FLAIR_mprage.nii", "ok/p4_FLAIR_t1n.nii", "ok/p5_FLAIR_T1W.nii")
    catalog = find_scans(str(tmp_path))
    assert [scan.subject for scan in catalog.scans] == [
        *("p0", "p1_MPRAGE", "p3_FLAIR_mprage", "p4_FLAIR", "p5_FLAIR")
    ]
    found = {Path(error.path).parent.name: error.reason for error in catalog.refused}
    assert found == words and len(words) == len(catalog.refused)


def test_people_of_the_workbook_are_known_by_id_and_not_by_scan_number(tmp_path, people):
    touch(tmp_path, "IXI701-HH-0002-T1.nii", "IXI002-Guys-0701-T1.nii", "sub-701_T1w.nii")
    found = {scan.subject: scan for scan in find_scans(str(tmp_path), people).scans}
    assert (found["IXI002"].sex, found["IXI002"].site) == ("female", "Guys")
    assert (found["IXI701"].sex, found["IXI701"].site) == ("male", "HH")
    assert (found["sub-701"].sex, found["sub-701"].ethnicity) == ("unknown", "unknown")


def test_a_refusal_has_a_known_reason_and_goes_between_processes():
    error = pickle.loads(pickle.dumps(ScanError("near_empty", "a/b.nii", "is black")))
    assert (error.reason, error.path, error.detail) == ("near_empty", "a/b.nii", "is black")
    assert str(error) == "a/b.nii: is black"
    with pytest.raises(ValueError, match="unknown reason 'dull'"):
        ScanError("dull", "a/b.nii", "is dull")


def test_order_is_that_of_subjects_and_not_of_the_disk(tmp_path, monkeypatch):
    touch(tmp_path, "z/IXI002-Guys-0828-T1.nii.gz", "a/IXI013-HH-1212-T1.nii.gz", "sub-1.nii")
    touch(tmp_path, "b/x_mask.nii", "a/x_mask.nii")
    catalog = find_scans(str(tmp_path))
    assert [scan.subject for scan in catalog.scans] == ["IXI002", "IXI013", "sub-1"]
    walk = list(os.walk(tmp_path))
    monkeypatch.setattr(os, "walk", lambda *_, **__: iter(walk[::-1]))
    again = find_scans(str(tmp_path))
    assert [(s.subject, s.path) for s in again.scans] == [
        (s.subject, s.path) for s in catalog.scans
    ]
    assert [error.path for error in again.refused] == [error.path for error in catalog.refused]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/IXI002-Guys-0828-T1.nii.gz", "b/IXI002-Guys-0828-T1.nii"),
        ("IXI002-Guys-0828-T1.nii.gz", "IXI002-HH-0001-T1.nii.gz"),
        ("siteA/sub01_T1w.nii.gz", "siteB/sub01_T1w.nii.gz"),
    ],
)
def test_subject_that_stands_twice_is_an_error_that_names_both(tmp_path, first, second):
    touch(tmp_path, first, second)
    with pytest.raises(UserError) as caught:
        find_scans(str(tmp_path))
    assert str(tmp_path / first) in str(caught.value)
    assert str(tmp_path / second) in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_named_and_nobody_in_it_lost(tmp_path, monkeypatch):
    touch(tmp_path, "a/IXI002-Guys-0828-T1.nii.gz", "b/IXI013-HH-1212-T1.nii.gz")
    listed = os.scandir

    def refused(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"/b: cannot list this folder \(Permission denied\)"):
        find_scans(str(tmp_path))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_scans(str(tmp_path / "nowhere"))


def test_folder_without_volumes_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "IXI.xls")
    with pytest.raises(UserError, match=r"no T1 volumes \(NIfTI \(\.nii, "):
        find_scans(str(tmp_path))
    touch(tmp_path, "IXI012-HH-1211-T2.nii.gz")
    with pytest.raises(UserError, match=r"1 refused by name, .*another modality"):
        find_scans(str(tmp_path))


def test_stem_drops_the_extension_only():
    assert stem_of("/x.y/IXI002-Guys-0828-T1.nii.gz") == "IXI002-Guys-0828-T1"
    assert stem_of("a.b.NII") == "a.b"


@pytest.mark.parametrize(
    "name",
    ["IXI012-HH-1211-T1_brain", "ixi012-hh-1211-t1", "IXI012-HH-1211-T1-bet", "IXI012-HH-1211"],
)
def test_what_was_made_from_a_volume_of_ixi_is_the_same_person(tmp_path, name):
    roster = read_roster(IXI.roster)
    (tmp_path / "IXI012-HH-1211-T1.nii.gz").touch()
    split = assign_splits(find_scans(str(tmp_path)).scans, roster)
    (tmp_path / f"{name}.nii.gz").touch()
    with pytest.raises(UserError, match="IXI012 has two volumes"):
        find_scans(str(tmp_path))
    (tmp_path / "IXI012-HH-1211-T1.nii.gz").unlink()
    scans = find_scans(str(tmp_path)).scans
    assert (scans[0].subject, scans[0].site) == ("IXI012", "HH")
    assert assign_splits(scans, roster) == split


def test_a_name_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "sub-1.nii").touch()
    (tmp_path / os.fsdecode(b"\xff\xfe.nii.gz")).touch()
    (refused,) = find_scans(str(tmp_path)).refused
    assert refused.reason == "unreadable"
    str(refused).encode()


def test_a_worker_has_no_heavy_imports():
    scan = Scan("IXI002", "Guys", "/data/IXI002-Guys-0828-T1.nii.gz", "female", "white", 35.8)
    code = (
        "import pickle, sys\n"
        "scan = pickle.loads(sys.stdin.buffer.read())\n"
        "import beam_preprocess.shards\n"
        "heavy = {'tensorflow', 'pandas', 'matplotlib', 'nilearn'} & set(sys.modules)\n"
        "print(scan.subject, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(scan), capture_output=True, check=True
    )
    assert done.stdout.decode().split() == ["IXI002", "[]"]


@pytest.mark.real_data
def test_real_heads_and_their_masks(real_data):
    catalog = find_scans(str(real_data / "ixi" / "heads_2mm"))
    assert len(catalog.scans) == 62
    assert {scan.site for scan in catalog.scans} == {"HH"}
    with pytest.raises(UserError, match="12 refused by name"):
        find_scans(str(real_data / "ixi" / "brain_masks_2mm"))
    lesions = find_scans(str(real_data / "lesions"))
    assert [Path(error.path).name for error in lesions.refused] == ["openms_p07_lesion_MNI.nii.gz"]
    assert len(lesions.scans) == 1
