"""Reading a volume: what comes out of good files, and what bad ones are refused for."""

import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
from volumes import head, image, write_head

from ixi_tfds.catalog import Scan
from ixi_tfds.configs import THESIS, SliceConfig
from ixi_tfds.errors import ScanError
from ixi_tfds.nifti import check_volume, read_volume
from ixi_tfds.slices import slices_of

SMALL = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))


def reason_of(path, config=SMALL):
    with pytest.raises(ScanError) as caught:
        list(slices_of(Scan("x", "", str(path)), config))
    assert str(path) in str(caught.value)
    return caught.value.reason


def slices_bytes(path, config=SMALL):
    return [e["image"].tobytes() for _, e in slices_of(Scan("x", "", str(path)), config)]


@pytest.mark.parametrize("axes", ["PSR", "RAS", "LPI", "SLA", "AIL"])
def test_the_same_head_in_any_axes_gives_the_same_slices(tmp_path, axes):
    reference = write_head(tmp_path, "psr")
    other = write_head(tmp_path, axes, axes=axes)
    assert nib.aff2axcodes(nib.load(other).affine) == tuple(axes)
    assert slices_bytes(other) == slices_bytes(reference)


def test_the_affine_follows_the_reorientation(tmp_path):
    ras = read_volume(str(write_head(tmp_path, "ras", axes="RAS")))
    psr = read_volume(str(write_head(tmp_path, "psr")))
    np.testing.assert_array_equal(ras.voxels, psr.voxels)
    np.testing.assert_allclose(ras.affine, psr.affine)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"]
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_equal_nibabels(tmp_path, dtype, kind):
    base = image((head() // 8).astype(np.int16))
    made = kind(np.asarray(base.dataobj).astype(dtype), base.affine)
    made.set_data_dtype(dtype)
    nib.save(made, tmp_path / "x.nii.gz")
    volume = read_volume(str(tmp_path / "x.nii.gz"))
    np.testing.assert_array_equal(
        volume.scaled(volume.voxels), nib.load(tmp_path / "x.nii.gz").get_fdata()
    )


def test_slope_and_intercept_apply_and_nan_means_none(tmp_path):
    for name, slope, inter in (("scaled", 0.5, -3.0), ("none", np.nan, np.nan)):
        made = image(head())
        made.header.set_slope_inter(slope, inter)
        nib.save(made, tmp_path / f"{name}.nii")
        stored = bytearray((tmp_path / f"{name}.nii").read_bytes())
        stored[112:120] = np.array([slope, inter], "<f4").tobytes()
        (tmp_path / f"{name}.nii").write_bytes(stored)
    scaled = read_volume(str(tmp_path / "scaled.nii"))
    assert (scaled.slope, scaled.inter) == (0.5, -3.0)
    plain = read_volume(str(tmp_path / "none.nii"))
    assert (plain.slope, plain.inter) == (1.0, 0.0)


def test_uncompressed_and_multi_member_files_read_alike(tmp_path):
    packed = write_head(tmp_path, "x")
    content = gzip.decompress(packed.read_bytes())
    (tmp_path / "plain.nii").write_bytes(content)
    half = len(content) // 2
    (tmp_path / "two.nii.gz").write_bytes(
        gzip.compress(content[:half]) + gzip.compress(content[half:])
    )
    assert slices_bytes(tmp_path / "plain.nii") == slices_bytes(packed)
    assert slices_bytes(tmp_path / "two.nii.gz") == slices_bytes(packed)


def test_a_trailing_axis_of_length_one_is_fine(tmp_path):
    made = image(head())
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj)[..., None], made.affine), tmp_path / "4.nii")
    assert read_volume(str(tmp_path / "4.nii")).voxels.shape == (32, 32, 24)


def test_missing_file_is_unreadable(tmp_path):
    assert reason_of(tmp_path / "gone.nii.gz") == "unreadable"


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"\0" * 400, gzip.compress(b"text, no image" * 40, mtime=0), b"\x1f\x8b"],
    ids=["empty", "short", "zeros", "packed text", "two bytes"],
)
def test_not_nifti(tmp_path, content):
    (tmp_path / "x.nii.gz").write_bytes(content)
    assert reason_of(tmp_path / "x.nii.gz") in ("not_nifti", "corrupt_data")


