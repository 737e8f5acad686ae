"""Reading a volume: what comes out of good files, and what bad ones are refused for."""

import gzip
import hashlib
import itertools
import math
import shutil
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest
from volumes import head, image, write_head

from ixi_tfds import nifti
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import THESIS, SliceConfig
from ixi_tfds.nifti import check_volume, read_volume
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError

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


def in_psr(data, affine):
    """Voxels of nibabel's in the axes of IXI, by way of its RAS."""
    ras = nib.as_closest_canonical(nib.Nifti1Image(data, affine)).get_fdata()
    return ras.transpose(1, 2, 0)[::-1]


ALL_AXES = [
    "".join(codes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]


def test_all_48_axes_are_turned_to_those_of_ixi(tmp_path):
    """By the voxels and by where a corner's neighbour lies in the head."""
    voxels = np.random.default_rng(0).permutation(5 * 6 * 7).reshape(5, 6, 7).astype(np.int16)
    assert len(ALL_AXES) == 48
    for axes in ALL_AXES:
        path = write_head(tmp_path, "x", voxels=voxels, axes=axes)
        stored = nib.load(path)
        volume = read_volume(str(path))
        assert nib.aff2axcodes(volume.affine) == ("P", "S", "R"), axes
        np.testing.assert_array_equal(volume.voxels, voxels, axes)
        np.testing.assert_array_equal(
            volume.voxels, in_psr(stored.get_fdata(), stored.affine), axes
        )
        here = np.argwhere(volume.voxels == 100)[0]
        there = np.argwhere(stored.get_fdata() == 100)[0]
        np.testing.assert_allclose(
            nib.affines.apply_affine(volume.affine, here),
            nib.affines.apply_affine(stored.affine, there),
        )
        assert volume.zooms == pytest.approx((4, 4, 5))


def test_sides_of_voxels_are_those_along_the_axes_of_an_oblique_head(tmp_path):
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1))
    ras = turned @ np.diag([1.5, 2.0, 3.5, 1.0])
    nib.save(nib.Nifti1Image(head(), ras), tmp_path / "x.nii.gz")
    assert read_volume(str(tmp_path / "x.nii.gz")).zooms == pytest.approx((2.0, 3.5, 1.5))


@pytest.mark.parametrize(
    ("sform", "qform", "counts"), [(1, 1, "sform"), (0, 1, "qform"), (2, 0, "sform")]
)
def test_the_sform_counts_before_the_qform_and_either_alone(tmp_path, sform, qform, counts):
    """They may differ: here in which way the head lies."""
    affines = {"sform": image(head(), "RAS").affine, "qform": image(head(), "LPI").affine}
    made = nib.Nifti1Image(head(), affines["sform"])
    made.set_sform(affines["sform"], code=sform)
    made.set_qform(affines["qform"], code=qform)
    nib.save(made, tmp_path / "x.nii")
    np.testing.assert_array_equal(
        read_volume(str(tmp_path / "x.nii")).voxels, in_psr(head(), affines[counts])
    )


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("slope", "inter"), [(0.5, -3), (-0.7, 1000), (0, 5), (np.nan, np.nan)])
def test_scanner_units_equal_nibabels(tmp_path, kind, dtype, order, slope, inter):
    """In either byte order, with slope and intercept, behind an extension of the header."""
    voxels = (head() // 8 + np.arange(24)).astype(np.dtype(dtype).newbyteorder(order))
    header = kind(endianness=order)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(image(head()).affine, code=1)
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["magic"] = b"n+1" if kind is nib.Nifti1Header else b"n+2"
    header["vox_offset"] = len(header.binaryblock) + 36
    extension = b"\1\0\0\0" + np.array([32, 6], f"{order}i4").tobytes() + b"a comment".ljust(24)
    path = tmp_path / "x.nii"
    path.write_bytes(header.binaryblock + extension + voxels.tobytes("F"))
    volume = read_volume(str(path))
    found = volume.scaled(volume.voxels)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, nib.load(path).get_fdata())
    plain = slope == 0 or math.isnan(slope)
    by_hand = voxels.astype(float) if plain else voxels * float(np.float32(slope)) + inter
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_the_checksum_is_that_of_the_file_as_it_lies_on_disk(tmp_path):
    path = write_head(tmp_path, "x")
    content = path.read_bytes()
    expected = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert read_volume(str(path)).git_blob_sha1 == expected


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
    np.testing.assert_array_equal(scaled.scaled(scaled.voxels), head() * 0.5 - 3)
    np.testing.assert_array_equal(plain.scaled(plain.voxels), head())


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


@pytest.mark.parametrize("trailing", [(1,), (1, 1), (1, 1, 1, 1)])
def test_trailing_axes_of_length_one_are_fine(tmp_path, trailing):
    made = image(head())
    voxels = np.asarray(made.dataobj).reshape(32, 32, 24, *trailing)
    nib.save(nib.Nifti1Image(voxels, made.affine), tmp_path / "4.nii")
    np.testing.assert_array_equal(read_volume(str(tmp_path / "4.nii")).voxels, head())


