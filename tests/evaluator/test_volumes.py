"""A file as slices of a model and back: exact where nothing is resampled, bounded where it is."""

import dataclasses
import gzip

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from volumes import ZOOMS, head, image, write_head

from evaluator import map_files, volumes
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError, UserError

CONFIG = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
GEOMETRY = volumes.Geometry(CONFIG, (32, 32, 24), ZOOMS)
MILLIMETRES = volumes.Geometry(
    SliceConfig(
        "mm",
        None,
        (30, 30),
        (0, 8),
        spacing=(3.0,) * 3,
        window_mm=(-12.0, 12.0),
        padding="background",
    )
)


def sized(height, width):
    return dataclasses.replace(GEOMETRY, config=dataclasses.replace(CONFIG, size=(height, width)))


def whole(stack):
    return volumes.scanner_slices(stack, 0, stack.slices.n)


def write_scaled(folder, voxels, affine, slope, inter):
    """A file of these stored voxels with a slope and an intercept, which nibabel would not keep."""
    content = bytearray(nib.Nifti1Image(voxels, affine).to_bytes())
    content[112:120] = np.array([slope, inter], "<f4").tobytes()
    path = folder / "scaled.nii"
    path.write_bytes(content)
    assert nib.load(path).dataobj.inter == inter
    return str(path)


@pytest.mark.parametrize("size", [(32, 32), (37, 41), (24, 40), (31, 16)])
@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_without_resampling_slices_are_those_of_preprocessing(tmp_path, size, scaling):
    """Stretched to 8 bits, they are what beam_preprocess would have stored."""
    config = dataclasses.replace(CONFIG, in_plane=None, size=size, scaling=scaling)
    scan = nib.load(write_head(tmp_path, "x", shape=(32, 30, 24)))
    # In scanner units padding is 0, whatever the intercept.
    path = write_scaled(tmp_path, np.asarray(scan.dataobj), scan.affine, 0.5, 40.0)
    stack = volumes.open_stack(path, dataclasses.replace(GEOMETRY, config=config))
    assert not stack.resampled and stack.window == (8, 14)
    for plane, (_, example) in zip(
        volumes.scanner_slices(stack, 8, 14), slices_of(Scan("x", "", path), config), strict=True
    ):
        low, high = stack.limits or (plane.min(), plane.max())
        assert (low, high) == (example["low"], example["high"])
        stretched = np.floor(255 * (plane.clip(low, high) - low) / (high - low) + 0.499999999)
        np.testing.assert_array_equal(stretched, example["image"][..., 0])


@pytest.mark.parametrize("size", [(32, 32), (37, 41), (24, 40), (31, 16)])
def test_without_resampling_there_and_back_is_exact(tmp_path, size):
    stack = volumes.open_stack(str(write_head(tmp_path, "x")), sized(*size))
    back = volumes.from_slices(stack, whole(stack))
    seen = volumes.seen(stack)
    assert (seen > 0).sum() == 24 * min(size[0], 32) * min(size[1], 32)
    assert (seen == 2).sum() == 6 * min(size[0], 32) * min(size[1], 32)
    np.testing.assert_array_equal(back[seen > 0], head()[seen > 0])
    assert np.isnan(back[seen == 0]).all()


def test_the_middle_of_the_head_stays_in_the_middle(tmp_path):
    """With pixels of half the side and twice as many, each voxel's middle is where it was."""
    ramp = np.broadcast_to(np.arange(32.0)[:, None, None], (32, 32, 24)) + 100
    fine = dataclasses.replace(sized(64, 64), zooms=(2.0, 2.0, 5.0))
    stack = volumes.open_stack(str(write_head(tmp_path, "x", voxels=ramp)), fine)
    assert stack.resampled
    expected = 100 + np.clip(np.arange(64) / 2 - 0.25, 0, 31)
    slices = whole(stack)
    np.testing.assert_allclose(slices[3, :, 20], expected, rtol=1e-12)
    back = volumes.from_slices(stack, slices)
    np.testing.assert_allclose(back[2:-2, 5, 5], ramp[2:-2, 5, 5])


def middles(count, side):
    """Where the middles of pixels lie, in mm from that of all of them."""
    return (np.arange(count) - (count - 1) / 2) * side


def write_oblong(folder, shape, sides):
    """A volume whose values are millimetres along posterior, and ten times those along superior."""
    ramp = middles(shape[0], sides[0])[:, None] + 10 * middles(shape[1], sides[1])
    voxels = np.repeat((2000 + ramp)[:, :, None], 24, axis=2)
    affine = image(voxels).affine * [sides[0] / ZOOMS[0], sides[1] / ZOOMS[1], 1, 1]
    nib.Nifti1Image(voxels, affine).to_filename(folder / "x.nii.gz")
    return str(folder / "x.nii.gz"), voxels