def test_truncated_gzip_is_corrupt_wherever_it_ends(tmp_path):
    content = write_head(tmp_path, "x").read_bytes()
    for length in (len(content) // 3, len(content) - 9, len(content) - 8, len(content) - 1):
        (tmp_path / "cut.nii.gz").write_bytes(content[:length])
        assert reason_of(tmp_path / "cut.nii.gz") == "corrupt_data"


def test_every_flipped_bit_of_the_data_is_found(tmp_path):
    """The checksum is the last word: no flip in 120 places may pass as data."""
    content = write_head(tmp_path, "x").read_bytes()
    rng = np.random.default_rng(0)
    # The first ten bytes are gzip's header, in which some bits (time, system) mean nothing.
    for place in rng.integers(10, len(content), 120):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped.nii.gz").write_bytes(flipped)
        assert reason_of(tmp_path / "flipped.nii.gz") in ("corrupt_data", "not_nifti", "not_3d")


def test_a_gzip_that_holds_more_than_declared_is_corrupt(tmp_path):
    content = gzip.decompress(write_head(tmp_path, "x").read_bytes())
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content + b"\0" * 50_000_000))
    assert reason_of(tmp_path / "bomb.nii.gz") == "corrupt_data"


def test_two_scans_in_one_file_are_not_taken_for_the_first(tmp_path):
    first = write_head(tmp_path, "x").read_bytes()
    other = gzip.compress(gzip.decompress(first)[:-1] + b"\x7f")
    (tmp_path / "two.nii.gz").write_bytes(first + other)
    assert reason_of(tmp_path / "two.nii.gz") == "corrupt_data"


@pytest.mark.parametrize("packed", [True, False])
def test_a_header_that_claims_too_much_costs_nothing(tmp_path, packed):
    content = bytearray(gzip.decompress(write_head(tmp_path, "x").read_bytes()))
    content[42:48] = np.array([32767, 32767, 32767], "<i2").tobytes()
    path = tmp_path / "huge.nii"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert reason_of(path) == "corrupt_data"


def write_header(path, **fields):
    """A good head under a header with some fields overwritten."""
    header = image(head()).header
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + b"\0" * 4 + head().tobytes("F"))
    return path


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        # A NaN in the last column alone gave voxels of NaN mm.
        ("not_nifti", {"srow_y": [-4, 0, 0, np.nan]}),
        ("not_nifti", {"sform_code": 0, "qform_code": 1, "quatern_b": 3, "quatern_c": 3}),
        ("not_nifti", {"sform_code": 0, "qform_code": 1, "qoffset_x": np.inf}),
        # nibabel takes -1 for a sign of Freesurfer, and finds no length then.
        ("not_nifti", {"dim": [3, -1, 1, 1, 1, 1, 1, 1], "glmin": 0}),
        ("not_nifti", {"vox_offset": -np.inf}),
        ("not_nifti", {"scl_slope": 1, "scl_inter": np.inf}),
        ("non_finite", {"scl_slope": 3e38, "scl_inter": 0}),
        ("constant", {"scl_slope": 1e-30, "scl_inter": 1e30}),
        ("too_large", {"dim": [3, 5000, 2, 2, 1, 1, 1, 1]}),
    ],
)
def test_headers_that_make_no_sense_are_refused_with_a_reason(tmp_path, capfd, reason, fields):
    path = write_header(tmp_path / "x.nii", **fields)
    assert (
        reason_of(path, SliceConfig("any", in_plane=None, size=(32, 32), window=(8, 14))) == reason
    )
    assert capfd.readouterr() == ("", ""), "what nibabel remarks is nothing to the user"


@pytest.mark.parametrize("length", [2, 4, 100, 347])
def test_a_file_that_ends_within_its_header_is_not_nifti(tmp_path, length):
    whole = write_header(tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii").write_bytes(whole[:length])
    assert reason_of(tmp_path / "x.nii") == "not_nifti"


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 24, 3), (32, 32, 1)])
def test_not_three_dimensional(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), tmp_path / "x.nii.gz")
    assert reason_of(tmp_path / "x.nii.gz") == "not_3d"


