"""Formats other than NIfTI: the same head gives the same slices, and broken files a reason."""

import gzip
import hashlib
import pathlib
import struct
import tracemalloc

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io
from volumes import head, image

from evaluator.map_files import write_map
from ixi_tfds import formats
from ixi_tfds.nifti import digest_of, read_volume
from ixi_tfds.system.errors import ScanError

SPACE = ("zspace", "yspace", "xspace")


def scan():
    """A head with the axes RAS and voxels of three sides, oblique."""
    made = image(head((14, 12, 10)), axes="RAS")
    turned = np.eye(4)
    turned[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.05, -0.08)
    return nib.Nifti1Image(np.asarray(made.dataobj), turned @ made.affine)


def write_mgh(path, made):
    nib.save(nib.MGHImage(np.asarray(made.dataobj, np.int16), made.affine), path)


def write_pair(path, made):
    packed = path.name.endswith(".gz")
    header = path if not packed else path.with_suffix("")
    nib.save(nib.Nifti1Pair(np.asarray(made.dataobj), made.affine), header)
    for part in (header, header.with_suffix(".img")) if packed else ():
        part.with_name(part.name + ".gz").write_bytes(gzip.compress(part.read_bytes()))
        part.unlink()


def minc_axes(affine):
    """Step, start and cosines of each axis of a volume with its axes in the order z, y, x."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / steps
    starts = np.linalg.solve(cosines, affine[:3, 3])
    return steps, starts, cosines


def slice_scaling(data):
    """Each slice of int16 data with a scaling of its own: stored values, lowest and highest."""
    low, high = data.min(axis=(1, 2)), data.max(axis=(1, 2)) + 1.0
    share = (data - low[:, None, None]) / (high - low)[:, None, None]
    return np.rint(share * 30000 - 10000).astype(np.int16), low.astype(float), high


def write_minc1(path, made):
    steps, starts, cosines = minc_axes(made.affine)
    data = np.asarray(made.dataobj, float).transpose(2, 1, 0)
    stored, low, high = slice_scaling(data)
    target = path.with_suffix("") if path.suffix == ".gz" else path
    with scipy.io.netcdf_file(target, "w") as file:
        for axis, name in enumerate(SPACE):
            file.createDimension(name, data.shape[axis])
            variable = file.createVariable(name, "i", ())
            variable.step, variable.start = steps[2 - axis], starts[2 - axis]
            variable.direction_cosines = cosines[:, 2 - axis].copy()
            variable.spacing = b"regular__"
        values = file.createVariable("image", "h", SPACE)
        values[:] = stored
        values.signtype = b"signed__"
        values.valid_range = np.array([-10000.0, 20000.0])
        for name, numbers in (("image-min", low), ("image-max", high)):
            file.createVariable(name, "d", ("zspace",))[:] = numbers
    if target != path:
        path.write_bytes(gzip.compress(target.read_bytes()))
        target.unlink()


def write_minc2(path, made, *, shape=None, chunks=True):
    steps, starts, cosines = minc_axes(made.affine)
    data = np.asarray(made.dataobj, float).transpose(2, 1, 0)
    stored, low, high = slice_scaling(data)
    with h5py.File(path, "w") as file:
        dimensions = file.create_group("minc-2.0/dimensions")
        for axis, name in enumerate(SPACE):
            dimension = dimensions.create_dataset(name, data=0)
            dimension.attrs["step"] = steps[2 - axis]
            dimension.attrs["start"] = starts[2 - axis]
            dimension.attrs["direction_cosines"] = cosines[:, 2 - axis]
            dimension.attrs["spacing"] = np.bytes_(b"regular__")
        group = file.create_group("minc-2.0/image/0")
        if shape:
            values = group.create_dataset("image", shape, np.int16, chunks=(8, 8, 8), compression=9)
        else:
            values = group.create_dataset(
                "image", data=stored, chunks=(5, 6, 7) if chunks else None, compression=9
            )
        values.attrs["dimorder"] = np.bytes_(",".join(SPACE).encode())
        values.attrs["valid_range"] = np.array([-10000.0, 20000.0])
        for name, numbers in (("image-min", low), ("image-max", high)):
            group.create_dataset(name, data=numbers).attrs["dimorder"] = np.bytes_(b"zspace")


WRITERS = {
    "x.mgz": write_mgh,
    "x.mgh": write_mgh,
    "x.hdr": write_pair,
    "x.img": lambda path, made: write_pair(path.with_suffix(".hdr"), made),
    "x.hdr.gz": write_pair,
    "x.mnc": write_minc2,
    "one.mnc": write_minc1,
    "one.mnc.gz": write_minc1,
    "X.MNC": write_minc2,
}


def write(folder, name, made=None):
    """A head in the format that the name says."""
    WRITERS[name](folder / name, made or scan())
    return folder / name


def reason_of(path, **options):
    with pytest.raises(ScanError) as caught:
        read_volume(str(path), **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", WRITERS)
def test_a_head_is_the_same_volume_in_every_format(tmp_path, name):
    nib.save(scan(), tmp_path / "x.nii")
    expected = read_volume(str(tmp_path / "x.nii"))
    volume = read_volume(str(write(tmp_path, name)))
    # MINC's scaling of each slice rounds.
    within = 0.5 if "mnc" in name.lower() else 0
    values, wanted = (v.scaled(v.voxels) for v in (volume, expected))
    np.testing.assert_allclose(values, wanted, atol=within)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert volume.assumed_axes is None


@pytest.mark.parametrize("name", WRITERS)
def test_voxels_and_affine_are_those_of_nibabel(tmp_path, name):
    path = write(tmp_path, name)
    loaded = nib.load(path if path.suffix != ".MNC" else path.rename(tmp_path / "y.mnc"))
    path = pathlib.Path(loaded.get_filename())
    ras = nib.as_closest_canonical(nib.Nifti1Image(loaded.get_fdata(), loaded.affine))
    volume = read_volume(str(path))
    values = volume.scaled(volume.voxels)
    np.testing.assert_allclose(values, ras.get_fdata().transpose(1, 2, 0)[::-1], atol=1e-3)


@pytest.mark.parametrize("name", WRITERS)
def test_maps_are_nifti_on_the_grid_of_the_file(tmp_path, name):
    path = write(tmp_path, name)
    volume = read_volume(str(path))
    write_map(tmp_path / "map.nii.gz", volume.scaled(volume.voxels), volume)
    made = nib.load(tmp_path / "map.nii.gz")
    loaded = nib.load(path) if path.suffix != ".MNC" else None
    if loaded is not None:
        np.testing.assert_allclose(made.affine, loaded.affine, atol=1e-4)
        np.testing.assert_allclose(made.get_fdata(), loaded.get_fdata(), atol=1e-3)
    again = read_volume(str(tmp_path / "map.nii.gz"))
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)


def test_the_checksum_of_a_pair_covers_both_files(tmp_path):
    path = write(tmp_path, "x.hdr")
    data = path.with_suffix(".img")
    both = path.read_bytes() + data.read_bytes()
    expected = hashlib.sha1(b"blob %d\0" % len(both) + both).hexdigest()
    assert read_volume(str(path)).git_blob_sha1 == digest_of(str(data)) == expected
    data.write_bytes(data.read_bytes()[:-1] + b"\x07")
    assert digest_of(str(path)) != expected


def test_half_of_a_pair_names_the_missing_half(tmp_path):
    path = write(tmp_path, "x.hdr")
    data = path.with_suffix(".img").rename(tmp_path / "y.img")
    with pytest.raises(ScanError, match=r"one of a pair, and x\.img cannot be read") as caught:
        read_volume(str(path))
    assert caught.value.reason == "unreadable"
    with pytest.raises(ScanError, match=r"one of a pair, and y\.hdr cannot be read"):
        read_volume(str(data))


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm2AnalyzeImage])
def test_analyze_is_refused_unless_its_orientation_may_be_assumed(tmp_path, kind):
    made = scan()
    analyze = kind(np.asarray(made.dataobj), np.diag([-2.0, 3.5, 1.5, 1]))
    nib.save(analyze, tmp_path / "x.img")
    assert reason_of(tmp_path / "x.hdr") == "no_orientation"
    volume = read_volume(str(tmp_path / "x.hdr"), allow_unknown_orientation=True)
    assert volume.assumed_axes == "LAS"
    assert volume.zooms == pytest.approx((3.5, 1.5, 2.0))
    expected = np.asarray(made.dataobj).transpose(1, 2, 0)[::-1, :, ::-1]
    np.testing.assert_array_equal(volume.voxels, expected)


@pytest.mark.parametrize(("number", "axes"), [(0, "LAS"), (1, "LSA"), (2, "ASL")])
def test_the_number_of_analyzes_orientation_names_the_axes(tmp_path, number, axes):
    nib.save(nib.AnalyzeImage(np.asarray(scan().dataobj), np.eye(4)), tmp_path / "x.img")
    header = bytearray((tmp_path / "x.hdr").read_bytes())
    header[252] = number
    (tmp_path / "x.hdr").write_bytes(header)
    volume = read_volume(str(tmp_path / "x.hdr"), allow_unknown_orientation=True)
    assert volume.assumed_axes == axes


def test_an_unknown_orientation_of_nifti_and_mgh_may_be_assumed(tmp_path):
    made = scan()
    made.header["qform_code"] = made.header["sform_code"] = 0
    (tmp_path / "x.nii").write_bytes(made.to_bytes())
    made = bytearray(nib.MGHImage(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_bytes())
    made[28:30] = b"\0\0"
    (tmp_path / "x.mgh").write_bytes(made)
    for name, axes in (("x.nii", "LAS"), ("x.mgh", "LIA")):
        path = tmp_path / name
        if name == "x.nii":
            content = bytearray(path.read_bytes())
            content[252:256] = bytes(4)
            path.write_bytes(content)
        assert reason_of(path) == "no_orientation"
        assert read_volume(str(path), allow_unknown_orientation=True).assumed_axes == axes


def test_four_dimensions_and_colours_are_refused_in_every_format(tmp_path):
    four = np.zeros((6, 5, 4, 3), np.int16)
    nib.save(nib.MGHImage(four, np.eye(4)), tmp_path / "x.mgz")
    nib.save(nib.Nifti1Pair(four, np.eye(4)), tmp_path / "y.hdr")
    assert reason_of(tmp_path / "x.mgz") == reason_of(tmp_path / "y.hdr") == "not_3d"
    nib.save(nib.Nifti1Pair(np.zeros((6, 5, 4), np.complex64), np.eye(4)), tmp_path / "z.hdr")
    assert reason_of(tmp_path / "z.hdr") == "other_modality"


@pytest.mark.parametrize("name", ["x.mgz", "x.hdr.gz", "one.mnc.gz"])
def test_a_flipped_bit_in_packed_voxels_is_corrupt(tmp_path, name):
    path = write(tmp_path, name)
    part = tmp_path / "x.img.gz" if "hdr" in name else path
    stored = bytearray(part.read_bytes())
    stored[-20] ^= 4
    part.write_bytes(stored)
    assert reason_of(path) == "corrupt_data"


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_ends_early_has_a_reason(tmp_path, name):
    path = write(tmp_path, name)
    part = path.with_name(path.name.replace("hdr", "img"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    assert reason_of(path) in ("corrupt_data", "not_nifti")


def test_a_minc_file_may_not_take_its_voxels_from_elsewhere(tmp_path):
    """HDF5 has links and storage outside the file: a scan must not show another file's bytes."""
    path = write(tmp_path, "x.mnc")
    write_minc2(tmp_path / "other.mnc", scan())
    (tmp_path / "raw").write_bytes(bytes(10 * 12 * 14 * 2))
    with h5py.File(path, "a") as file:
        del file["minc-2.0/image/0/image"]
        file["minc-2.0/image/0/image"] = h5py.ExternalLink(
            str(tmp_path / "other.mnc"), "minc-2.0/image/0/image"
        )
    assert reason_of(path) == "corrupt_data"
    with h5py.File(path, "a") as file:
        del file["minc-2.0/image/0/image"]
        values = file["minc-2.0/image/0"].create_dataset(
            "image",
            (10, 12, 14),
            np.int16,
            external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)],
        )
        values.attrs["dimorder"] = np.bytes_(",".join(SPACE).encode())
    assert reason_of(path) == "corrupt_data"


