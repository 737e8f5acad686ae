"""What is found in a source folder, and what is counted there instead of passed over in silence."""

import os
from pathlib import Path

import pytest

from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.walking import HIDDEN, LINK, by_kind, find_files
from ixi_tfds.system.errors import UserError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def volumes(folder):
    return [os.path.relpath(path, folder) for path in find_files(str(folder)).volumes]


def test_linked_folders_are_followed_once(tmp_path):
    touch(tmp_path / "in", "a.nii", "real/b.nii")
    touch(tmp_path / "elsewhere", "c.nii.gz", "deep/d.nii")
    (tmp_path / "in/0_link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/1_again").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "in/0_inside").symlink_to(tmp_path / "in/real")
    found = find_files(str(tmp_path / "in"))
    # A link in the folder itself changes no path of a volume that is there without it.
    assert volumes(tmp_path / "in") == [
        "0_link/c.nii.gz",
        "0_link/deep/d.nii",
        "a.nii",
        "real/b.nii",
    ]
    assert found.links == (str(tmp_path / "in/0_link"),)
    left = {Path(one.folder).name: one.detail for one in found.passed_over}
    assert left.keys() == {"0_inside", "1_again"}
    assert all("read already" in detail for detail in left.values())
    assert by_kind(found.passed_over) == {LINK: 2}


def test_links_in_circles_end(tmp_path):
    touch(tmp_path / "above/in", "a.nii", "b/c.nii")
    touch(tmp_path / "above", "not_in_the_source.nii")
    (tmp_path / "above/in/b/up").symlink_to(tmp_path / "above/in/b")
    (tmp_path / "above/in/b/root").symlink_to(tmp_path / "above/in")
    (tmp_path / "above/in/parent").symlink_to(tmp_path / "above")
    touch(tmp_path / "x", "d.nii")
    (tmp_path / "x/y").symlink_to(tmp_path / "z")
    (tmp_path / "x/up").symlink_to(tmp_path / "above")
    touch(tmp_path / "z", "e.nii")
    (tmp_path / "z/x").symlink_to(tmp_path / "x")
    (tmp_path / "above/in/x").symlink_to(tmp_path / "x")
    assert volumes(tmp_path / "above/in") == ["a.nii", "b/c.nii", "x/d.nii", "x/y/e.nii"]
    found = find_files(str(tmp_path / "above/in"))
    assert len(found.links) == 2 and by_kind(found.passed_over) == {LINK: 5}


def test_half_a_cohort_behind_a_link_is_in_the_catalog(tmp_path):
    touch(tmp_path / "in", "IXI002-Guys-0828-T1.nii.gz")
    touch(tmp_path / "disk2", "IXI013-HH-1212-T1.nii.gz")
    (tmp_path / "in/more").symlink_to(tmp_path / "disk2")
    catalog = find_scans(str(tmp_path / "in"), IXI)
    assert [scan.subject for scan in catalog.scans] == ["IXI002", "IXI013"]
    assert catalog.links == (str(tmp_path / "in/more"),)


def test_hidden_images_are_not_read_but_counted(tmp_path):
    touch(
        tmp_path, "a.nii", ".a.nii", ".cache/b.nii.gz", ".cache/x.txt", "s/.c.nii.gz", ".DS_Store"
    )
    touch(tmp_path, ".git/annex/objects/x/y/d.nii.gz")
    found = find_files(str(tmp_path))
    assert volumes(tmp_path) == ["a.nii"]
    assert by_kind(found.passed_over) == {HIDDEN: 3}
    assert [os.path.relpath(one.folder, tmp_path) for one in found.passed_over] == [
        *(".", ".cache", "s")
    ]


def test_a_hidden_folder_that_cannot_be_listed_stops_nothing(tmp_path, monkeypatch):
    touch(tmp_path, "a.nii", ".Trash/b.nii")
    listed = os.scandir

    def refused(path):
        if str(path).endswith("Trash"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert volumes(tmp_path) == ["a.nii"]


def test_images_of_other_formats_are_counted_by_kind_and_folder(tmp_path):
    touch(tmp_path, "a.nii", "p1/IM001.dcm", "p1/IM002.dcm", "p2/x.nrrd", "p2/notes.txt")
    catalog = find_scans(str(tmp_path), IXI)
    assert by_kind(catalog.passed_over) == {"DICOM": 2, "NRRD": 1}
    dicom, nrrd = (one.error for one in catalog.passed_over)
    assert (dicom.reason, dicom.path) == ("passed_over", str(tmp_path / "p1"))
    assert "2 DICOM files, such as IM001.dcm" in dicom.detail
    assert "dcm2niix" in dicom.detail and str(tmp_path / "p1") in dicom.detail
    assert "1 NRRD file, such as x.nrrd" in nrrd.detail
    assert "SimpleITK" in nrrd.detail and str(tmp_path / "p2/x.nrrd") in nrrd.detail


def test_dicom_files_without_an_ending_are_known_by_what_is_in_them(tmp_path):
    touch(tmp_path, "a.nii", "notes/README", "notes/0001")
    for name in ("IM0001", "IM0002", "1.001"):
        path = tmp_path / f"series/{name}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM")
    touch(tmp_path, "series/notes.txt")
    (dicom,) = find_files(str(tmp_path)).passed_over
    assert (dicom.kind, dicom.folder, dicom.files) == ("DICOM", str(tmp_path / "series"), 3)


def test_volumes_of_all_formats_that_are_read_are_taken_once(tmp_path):
    touch(tmp_path, "a.nii", "b.NII.GZ", "c.mgz", "d.mgh", "e.mnc", "f.hdr", "f.img", "g.img")
    assert volumes(tmp_path) == ["a.nii", "b.NII.GZ", "c.mgz", "d.mgh", "e.mnc", "f.hdr"]
    (lone,) = find_files(str(tmp_path)).passed_over
    assert "g.img" in lone.detail


def test_a_folder_with_nothing_to_read_says_what_is_there(tmp_path):
    touch(tmp_path, "a_T2.nii", "b_seg.nii", "c_seg.nii", "p1/IM001.dcm")
    with pytest.raises(UserError) as caught:
        find_scans(str(tmp_path), IXI)
    said = str(caught.value)
    assert "3 refused by name, 2 label_map, 1 other_modality" in said
    assert "1 DICOM file, such as IM001.dcm" in said and "dcm2niix" in said


def test_what_operating_systems_leave_is_neither_read_nor_told(tmp_path):
    touch(tmp_path, "a.nii", "._a.nii", ".DS_Store", "Thumbs.db", "p/._b.nii.gz", "p/.nfs00a.nii")
    touch(tmp_path, "__MACOSX/a.nii", "@eaDir/a.nii", "$RECYCLE.BIN/a.nii", ".Trash-1000/c.nii")
    touch(tmp_path, "lost+found/a.nii")
    assert volumes(tmp_path) == ["a.nii"] and find_files(str(tmp_path)).passed_over == ()