def test_geometry_is_refused_by_its_own_reasons(tmp_path):
    path = write_head(tmp_path, "x", shape=(32, 30, 24))
    assert reason_of(path) == "wrong_in_plane_size"
    assert reason_of(write_head(tmp_path, "y", shape=(32, 32, 13))) == "too_few_slices"
    any_size = SliceConfig("any", in_plane=None, size=(32, 32), window=(8, 14))
    assert len(slices_bytes(path, any_size)) == 6


def test_values_are_refused_by_their_own_reasons(tmp_path):
    voxels = head().astype(np.float32)
    for bad in (np.nan, np.inf):
        voxels[3, 4, 5] = bad
        assert reason_of(write_head(tmp_path, "x", voxels=voxels)) == "non_finite"
    constant = np.full((32, 32, 24), 7, np.int16)
    assert reason_of(write_head(tmp_path, "x", voxels=constant)) == "constant"
    sparse = np.zeros((32, 32, 24), np.int16)
    sparse[10:12, 10:12, 8:14] = np.arange(24).reshape(2, 2, 6)
    assert reason_of(write_head(tmp_path, "x", voxels=sparse)) == "near_empty"
    labels = np.kron(np.arange(48).reshape(4, 4, 3), np.ones((8, 8, 8))).astype(np.int16)
    assert reason_of(write_head(tmp_path, "x", voxels=labels)) == "label_map"


def test_a_head_of_unknown_orientation_is_refused(tmp_path):
    made = image(head())
    made.set_sform(None, code=0)
    made.set_qform(None, code=0)
    nib.save(made, tmp_path / "x.nii.gz")
    assert reason_of(tmp_path / "x.nii.gz") == "no_orientation"


def test_an_affine_too_small_for_its_squares_is_refused(tmp_path):
    made = nib.Nifti2Image(head(), image(head()).affine)
    made.header["srow_y"] *= 1e-260
    (tmp_path / "x.nii").write_bytes(made.header.binaryblock + b"\0" * 4 + head().tobytes("F"))
    assert reason_of(tmp_path / "x.nii") == "not_nifti"


def test_an_affine_in_metres_is_fine(tmp_path):
    made = image(head())
    metres = made.affine / [[1000.0], [1000.0], [1000.0], [1.0]]
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj), metres), tmp_path / "x.nii.gz")
    assert len(slices_bytes(tmp_path / "x.nii.gz")) == 6


def test_colours_are_refused(tmp_path):
    pixels = np.zeros((32, 32, 24), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), tmp_path / "x.nii.gz")
    assert reason_of(tmp_path / "x.nii.gz") == "other_modality"


def test_full_size_near_empty_and_constant_volumes_are_refused(tmp_path):
    empty = np.zeros((256, 256, 150), np.int16)
    empty[100:120, 100:120, 50:110] = 500
    assert reason_of(write_head(tmp_path, "near", voxels=empty), THESIS) == "near_empty"
    empty[:] = 3
    assert reason_of(write_head(tmp_path, "constant", voxels=empty), THESIS) == "constant"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("corrupt-gzip", "corrupt_data"),
        ("two-dimensional", "not_3d"),
        ("near-empty", "wrong_in_plane_size"),
    ],
)
def test_real_bad_files(real_data, fault, reason):
    (path,) = (real_data / "bad" / fault).glob("*.nii.gz")
    assert reason_of(path, THESIS) == reason


@pytest.mark.real_data
def test_real_label_maps_are_refused_by_content(real_data, tmp_path):
    config = SliceConfig("heads_2mm", in_plane=(120, 120), size=(128, 128), window=(30, 66))
    for path in sorted((real_data / "ixi/brain_masks_2mm").glob("*.nii.gz")):
        renamed = shutil.copy(path, tmp_path / path.name.replace(".labels", ""))
        assert reason_of(renamed, config) == "label_map"


@pytest.mark.real_data
def test_every_real_scan_is_accepted(real_data):
    heads = SliceConfig("heads_2mm", in_plane=(120, 120), size=(128, 128), window=(30, 66))
    for folder, config in (("heads_2mm", heads), ("full", THESIS), ("stripped", THESIS)):
        for path in sorted((real_data / "ixi" / folder).glob("*.nii.gz")):
            check_volume(read_volume(str(path)), str(path), config)
