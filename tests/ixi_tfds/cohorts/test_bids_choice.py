"""Which volume of a person in a BIDS folder comes first, and who is left out."""

import pytest

from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.system.errors import UserError


def write(folder, *names):
    """Empty files of one subject for names such as `ses-1/run-2` or `acq-x`, and of others."""
    for name in names:
        subject, *parts = name.split("/")
        folders = [part for part in parts if part.startswith("ses-")]
        suffix = parts.pop() if parts and parts[-1] in ("UNIT1", "T2w") else "T1w"
        path = folder.joinpath(subject, *folders, "anat", "_".join([subject, *parts, suffix]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".nii.gz").touch()
    return folder


def order_of(folder):
    (scan,) = find_scans(str(folder), IXI).scans
    paths = [scan.path, *scan.alternatives]
    return [path.rsplit("/", 1)[1].removesuffix("_T1w.nii.gz") for path in paths]


def test_plain_volumes_come_before_others_and_sessions_and_runs_in_order(tmp_path):
    ranked = (
        *("sub-01", "sub-01/run-1", "sub-01/run-2", "sub-01/run-10"),
        *("sub-01/ses-2", "sub-01/ses-2/run-3", "sub-01/ses-10"),
        *("sub-01/acq-mprage", "sub-01/acq-mprage/run-2", "sub-01/ses-1/acq-mprage"),
        *("sub-01/rec-norm", "sub-01/acq-a/rec-norm"),
        *("sub-01/desc-brain", "sub-01/echo-1", "sub-01/acq-a/space-MNI"),
    )
    write(tmp_path, *reversed(ranked))
    assert order_of(tmp_path) == [
        *("sub-01", "sub-01_run-1", "sub-01_run-2", "sub-01_run-10"),
        *("sub-01_ses-2", "sub-01_ses-2_run-3", "sub-01_ses-10"),
        *("sub-01_acq-mprage", "sub-01_acq-mprage_run-2", "sub-01_ses-1_acq-mprage"),
        *("sub-01_rec-norm", "sub-01_acq-a_rec-norm"),
        *("sub-01_desc-brain", "sub-01_echo-1", "sub-01_acq-a_space-MNI"),
    ]


def test_a_contrast_agent_or_a_phase_is_never_taken_for_plain_t1(tmp_path):
    write(tmp_path, "sub-01/ses-2", "sub-01/ses-1/ce-gadolinium", "sub-01/ses-1/part-phase")
    catalog = find_scans(str(tmp_path), IXI)
    assert order_of(tmp_path) == ["sub-01_ses-2"]
    assert [(error.reason, error.detail.split(";")[0]) for error in catalog.refused] == [
        ("other_modality", "has a contrast agent (ce-gadolinium)"),
        ("other_modality", "holds no magnitude (part-phase)"),
    ]
    assert not any("left out" in warning for warning in catalog.warnings)


def test_people_without_a_plain_volume_are_named_with_the_cause(tmp_path):
    contrast = [f"sub-c{number}/ce-gad" for number in range(1, 8)]
    write(tmp_path, "sub-01", "sub-02/acq-a", *contrast, "sub-u/UNIT1", "sub-t/T2w")
    (tmp_path / "sub-f/func").mkdir(parents=True)
    (tmp_path / "sub-emptyroom/ses-1/meg").mkdir(parents=True)
    catalog = find_scans(str(tmp_path), IXI)
    assert [scan.subject for scan in catalog.scans] == ["sub-01", "sub-02"]
    assert [warning for warning in catalog.warnings if "left out" in warning] == [
        "1 person (sub-u) left out: UNIT1 volumes only "
        "(--bids_filter=suffix=T1w,suffix=UNIT1 takes them too)",
        "2 people (sub-f, sub-t) left out: no T1w volume",
        "7 people (sub-c1, sub-c2, sub-c3, sub-c4, sub-c5 and 2 more) left out: volumes with "
        "contrast agent only (--bids_filter=ceagent=null,ceagent=* takes them too)",
    ]
    assert len(catalog.refused) == 7
    # With the filter that the warning advises, plain volumes still come first.
    write(tmp_path, "sub-01/ce-gad")
    asked = {"ceagent": (None, "*")}
    scans = {scan.subject: scan for scan in find_scans(str(tmp_path), IXI, bids_filter=asked).scans}
    assert len(scans) == 9 and scans["sub-01"].path.endswith("sub-01_T1w.nii.gz")


def test_people_behind_links_are_read_or_named(tmp_path):
    write(tmp_path / "study", "sub-01")
    write(tmp_path / "elsewhere", "sub-02")
    (tmp_path / "study/sub-02").symlink_to(tmp_path / "elsewhere/sub-02")
    (tmp_path / "study/sub-03").symlink_to(tmp_path / "nowhere/sub-03")
    (tmp_path / "study/sub-04.zip").touch()
    catalog = find_scans(str(tmp_path / "study"), IXI)
    assert [scan.subject for scan in catalog.scans] == ["sub-01", "sub-02"]
    assert [warning for warning in catalog.warnings if "left out" in warning] == [
        "1 person (sub-03) left out: no T1w volume"
    ]


def test_names_that_are_not_utf_8_are_refused_and_their_people_named(tmp_path):
    write(tmp_path, "sub-01", "sub-02/acq-\udcff", "sub-\udcff")
    catalog = find_scans(str(tmp_path), IXI)
    assert [scan.subject for scan in catalog.scans] == ["sub-01"]
    assert [error.reason for error in catalog.refused] == ["unreadable", "unreadable"]
    (said,) = [warning for warning in catalog.warnings if "left out" in warning]
    assert said.startswith(r"2 people (sub-02, sub-\udcff) left out: all of their volumes are")


def test_a_folder_without_plain_volumes_says_what_takes_those_that_it_has(tmp_path):
    write(tmp_path / "c", "sub-01/ce-gad")
    with pytest.raises(UserError, match=r"--bids_filter=ceagent=null,ceagent=gad takes it too"):
        find_scans(str(tmp_path / "c"), IXI)
    write(tmp_path / "u", "sub-01/UNIT1", "sub-02/UNIT1")
    with pytest.raises(UserError, match=r"it holds 2 UNIT1: --bids_filter=suffix=UNIT1 takes them"):
        find_scans(str(tmp_path / "u"), IXI)
