"""Slices of one scan under configs with `spacing`: checks, scaling and places."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from volumes import head, image

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.images.resampling import resampled_slices
from ixi_tfds.images.scaling import percentile_range, quantize
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import check_scan, check_spacing, same_spacing, slices_of
from ixi_tfds.system.errors import ScanError

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


def test_voxels_are_alike_to_5_percent_of_each_side(tmp_path):
    assert same_spacing((1.05, 0.95, 1.0), (1.0, 1.0, 1.0))
    for other in ((1.06, 1.0, 1.0), (1.0, 0.94, 1.0), (1.0, 1.0, 1.06)):
        assert not same_spacing(other, (1.0, 1.0, 1.0))
    # Those of IXI.
    assert same_spacing((0.9766, 0.9766, 1.2), (0.9375, 0.9375, 1.2))
    path = save(tmp_path, head())
    check_spacing(read_volume(path), path, (4.1, 4.0, 5.0))
    with pytest.raises(ScanError, match=r"has voxels of 4x4x5 mm .* median is 4x4x6 mm; .*=6,"):
        check_spacing(read_volume(path), path, (4.0, 4.0, 6.0))
