"""Scanner values to 8 bits: the rule, the two scalings, padding and cropping."""

import nibabel as nib
import numpy as np
import pytest
from volumes import head, write_head

from ixi_tfds.catalog import Scan
from ixi_tfds.configs import SliceConfig
from ixi_tfds.errors import UserError
from ixi_tfds.intensity import dequantize, quantize
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of


def examples_of(path, config):
    return [example for _, example in slices_of(Scan("x", "", str(path)), config)]


def stretch(plane):
    """The rule in one line, as imageio 2.8 wrote it."""
    low, high = plane.min(), plane.max()
    return ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)


def test_rounding_by_hand():
    assert quantize(np.array([0, 1, 2, 509, 510]), 0, 510).tolist() == [0, 0, 1, 254, 255]
    assert quantize(np.array([-5.0, 0.0, 10.0, 99.0]), 0, 10).tolist() == [0, 0, 255, 255]
    assert quantize(np.array([3.0, 3.0]), 3, 3).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])
def test_slices_equal_an_independent_computation(tmp_path, dtype):
    voxels = (head() // 8).astype(dtype)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    data = nib.load(path).get_fdata()
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        np.testing.assert_array_equal(example["image"][..., 0], stretch(data[:, :, index]))
        assert (example["low"], example["high"]) == (data[..., index].min(), data[..., index].max())


def test_huge_integer_ranges_scale_exactly(tmp_path):
    voxels = head().astype(np.int32) * 100_000
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    images = [example["image"][..., 0] for example in examples_of(path, config)]
    np.testing.assert_array_equal(images[0], stretch(voxels[:, :, 8].astype(float)))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_volume_scaling_clips_to_one_percentile_range(tmp_path, dtype):
    voxels = head().astype(dtype)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("v", in_plane=(32, 32), size=(32, 32), window=(8, 14), scaling="volume")
    window = voxels[:, :, 8:14].astype(float)
    low, high = np.percentile(window, [0.5, 99.5], method="inverted_cdf")
    for index, example in enumerate(examples_of(path, config)):
        assert (example["low"], example["high"]) == (low, high)
        share = (np.clip(window[..., index], low, high) - low) / (high - low)
        expected = (share * 255 + 0.499999999).astype(np.uint8)
        np.testing.assert_array_equal(example["image"][..., 0], expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_integers_over_their_full_range(tmp_path, dtype, scaling):
    """The extreme values of a type, as tools write that spread floats over all of it."""
    limits = np.iinfo(dtype)
    share = head().astype(np.float64) / head().max()
    wide = share * (float(limits.max) - float(limits.min)) * 0.999 + float(limits.min)
    voxels = wide.astype(dtype)
    voxels[0, 0, 8:14], voxels[1, 1, 8:14] = limits.min, limits.max
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-4.0, -4, 5, 1])[[2, 0, 1, 3]], dtype=dtype), path)
    stored = read_volume(str(path)).voxels
    config = SliceConfig(
        "wide", in_plane=None, size=stored.shape[:2], window=(8, 14), scaling=scaling
    )
    window = stored[:, :, 8:14].astype(np.float64)
    for index, example in enumerate(examples_of(path, config)):
        plane = window[..., index]
        low, high = plane.min(), plane.max()
        if scaling == "volume":
            low, high = np.percentile(window, [0.5, 99.5], method="inverted_cdf")
        share = (np.clip(plane, low, high) - low) / (high - low)
        expected = (share * 255 + 0.499999999).astype(np.uint8)
        np.testing.assert_array_equal(example["image"][..., 0], expected)


def test_padding_is_symmetric_and_counts_in_the_extrema(tmp_path):
    voxels = head() + np.int16(50)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("padded", in_plane=(32, 32), size=(37, 40), window=(8, 14))
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        plane = np.pad(voxels[:, :, index].astype(float), ((2, 3), (4, 4)))
        np.testing.assert_array_equal(example["image"][..., 0], stretch(plane))
        assert example["low"] == 0


def test_cropping_keeps_the_middle(tmp_path):
    path = write_head(tmp_path, "x")
    config = SliceConfig("cropped", in_plane=None, size=(20, 25), window=(8, 14))
    data = nib.load(path).get_fdata()[6:26, 3:28]
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        np.testing.assert_array_equal(example["image"][..., 0], stretch(data[:, :, index]))


def test_a_constant_slice_in_a_good_volume_is_black(tmp_path):
    voxels = head()
    voxels[:, :, 9] = 5
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    example = examples_of(path, config)[1]
    assert not example["image"].any()
    assert example["low"] == example["high"] == 5


def test_eight_bits_go_back_to_within_half_a_step():
    values = np.linspace(-20, 1300, 1001)
    back = dequantize(quantize(values, -20, 1300), -20, 1300)
    assert np.abs(back - values).max() <= 1320 / 255 / 2 * (1 + 1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Not Good"},
        {"name": "x", "window": (5, 5)},
        {"name": "x", "size": (0, 5)},
        {"name": "x", "scaling": "log"},
    ],
)
def test_impossible_configs_are_refused(arguments):
    with pytest.raises(UserError):
        SliceConfig(**arguments)
