"""What is said of a file that is no image: the true cause, and what to do."""

import gzip
import io
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from volumes import write_head

from ixi_tfds.formats import READ_FORMATS
from ixi_tfds.nifti import read_volume
from ixi_tfds.system.errors import ScanError

NAMES = ("x.nii", "x.nii.gz", "x.mgz", "x.hdr", "x.mnc")


def refusal(path):
    with pytest.raises(ScanError) as caught:
        read_volume(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason, caught.value.detail


def tar_of(content):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("head.nii")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def zip_of(content):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("head.nii", content)
    return made.getvalue()


def hdf5():
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        file["t1"] = np.zeros((4, 4, 4))
    return made.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4711\n"
ANNEX = b"/annex/objects/MD5E-s4711--0123456789abcdef.nii.gz\n"
CONTENTS = {
    "empty": (b"", "is empty (0 bytes)"),
    "Git LFS": (LFS, "git lfs pull"),
    "git-annex": (ANNEX, "datalad get "),
    "HTML": (b"<!DOCTYPE html>\n<html>Sign in</html>", "is a page (HTML or XML)"),
    "html without doctype": (b"\n  <HTML><body>404", "is a page (HTML or XML)"),
    "XML of a store": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "download failed"),
    "zip": (zip_of(b"x" * 400), "is a zip archive; unpack it"),
    "tar": (tar_of(b"x" * 400), "is a tar archive; unpack it"),
    "packed tar": (gzip.compress(tar_of(b"x" * 400)), "is a tar archive; unpack it"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"x" * 400)), "compressed by gzip twice"),
    "bzip2": (b"BZh91AY&SY" + bytes(400), "is compressed by bzip2"),
    "DICOM": (bytes(128) + b"DICM" + bytes(400), "dcm2niix -z y"),
    "NRRD": (b"NRRD0004\n# " + bytes(400), "import SimpleITK"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(400), "is a PNG picture"),
    "text": (b"subject,age\n" * 60, READ_FORMATS),
    "zeros": (bytes(600), READ_FORMATS),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", CONTENTS)
def test_the_message_says_what_the_file_is(tmp_path, name, content):
    stored, words = CONTENTS[content]
    (tmp_path / "x.img").write_bytes(b"voxels")
    (tmp_path / name).write_bytes(stored)
    reason, detail = refusal(tmp_path / name)
    assert reason == "not_nifti" and words in detail, detail


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mgz"])
def test_an_hdf5_file_under_another_name_says_so(tmp_path, name):
    (tmp_path / name).write_bytes(hdf5())
    assert refusal(tmp_path / name) == (
        "not_nifti",
        "is an HDF5 file; MINC 2 is read if its name ends in .mnc",
    )


def test_hdf5_that_is_no_minc_has_a_reason(tmp_path):
    (tmp_path / "x.mnc").write_bytes(hdf5())
    reason, detail = refusal(tmp_path / "x.mnc")
    assert reason == "corrupt_data" and "is a damaged MINC file" in detail


@pytest.mark.parametrize("name", ["x.nii.gz", "x.mgz", "x.hdr"])
def test_a_broken_link_of_git_annex_says_datalad_get(tmp_path, name):
    (tmp_path / "x.img").write_bytes(b"voxels")
    path = tmp_path / name
    path.symlink_to(f".git/annex/objects/aa/bb/MD5E-s4--0/{name}")
    reason, detail = refusal(path)
    assert reason == "unreadable" and f"datalad get {path}" in detail
    path.unlink()
    path.symlink_to("elsewhere")
    assert refusal(path) == ("unreadable", "cannot be read (No such file or directory)")


def test_the_voxels_of_a_pair_may_be_a_broken_link(tmp_path):
    write_head(tmp_path, "y")
    (tmp_path / "x.hdr").write_bytes(bytes(348))
    (tmp_path / "x.img").symlink_to(".git/annex/objects/x.img")
    reason, detail = refusal(tmp_path / "x.hdr")
    assert reason == "unreadable" and f"datalad get {tmp_path / 'x.img'}" in detail