def test_missing_file_is_unreadable(tmp_path):
    words = {"gone.nii.gz": "No such file or directory", "folder.nii.gz": "not a regular file"}
    (tmp_path / "folder.nii.gz").mkdir()
    for name, told in words.items():
        with pytest.raises(ScanError, match=rf"{name}: cannot be read \({told}\)$") as caught:
            read_volume(str(tmp_path / name))
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not_nifti"),
        (b"short", "not_nifti"),
        (b"\0" * 400, "not_nifti"),
        (gzip.compress(b"text, no image" * 40, mtime=0), "not_nifti"),
        (b"\x1f\x8b", "not_nifti"),
    ],
    ids=["empty", "short", "zeros", "packed text", "two bytes"],
)
def test_not_nifti(tmp_path, content, reason):
    (tmp_path / "x.nii.gz").write_bytes(content)
    assert reason_of(tmp_path / "x.nii.gz") == reason


def test_truncated_gzip_is_corrupt_wherever_it_ends(tmp_path):
    content = write_head(tmp_path, "x").read_bytes()
    ends = [*range(len(content) // 10, len(content), len(content) // 30)]
    ends += range(len(content) - 10, len(content))
    assert len(ends) == 38
    for length in ends:
        (tmp_path / "cut.nii.gz").write_bytes(content[:length])
        assert reason_of(tmp_path / "cut.nii.gz") == "corrupt_data", length


def test_every_flipped_bit_of_the_data_is_found(tmp_path):
    """The checksum is the last word: no flip in 120 places may pass as data."""
    content = write_head(tmp_path, "x").read_bytes()
    rng = np.random.default_rng(0)
    # The first ten bytes are gzip's header, in which some bits (time, system) mean nothing. What
    # comes soon after them is the packed header of NIfTI, which may make no sense any more.
    packed_header = 1500
    for place in rng.integers(10, len(content), 120):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped.nii.gz").write_bytes(flipped)
        reasons = {"corrupt_data"} | ({"not_nifti", "not_3d"} if place < packed_header else set())
        assert reason_of(tmp_path / "flipped.nii.gz") in reasons, place


def test_a_gzip_that_holds_more_than_declared_is_corrupt(tmp_path):
    content = gzip.decompress(write_head(tmp_path, "x").read_bytes())
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(content + b"\0" * 50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ScanError, match=f"more than the {len(content)} bytes") as caught:
            read_volume(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "corrupt_data"
    assert peak < 5_000_000, "inflated beyond the declared size"


@pytest.mark.parametrize("more", [1, 2, 20])
def test_one_byte_more_than_declared_is_corrupt(tmp_path, more):
    content = gzip.decompress(write_head(tmp_path, "x").read_bytes())
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content + b"\0" * more))
    assert reason_of(tmp_path / "x.nii.gz") == "corrupt_data"
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content[:-more]))
    assert reason_of(tmp_path / "x.nii.gz") == "corrupt_data"


def test_two_scans_in_one_file_are_not_taken_for_the_first(tmp_path):
    first = write_head(tmp_path, "x").read_bytes()
    other = gzip.compress(gzip.decompress(first)[:-1] + b"\x7f")
    (tmp_path / "two.nii.gz").write_bytes(first + other)
    assert reason_of(tmp_path / "two.nii.gz") == "corrupt_data"


@pytest.mark.parametrize("packed", [True, False])
def test_a_header_that_claims_too_much_costs_nothing(tmp_path, packed, monkeypatch):
    content = bytearray(gzip.decompress(write_head(tmp_path, "x").read_bytes()))
    content[42:48] = np.array([32767, 32767, 32767], "<i2").tobytes()
    path = tmp_path / "huge.nii"
    path.write_bytes(gzip.compress(content) if packed else content)

    def inflate(*_):
        raise AssertionError("voxels were inflated")

    monkeypatch.setattr(nifti, "inflate", inflate)
    claimed, size = 352 + 2 * 32767**3, path.stat().st_size
    with pytest.raises(ScanError, match=f"{claimed} bytes of data, more than its {size}") as caught:
        read_volume(str(path))
    assert caught.value.reason == "corrupt_data"


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
    with pytest.raises(ScanError) as caught:
        read_volume(str(tmp_path / "x.nii.gz"))
    assert caught.value.reason == "not_3d"
    assert caught.value.detail == f"is not a 3-D volume: its shape is {shape}"


def test_geometry_is_refused_by_its_own_reasons(tmp_path):
    path = write_head(tmp_path, "x", shape=(32, 30, 24))
    assert reason_of(path) == "wrong_in_plane_size"
    assert reason_of(write_head(tmp_path, "y", shape=(32, 32, 13))) == "too_few_slices"
    any_size = SliceConfig("any", in_plane=None, size=(32, 32), window=(8, 14))
    assert len(slices_bytes(path, any_size)) == 6