@pytest.mark.parametrize(
    ("sides", "shape"), [((4.0, 5.0), (30, 26)), ((5.0, 4.0), (21, 33)), ((3.9, 4.4), (25, 24))]
)
def test_places_in_millimetres_stay_on_oblong_pixels(tmp_path, sides, shape):
    """Finer pixels take a ramp linearly, so that each has the value of its own place."""
    path, _ = write_oblong(tmp_path, (*shape, 24), sides)
    fine = dataclasses.replace(sized(40, 56), zooms=(3.0, 2.0, 5.0))
    stack = volumes.open_stack(path, fine)
    assert stack.resampled
    ramp = 2000 + middles(40, 3.0)[:, None] + 10 * middles(56, 2.0)
    np.testing.assert_allclose(whole(stack)[7, 6:-6, 8:-8], ramp[6:-6, 8:-8], rtol=1e-6)


@pytest.mark.parametrize("sides", [(2.0, 3.0), (3.0, 2.0), (2.2, 3.5)])
def test_places_in_millimetres_stay_on_the_way_back(tmp_path, sides):
    path, voxels = write_oblong(tmp_path, (36, 42, 24), sides)
    stack = volumes.open_stack(path, sized(32, 40))
    ramp = 2000 + middles(32, 4.0)[:, None] + 10 * middles(40, 4.0)
    back = volumes.from_slices(stack, np.repeat(ramp[None], 24, axis=0))
    np.testing.assert_allclose(back[4:-4, 4:-4], voxels[4:-4, 4:-4], rtol=1e-6)


@pytest.mark.parametrize(
    ("sides", "resampled"),
    [
        ((4.16, 3.84), False),  # 4%, as the scanners of IXI differ
        ((4.0, 4.4), True),
        ((4.4, 4.0), True),
        ((3.7, 4.0), True),
        ((4.19, 3.81), False),
    ],
)
def test_pixels_are_resampled_where_either_side_is_more_than_a_twentieth_off(
    tmp_path, sides, resampled
):
    path, voxels = write_oblong(tmp_path, (32, 32, 24), sides)
    stack = volumes.open_stack(path, GEOMETRY)
    assert stack.resampled == resampled
    same = np.array_equal(whole(stack), voxels.transpose(2, 0, 1))
    assert same == (not resampled)


@pytest.mark.parametrize("zooms", [(3.0, 3.5), (5.0, 4.5), (8.0, 6.0)])
def test_resampling_there_and_back_keeps_values_and_little_is_lost(tmp_path, zooms):
    smooth = ndimage.gaussian_filter(head().astype(float), (3, 3, 1))
    path = str(write_head(tmp_path, "x", voxels=smooth))
    size = tuple(round(32 * 4 / side) + 2 for side in zooms)
    stack = volumes.open_stack(path, dataclasses.replace(sized(*size), zooms=(*zooms, 5.0)))
    slices = whole(stack)
    assert stack.resampled and slices.shape == (24, *size)
    assert slices.max() <= smooth.max() and slices.min() >= 0
    error = volumes.from_slices(stack, slices) - smooth
    assert np.sqrt((error**2).mean()) < 0.03 * np.ptp(smooth)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("side", "mean", "largest"), [(0.75, 2.0, 27), (1.0, 2.1, 32), (1.2, 2.7, 35), (2.0, 3.7, 53)]
)
def test_a_real_head_loses_by_resampling_what_the_docs_say(side, mean, largest, real_data):
    """RMS and largest error in percent of the range, there and back along all three axes."""
    (path,) = (real_data / "ixi/full").glob("*.nii.gz")
    size, slices = round(250 / side), round(200 / side)
    window_mm = (-slices * side / 2, slices * side / 2)
    config = SliceConfig(
        "own", None, (size, size), (0, slices), spacing=(side,) * 3, window_mm=window_mm
    )
    stack = volumes.open_stack(str(path), volumes.Geometry(config))
    back = volumes.from_slices(stack, whole(stack))
    voxels = stack.volume.scaled(stack.volume.voxels)
    error = (back - voxels)[~np.isnan(back)] / np.ptp(voxels)
    measured = 100 * np.sqrt((error**2).mean()), 100 * np.abs(error).max()
    print(f"{side} mm: {measured[0]:.1f}% RMS, {measured[1]:.0f}% at most")
    assert measured == pytest.approx((mean, largest), rel=0.03)
    assert volumes.share_of_head(stack) == 1


def test_beyond_the_volume_there_are_scanner_zeros(tmp_path):
    path = str(write_head(tmp_path, "x", voxels=head() + np.int16(50)))
    stack = volumes.open_stack(path, dataclasses.replace(sized(32, 32), zooms=(6.0, 6.0, 5.0)))
    slices = whole(stack)
    assert not slices[:, :5].any() and not slices[:, -5:].any()
    assert slices[:, 6:-6, 6:-6].min() >= 50