def test_sizes_that_a_file_cannot_hold_are_refused_before_they_are_read(tmp_path):
    mgh = bytearray(nib.MGHImage(np.zeros((4, 5, 6), np.uint8), np.eye(4)).to_bytes())
    mgh[4:16] = np.array([30000] * 3, ">i4").tobytes()
    (tmp_path / "x.mgh").write_bytes(mgh)
    (tmp_path / "y.mgz").write_bytes(gzip.compress(mgh))
    write_minc2(tmp_path / "z.mnc", scan(), shape=(4000, 4000, 4000))
    for name in ("x.mgh", "y.mgz", "z.mnc"):
        assert reason_of(tmp_path / name) == "corrupt_data", name
    write_minc2(tmp_path / "z.mnc", scan(), shape=(5000, 8, 8))
    assert reason_of(tmp_path / "z.mnc") == "too_large"


def test_variables_that_overlap_cost_no_more_than_the_file(tmp_path):
    """A netCDF file of 200 kB with 1000 variables, each of which is the whole file."""
    size, variables = 200_000, 1000
    number = struct.Struct(">i").pack
    name = number(1) + b"d\0\0\0"
    content = b"CDF\x01" + number(0) + number(10) + number(1) + name + number(size)
    content += bytes(8) + number(11) + number(variables)
    for index in range(variables):
        label = f"v{index:07d}".encode()
        content += number(8) + label + number(1) + number(0) + bytes(8) + number(1)
        content += number(size) + number(0)
    (tmp_path / "x.mnc").write_bytes(content + bytes(size))
    tracemalloc.start()
    try:
        assert reason_of(tmp_path / "x.mnc") == "corrupt_data"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_names_say_which_files_are_images():
    read = ["a.nii", "a.NII.GZ", "b.hdr", "c.mgz", "c.mgh", "d.mnc", "d.mnc.gz"]
    assert {formats.image_kind(name) for name in read} == set(formats.READ_KINDS)
    others = {
        "e.dcm": "DICOM",
        "1.2.840.113619.2.5.1762583153.215519.978957063.78": "DICOM",
        "DICOMDIR": "DICOM",
        "f.nrrd": "NRRD",
        "g.PAR": "PAR/REC",
        "h+orig.HEAD": "AFNI",
        "i.v": "ECAT",
        "j.nii.bz2": "NIfTI in another compression",
        "k.img": formats.NO_HEADER,
    }
    assert {name: formats.image_kind(name) for name in others} == others
    for name in ("notes.txt", "IXI.xls", "participants.tsv", "10.5.csv", "head.png", "1.2.3"):
        assert formats.image_kind(name) is None, name


def test_a_pair_is_one_image():
    names = ["a.hdr", "a.img", "b.img", "c.hdr.gz", "c.img.gz", "t.txt"]
    assert dict(formats.images_in(names)) == {
        "a.hdr": formats.PAIR,
        "b.img": formats.NO_HEADER,
        "c.hdr.gz": formats.PAIR,
    }