@pytest.mark.parametrize(("depth", "accepted"), [(14, True), (13, False)])
def test_a_volume_may_end_where_the_window_does(tmp_path, depth, accepted):
    path = write_head(tmp_path, "x", shape=(32, 32, depth))
    if accepted:
        assert len(slices_bytes(path)) == 6
    else:
        assert reason_of(path) == "too_few_slices"


@pytest.mark.parametrize("shape", [(30, 32, 24), (32, 30, 24), (33, 32, 24)])
def test_both_sides_of_the_plane_count(tmp_path, shape):
    with pytest.raises(ScanError, match=f"is {shape[0]}x{shape[1]} in the plane") as caught:
        slices_bytes(write_head(tmp_path, "x", shape=shape))
    assert caught.value.reason == "wrong_in_plane_size"
    fitting = SliceConfig("f", in_plane=shape[:2], size=(32, 32), window=(8, 14))
    assert len(slices_bytes(tmp_path / "x.nii.gz", fitting)) == 6


def test_values_are_refused_by_their_own_reasons(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a division by zero among them
        for bad in (np.nan, np.inf, -np.inf):
            voxels = head().astype(np.float32)
            voxels[3, 4, 5] = bad
            assert reason_of(write_head(tmp_path, "x", voxels=voxels)) == "non_finite"
        constant = np.full((32, 32, 24), 7, np.int16)
        assert reason_of(write_head(tmp_path, "x", voxels=constant)) == "constant"
        sparse = np.zeros((32, 32, 24), np.int16)
        sparse[10:12, 10:12, 8:14] = np.arange(24).reshape(2, 2, 6)
        assert reason_of(write_head(tmp_path, "x", voxels=sparse)) == "near_empty"
        labels = np.kron(np.arange(48).reshape(4, 4, 3), np.ones((8, 8, 8))).astype(np.int16)
        for dtype in (np.int16, np.float32):
            path = write_head(tmp_path, "x", voxels=labels.astype(dtype))
            assert reason_of(path) == "label_map"


def test_the_slices_of_the_window_are_judged_and_not_those_beside_it(tmp_path):
    voxels = head()
    voxels[:, :, 8:14] = 7
    assert reason_of(write_head(tmp_path, "x", voxels=voxels)) == "constant"
    voxels[4, 4, 8:14] = 8 + np.arange(6)
    assert reason_of(write_head(tmp_path, "x", voxels=voxels)) == "near_empty"
    labels = np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8)))
    voxels[:, :, 8:14] = labels[..., None]
    assert reason_of(write_head(tmp_path, "x", voxels=voxels)) == "label_map"
    # The other way round there is nothing to refuse.
    voxels = np.zeros((32, 32, 24), np.int16)
    voxels[:, :, 8:14] = head()[:, :, 8:14]
    assert len(slices_bytes(write_head(tmp_path, "x", voxels=voxels))) == 6


@pytest.mark.parametrize(("signal", "refused"), [(9, True), (10, False)])
def test_a_hundredth_of_the_voxels_is_enough_of_a_head(tmp_path, signal, refused):
    """Of 1000 voxels, above a lowest value that is not 0."""
    voxels = np.full(1000, -20, np.int16)
    voxels[np.arange(signal) * 97] = np.arange(1, signal + 1) * 11
    path = write_head(tmp_path, "x", voxels=voxels.reshape(10, 10, 10))
    config = SliceConfig("any", in_plane=None, size=(10, 10), window=(0, 10))
    if refused:
        with pytest.raises(ScanError, match=r"only 0\.900% of its window's voxels") as caught:
            slices_bytes(path, config)
        assert caught.value.reason == "near_empty"
    else:
        assert len(slices_bytes(path, config)) == 10


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


@pytest.mark.parametrize("dtype", [[("R", "u1"), ("G", "u1"), ("B", "u1")], np.complex64])
def test_colours_are_refused(tmp_path, dtype):
    pixels = np.zeros((32, 32, 24), dtype)
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
    paths = sorted((real_data / "ixi/brain_masks_2mm").glob("*.nii.gz"))
    assert len(paths) == 12
    for path in paths:
        renamed = shutil.copy(path, tmp_path / path.name.replace(".labels", ""))
        assert reason_of(renamed, config) == "label_map"


@pytest.mark.real_data
def test_every_real_scan_is_accepted(real_data):
    heads = SliceConfig("heads_2mm", in_plane=(120, 120), size=(128, 128), window=(30, 66))
    for folder, config in (("heads_2mm", heads), ("full", THESIS), ("stripped", THESIS)):
        for path in sorted((real_data / "ixi" / folder).glob("*.nii.gz")):
            check_volume(read_volume(str(path)), str(path), config)
