"""Slices of one scan under configs with `spacing`: checks, scaling and places."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from volumes import head, image

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig, slices_in
from ixi_tfds.images.head import find_head
from ixi_tfds.images.look import look_of
from ixi_tfds.images.resampling import resampled_slices
from ixi_tfds.images.scaling import percentile_range, quantize
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import check_scan, check_spacing, same_spacing, slices_of
from ixi_tfds.system.errors import ScanError, UserError

MM = SliceConfig(
    "mm", None, (40, 40), (0, 8), "slice", (5.0, 5.0, 5.0), (-20.0, 20.0), "background"
)


def save(tmp_path, voxels):
    path = tmp_path / "x.nii.gz"
    nib.save(image(voxels), path)
    return str(path)


def reason_of(path, config=MM):
    with pytest.raises(ScanError) as caught:
        list(slices_of(Scan("x", "", path), config))
    return caught.value.reason


def test_each_slice_is_stretched_to_its_own_extrema(tmp_path):
    path = save(tmp_path, head())
    planes = resampled_slices(read_volume(path), MM)
    examples = [example for _, example in slices_of(Scan("x", "", path), MM)]
    assert len(examples) == 8
    for plane, example in zip(planes, examples, strict=True):
        assert (example["low"], example["high"]) == (plane.min(), plane.max())
        expected = quantize(plane, plane.min(), plane.max())
        np.testing.assert_array_equal(example["image"][..., 0], expected)


def test_the_range_of_a_resampled_volume_leaves_out_the_padding(tmp_path):
    """Of 40 x 40 pixels of 5 mm, 26 x 26 or so are the volume's, and the others would count."""
    config = dataclasses.replace(MM, scaling="volume")
    path = save(tmp_path, head() + 300)
    volume = read_volume(path)
    planes = resampled_slices(volume, config)
    rows, columns = ((planes != 300).any(axis=axes) for axes in ((0, 2), (0, 1)))
    inside = np.sort(planes[:, 8:32, 8:32], axis=None)
    low, high = percentile_range(volume, config)
    ranges = {(e["low"], e["high"]) for _, e in slices_of(Scan("x", "", path), config)}
    assert ranges == {(low, high)}
    # 26 of 32 x 4 / 5; with the padding, the 99.5th percentile would be further down.
    assert high == pytest.approx(np.quantile(inside, 0.9941), rel=0.01)
    everything = np.percentile(planes, 99.5, method="inverted_cdf")
    assert high > everything and rows.size == columns.size == 40


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda v: v.astype(np.float32) * np.where(np.indices(v.shape).sum(0) == 9, np.nan, 1),
            "non_finite",
        ),
        (lambda v: np.full_like(v, 7), "constant"),
        (lambda v: (v > 450).astype(np.int16) * 2 + 1, "label_map"),
        (
            lambda v: np.where(np.indices(v.shape).prod(0) == 2880, v, 0).astype(np.int16),
            "near_empty",
        ),
        (lambda v: v[:, :, 9:15], "too_few_slices"),
    ],
)
def test_values_are_refused_as_under_configs_by_number(spoil, reason, tmp_path):
    assert reason_of(save(tmp_path, spoil(head()))) == reason


def test_any_plane_will_do(tmp_path):
    for shape in ((20, 50, 24), (60, 18, 24)):
        path = save(tmp_path, head(shape))
        assert len(list(slices_of(Scan("x", "", path), MM))) == 8


def test_too_few_resampled_slices_for_a_window_by_number(tmp_path):
    path = save(tmp_path, head())
    config = SliceConfig("n", None, (40, 40), (2, 12), spacing=(5.0, 5.0, 10.0))
    assert len(list(slices_of(Scan("x", "", path), config))) == 10
    longer = dataclasses.replace(config, window=(2, 13))
    with pytest.raises(ScanError, match="has 12 slices of 10 mm, the window needs 13"):
        check_scan(read_volume(path), path, longer)


def test_a_resampled_slice_may_begin_before_the_first_of_the_volume(tmp_path):
    """23 slices of 5 mm become 12 of 10 mm, which reach 2.5 mm beyond either end."""
    path = save(tmp_path, head((32, 32, 23)))
    volume = read_volume(path)
    for window, own in (((0, 12), (0, 23)), ((0, 7), (0, 13)), ((6, 12), (11, 23))):
        config = SliceConfig("n", None, (40, 40), window, spacing=(5.0, 5.0, 10.0))
        assert check_scan(volume, path, config).window == own
        assert len(list(slices_of(Scan("x", "", path), config))) == window[1] - window[0]


@pytest.mark.parametrize("factor", [0.001, 100.0])
def test_voxels_of_another_unit_are_refused_for_their_size(factor, tmp_path):
    made = image(head())
    path = tmp_path / "x.nii.gz"
    scaled = from_matvec(made.affine[:3, :3] * factor, made.affine[:3, 3] * factor)
    nib.save(nib.Nifti1Image(np.asarray(made.dataobj), scaled), path)
    with pytest.raises(ScanError, match="is its affine in millimetres") as caught:
        check_scan(read_volume(str(path)), str(path), MM)
    assert caught.value.reason == "wrong_in_plane_size"


def test_tiny_voxels_are_looked_at_as_others(tmp_path):
    volume = read_volume(save(tmp_path, head()))
    tiny = dataclasses.replace(volume, affine=volume.affine * 1e-30)
    assert find_head(tiny).high[0] == pytest.approx(find_head(volume).high[0], abs=4)
    assert look_of(tiny).zooms == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("window", "side", "nearest"),
    [
        ((-36.0, 36.0), 2.5, "29 slices of 2.5 mm are -36.25mm:36.25mm"),
        ((-20.0, 31.0), 5.0, "10 slices of 5 mm are -19.5mm:30.5mm"),
        ((0.0, 1.0), 4.0, "1 slices of 4 mm are -1.5mm:2.5mm"),
    ],
)
def test_a_window_of_no_whole_number_of_slices_is_refused(window, side, nearest):
    with pytest.raises(UserError, match=nearest):
        slices_in(window, (2.0, 2.0, side))
    first, last = map(float, nearest.rpartition(" ")[2].replace("mm", "").split(":"))
    assert slices_in((first, last), (2.0, 2.0, side)) == int(nearest.split()[0])


def test_windows_are_whole_to_the_digits_that_people_write():
    assert slices_in((-36.0938, 36.0938), (1.0, 1.0, 0.9375)) == 77
    assert slices_in((-36.0, 36.0), (1.0, 1.0, 1.2)) == 60


def test_voxels_are_alike_to_5_percent_of_each_side(tmp_path):
    assert same_spacing((1.05, 0.95, 1.0), (1.0, 1.0, 1.0))
    for other in ((1.06, 1.0, 1.0), (1.0, 0.94, 1.0), (1.0, 1.0, 1.06)):
        assert not same_spacing(other, (1.0, 1.0, 1.0))
    # Those of IXI.
    assert same_spacing((0.9766, 0.9766, 1.2), (0.9375, 0.9375, 1.2))
    path = save(tmp_path, head())
    check_spacing(read_volume(path), path, (4.1, 4.0, 5.0))
    with pytest.raises(
        ScanError, match=r"has voxels of 4x4x5 mm .* median is 4x4x6 mm; .*=6 in place"
    ):
        check_spacing(read_volume(path), path, (4.0, 4.0, 6.0))