@pytest.mark.parametrize(
    ("spacing", "depth", "window", "planes"),
    [
        (5.0, 24, (8, 14), (8, 14)),  # as in training: the same numbers, wherever the volume ends
        (5.1, 30, (8, 14), (8, 14)),
        (5.0, 11, (8, 11), (8, 11)),
        (2.5, 48, (8, 14), (16, 28)),  # others: numbers in the volume of 5 mm, 24 slices here
        (2.5, 60, (8, 14), (16, 28)),
        (10.0, 12, (8, 14), (4, 7)),
        (10.0, 6, (8, 12), (4, 6)),  # it ends before the window does
    ],
)
def test_the_window_has_its_numbers_on_the_grid_of_training(
    tmp_path, spacing, depth, window, planes
):
    made = image(head((32, 32, depth)))
    scaled = made.affine * [1, 1, spacing / ZOOMS[2], 1]
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj), scaled), tmp_path / "x.nii.gz")
    stack = volumes.open_stack(str(tmp_path / "x.nii.gz"), GEOMETRY)
    assert stack.window == window
    inside = volumes.planes_in_window(stack)
    np.testing.assert_array_equal(np.flatnonzero(inside), np.arange(*planes))
    np.testing.assert_array_equal((volumes.seen(stack) == 2)[16, 16], inside)


def test_what_lies_beyond_the_volume_gives_nothing_back(tmp_path):
    """Pixels of air around it have values of their own, which voxels at its edge do not get."""
    path = str(write_head(tmp_path, "x", voxels=head() + np.int16(50)))
    stack = volumes.open_stack(path, dataclasses.replace(sized(32, 32), zooms=(6.0, 7.0, 8.0)))
    shown = whole(stack) > 0
    assert not shown.all()
    back = volumes.from_slices(stack, np.where(shown, 1.0, -1000.0))
    np.testing.assert_allclose(back, 1.0)


@pytest.mark.parametrize("side", [2.0, 3.9, 6.0])
def test_the_window_in_mm_moves_with_the_head_and_never_jumps(tmp_path, side):
    """Whatever the voxels and the slices around it, the same place of the head is in the window."""
    ball, expected = np.zeros((40, 40, 40), np.int16), None
    ball[8:32, 8:32, 8:32] = np.random.default_rng(0).integers(500, 900, (24, 24, 24))
    for padded in range(12):
        voxels = np.pad(ball, ((0, 0), (0, 0), (padded, 0)))
        affine = image(voxels).affine * [1, 1, side / ZOOMS[2], 1]
        nib.Nifti1Image(voxels, affine).to_filename(tmp_path / "x.nii.gz")
        stack = volumes.open_stack(str(tmp_path / "x.nii.gz"), MILLIMETRES)
        assert stack.window[1] - stack.window[0] == 8
        first = stack.slices.first + (stack.window[0] - 0.5) * stack.slices.side
        # The head's middle is 19.5 slices in, and the window begins 12 mm before it.
        assert first == pytest.approx((19.5 + padded) * side - 12, abs=1e-4)
        values = whole(stack)[slice(*stack.window)]
        expected = values if expected is None else expected
        np.testing.assert_allclose(values, expected, atol=1e-2)
        placed = volumes.to_slices(stack, voxels.astype(float))[slice(*stack.window)]
        np.testing.assert_allclose(values, placed, atol=1e-2)
        assert volumes.seen(stack).any(axis=(0, 1)).all()


def test_a_range_by_volume_is_that_of_the_resampled_window_in_view(tmp_path):
    """32 x 20 pixels of 3 x 3 mm, in 96 x 128 mm of the volume; 18 mm of height are padding."""
    config = dataclasses.replace(CONFIG, scaling="volume", size=(38, 20))
    fine = volumes.Geometry(config, (32, 43, 24), (3.0, 3.0, 5.0))
    voxels = np.random.default_rng(0).integers(1, 4000, (24, 32, 24)).astype(np.int16)
    stack = volumes.open_stack(str(write_head(tmp_path, "x", voxels=voxels)), fine)
    inside = whole(stack)[8:14, 3:35]
    assert not whole(stack)[:, [*range(3), *range(35, 38)]].any() and inside.min() > 0
    expected = np.percentile(inside, (0.5, 99.5), method="inverted_cdf")
    assert stack.limits == tuple(expected)


