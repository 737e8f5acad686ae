"""What is not read in a source folder is counted, in a BIDS folder too, and says what takes it."""

from pathlib import Path

import pytest

from ixi_tfds.cohorts.catalog import find_scans, look
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.walking import by_kind, find_files
from ixi_tfds.system.errors import UserError

DICOM = b"\0" * 128 + b"DICM"


def touch(folder, *names, content=b""):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_images_that_are_not_read_are_counted_in_a_bids_folder(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/func/sub-01_bold.nii.gz", "README")
    touch(tmp_path, "sub-07/anat/sub-07_T1w.nii.bz2", "sub-08/anat/sub-08_T1w.mgz")
    touch(tmp_path, "sub-09/dicom/a.dcm", "sub-09/dicom/b.dcm")
    touch(tmp_path, "derivatives/x/sub-01/T1.mgz", "sourcedata/sub-01/c.dcm")
    catalog = find_scans(str(tmp_path), IXI)
    assert [scan.subject for scan in catalog.scans] == ["sub-01"]
    assert by_kind(catalog.passed_over) == {
        "DICOM": 2,
        "MGH": 1,
        "NIfTI in another compression": 1,
    }
    (mgh,) = (one for one in catalog.passed_over if one.kind == "MGH")
    assert mgh.detail == "1 MGH file, such as sub-08_T1w.mgz: not read; convert it to NIfTI"
    (tmp_path / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    with pytest.raises(UserError, match=r"without T1 volumes .*2 DICOM files, such as a\.dcm"):
        look(str(tmp_path))


def test_links_in_a_bids_folder_are_told_and_none_that_is_read_is_passed_over(tmp_path):
    touch(tmp_path / "study", "sub-01/anat/sub-01_T1w.nii.gz")
    touch(tmp_path / "else", "anat/sub-02_T1w.nii.gz", "dicom/a.dcm")
    (tmp_path / "study/sub-02").symlink_to(tmp_path / "else")
    (tmp_path / "study/sub-03").symlink_to(tmp_path / "study/sub-01")
    (tmp_path / "study/sub-01/loop").symlink_to(tmp_path / "study")
    catalog = find_scans(str(tmp_path / "study"), IXI)
    assert [scan.subject for scan in catalog.scans] == ["sub-01", "sub-02", "sub-03"]
    assert [Path(link).name for link in catalog.links] == ["sub-02", "sub-03"]
    assert by_kind(catalog.passed_over) == {"DICOM": 1, "link to a folder": 1}


def test_dicom_files_without_extension_are_counted_beside_other_bare_files(tmp_path):
    touch(tmp_path, "a.nii.gz")
    touch(tmp_path, "d/CHANGES", "d/LICENSE", "d/README")
    touch(tmp_path, *(f"d/IM{number:04d}" for number in range(50)), content=DICOM)
    (found,) = find_files(str(tmp_path)).passed_over
    assert (found.kind, found.files) == ("DICOM", 50)
    assert "such as IM0000" in found.detail


@pytest.mark.parametrize(("entity", "value"), [("ceagent", "gd"), ("part", "phase")])
def test_the_filter_that_is_advised_takes_plain_volumes_too(tmp_path, entity, value):
    short = {"ceagent": "ce", "part": "part"}[entity]
    names = ("sub-01_T1w", f"sub-02_{short}-{value}_T1w")
    touch(tmp_path, *(f"{name[:6]}/anat/{name}.nii.gz" for name in names))
    (error,) = find_scans(str(tmp_path), IXI).refused
    assert f"--bids_filter={entity}=null,{entity}={value} takes it too" in error.detail
    taken = find_scans(str(tmp_path), IXI, bids_filter={entity: (None, value)}).scans
    assert [scan.subject for scan in taken] == ["sub-01", "sub-02"]
