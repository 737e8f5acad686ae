"""The printed commands turn images of other kinds into volumes that are read."""

import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from volumes import head

from ixi_tfds.formats import conversion
from ixi_tfds.nifti import read_volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """The environment of a user who has installed what the commands name."""
    target = tmp_path_factory.mktemp("tools")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"--target={target}"]
    command += ["--retries=1", "--timeout=10", "dcm2niix", "SimpleITK"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"dcm2niix and SimpleITK cannot be installed from PyPI: {done.stderr[-200:]}")
    places = [str(target / "bin"), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    return os.environ | {"PATH": os.pathsep.join(places), "PYTHONPATH": str(target)}


def run_printed(message, folder, environment):
    """Run the command at the end of a message, in a folder."""
    command = re.search(r"\(pip install \w+\): (.*)$", message)[1]
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def element(group, number, kind, value):
    """A data element of DICOM in explicit little endian."""
    if kind == "US":
        value = struct.pack("<H", value)
    elif kind not in ("OB", "OW"):
        value = value.encode()
    value += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
    length = b"\0\0" + struct.pack("<I", len(value)) if kind in ("OB", "OW") else None
    return (
        struct.pack("<HH", group, number)
        + kind.encode()
        + (length or struct.pack("<H", len(value)))
        + value
    )


def write_dicom(path, plane, index, spacing):
    """A slice of an MR series, axial, with rows to the left and columns to the back."""
    storage, series = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4.5"
    meta = element(2, 0x1, "OB", b"\0\1") + element(2, 0x2, "UI", storage)
    meta += element(2, 0x3, "UI", f"{series}.{index}")
    meta += element(2, 0x10, "UI", "1.2.840.10008.1.2.1")
    elements = [
        (0x8, 0x8, "CS", "ORIGINAL\\PRIMARY"), (0x8, 0x16, "UI", storage),
        (0x8, 0x18, "UI", f"{series}.{index}"), (0x8, 0x60, "CS", "MR"),
        (0x8, 0x70, "LO", "SIEMENS"), (0x10, 0x20, "LO", "P007"),
        (0x18, 0x50, "DS", str(spacing[2])),
        (0x18, 0x1030, "LO", "t1"), (0x20, 0xD, "UI", series), (0x20, 0xE, "UI", f"{series}.1"),
        (0x20, 0x11, "IS", "3"), (0x20, 0x13, "IS", str(index + 1)),
        (0x20, 0x32, "DS", f"-20\\-30\\{index * spacing[2]}"),
        (0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), (0x28, 0x2, "US", 1),
        (0x28, 0x4, "CS", "MONOCHROME2"),
        (0x28, 0x10, "US", plane.shape[0]), (0x28, 0x11, "US", plane.shape[1]),
        (0x28, 0x30, "DS", f"{spacing[1]}\\{spacing[0]}"), (0x28, 0x100, "US", 16),
        (0x28, 0x101, "US", 16), (0x28, 0x102, "US", 15), (0x28, 0x103, "US", 0),
        (0x7FE0, 0x10, "OW", plane.astype("<u2").tobytes()),
    ]  # fmt: skip
    data = b"".join(element(*one) for one in elements)
    group = struct.pack("<HH", 2, 0) + b"UL" + struct.pack("<HI", 4, len(meta))
    path.write_bytes(bytes(128) + b"DICM" + group + meta + data)


def test_a_folder_of_dicom_files_becomes_a_volume(tmp_path, tools):
    voxels = head((24, 20, 16))
    (tmp_path / "my scan").mkdir()
    for index in range(16):
        write_dicom(tmp_path / "my scan" / f"{index}.dcm", voxels[:, :, index], index, (2, 3, 4))
    run_printed(conversion("DICOM", "my scan"), tmp_path, tools)
    volume = read_volume(str(tmp_path / "nifti" / "P007_t1_3.nii.gz"))
    assert volume.zooms == pytest.approx((3, 4, 2))
    # Rows run to posterior, columns to the left, slices to superior.
    np.testing.assert_array_equal(volume.voxels, voxels.transpose(0, 2, 1)[:, :, ::-1])


def test_an_nrrd_file_becomes_a_volume(tmp_path, tools):
    voxels = head((24, 20, 16))
    lines = [
        *("NRRD0004", "type: int16", "dimension: 3", "sizes: 24 20 16", "endian: little"),
        *("space: left-posterior-superior", "space directions: (0,3,0) (0,0,4) (-2,0,0)"),
        *("space origin: (0,0,0)", "encoding: raw", "", ""),
    ]
    (tmp_path / "it's a.b.nrrd").write_bytes("\n".join(lines).encode() + voxels.tobytes("F"))
    run_printed(conversion("NRRD", "it's a.b.nrrd"), tmp_path, tools)
    volume = read_volume(str(tmp_path / "it's a.b.nii.gz"))
    assert volume.zooms == pytest.approx((3, 4, 2))
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_a_metaimage_becomes_a_volume(tmp_path, tools):
    voxels = head((24, 20, 16))
    lines = [
        *("ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"),
        *("TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 2 3 4"),
        *("DimSize = 24 20 16", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""),
    ]
    (tmp_path / "a.mha").write_bytes("\n".join(lines).encode() + voxels.tobytes("F"))
    run_printed(conversion("MetaImage", "a.mha"), tmp_path, tools)
    assert read_volume(str(tmp_path / "a.nii.gz")).zooms == pytest.approx((3, 4, 2))