def test_a_range_without_resampling_is_of_the_voxels_of_window_and_view(tmp_path):
    config = dataclasses.replace(CONFIG, scaling="volume", size=(16, 40))
    path = str(write_head(tmp_path, "x"))
    inside = head()[8:24, :, 8:14]
    expected = np.percentile(inside, (0.5, 99.5), method="inverted_cdf")
    stack = volumes.open_stack(path, volumes.Geometry(config, (32, 32, 24), ZOOMS))
    assert stack.limits == tuple(expected)


@pytest.mark.parametrize("axes", ["PSR", "RAS", "LPI", "SLA", "AIL"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_map_lies_on_the_grid_of_its_file(tmp_path, axes, kind):
    made = image(head(), axes)
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.05, 0.02)) @ made.affine
    made = kind(np.asarray(made.dataobj), oblique, made.header)
    made.set_sform(oblique, code=2)
    made.set_qform(oblique, code=1)
    made.header.set_xyzt_units("mm", "sec")
    made.header["cal_max"] = 12
    made.header.set_slope_inter(2.0, 1.0)
    nib.save(made, tmp_path / "x.nii.gz")
    volume = volumes.open_stack(str(tmp_path / "x.nii.gz"), GEOMETRY).volume
    map_files.write_map(tmp_path / "map.nii.gz", volume.scaled(volume.voxels), volume)
    source, written = nib.load(tmp_path / "x.nii.gz"), nib.load(tmp_path / "map.nii.gz")
    assert type(written) is kind and written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(written.get_fdata(), source.get_fdata())
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(written.get_qform(), source.get_qform())
    for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "dim"):
        np.testing.assert_array_equal(written.header[field], source.header[field])
    assert written.header["cal_max"] == 0
    axis, runs_the_other_way = map_files.file_axis(volume)
    step = np.eye(3)[axis] * (-1 if runs_the_other_way else 1)
    assert (source.affine[:3, :3] @ step)[0] > 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.nii.gz", "x.nii.gz"]


def test_a_map_has_no_scaling_of_its_scan_and_keeps_values_below_zero(tmp_path):
    made = image(head())
    path = write_scaled(tmp_path, np.asarray(made.dataobj), made.affine, 0.5, -30.0)
    volume = volumes.open_stack(path, GEOMETRY).volume
    values = np.random.default_rng(0).normal(0, 50, (32, 32, 24))
    map_files.write_map(tmp_path / "map.nii.gz", values, volume)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), values.astype(np.float32))
    unpacked = gzip.decompress((tmp_path / "map.nii.gz").read_bytes())
    assert unpacked == nib.Nifti1Image(written.dataobj, None, written.header).to_bytes()


def test_a_trailing_axis_stays(tmp_path):
    made = image(head())
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj)[..., None], made.affine), tmp_path / "4.nii")
    volume = volumes.open_stack(str(tmp_path / "4.nii"), GEOMETRY).volume
    map_files.write_map(tmp_path / "map.nii.gz", volume.voxels, volume)
    assert nib.load(tmp_path / "map.nii.gz").shape == (32, 32, 24, 1)


def test_scans_that_cannot_be_fitted_are_refused(tmp_path):
    made = image(head())
    metres = made.affine / [[1000.0], [1000.0], [1000.0], [1.0]]
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj), metres), tmp_path / "metres.nii.gz")
    with pytest.raises(ScanError, match="is its affine in millimetres"):
        volumes.open_stack(str(tmp_path / "metres.nii.gz"), GEOMETRY)
    flat = str(write_head(tmp_path, "flat", shape=(32, 32, 8)))
    with pytest.raises(ScanError, match="8 sagittal slices, none of them in the window") as caught:
        volumes.open_stack(flat, GEOMETRY)
    assert caught.value.reason == "too_few_slices"


def geometry_in(plain):
    return volumes.training_geometry(codec.from_plain(ModelCard, plain))


def test_geometry_comes_from_the_models_card():
    slices = {"name": "a", "in_plane": [9, 9], "size": [8, 8], "window": [1, 4], "scaling": "slice"}
    recorded = {"shape": [9, 9, 6], "zooms": [1.0, 1.0, 1.5]}
    card = {"datasets": {"ixi_t1/a": {"slices": slices, "geometry": recorded}}}
    assert geometry_in(card) == volumes.Geometry(
        SliceConfig("a", (9, 9), (8, 8), (1, 4)), (9, 9, 6), (1.0, 1.0, 1.5)
    )
    later = {"slices": slices | {"size": [16, 16]}, "geometry": None}
    card["datasets"]["ixi_t1/b"] = later
    assert geometry_in(card).config.size == (8, 8)
    old = {"datasets": {"ixi_t1/a": {"slices": slices}}}
    assert geometry_in(old).zooms is None
    for card in ({}, {"datasets": {}}, {"datasets": {"a": {}}}):
        with pytest.raises(UserError, match="export it with python -m trainer"):
            geometry_in(card)
