"""Label maps against scans, by the voxels of the whole window."""

import nibabel as nib
import numpy as np
import pytest
from volumes import head, image

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.label_maps import is_label_map
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError


def enlarged(voxels, times):
    """Each voxel repeated along all axes."""
    for axis in range(3):
        voxels = voxels.repeat(times, axis)
    return voxels


def in_levels(voxels, levels):
    """The values of a scan reduced to few levels, as in a picture of few grey tones."""
    low, high = voxels.min(), np.percentile(voxels, 99.5)
    share = np.clip((voxels.astype(float) - low) / (high - low), 0, 1)
    return np.rint(share * (levels - 1)).astype(np.uint8)


def refused(folder, voxels, window):
    nib.save(image(voxels), folder / "x.nii.gz")
    config = SliceConfig("any", in_plane=None, size=(64, 64), window=window)
    try:
        list(slices_of(Scan("x", "", str(folder / "x.nii.gz")), config))
    except ScanError as error:
        return error.reason
    return None


@pytest.mark.parametrize("labels", ["blocks", "any"])
def test_a_block_of_labels_beside_the_middle_slice_is_a_label_map(tmp_path, labels):
    """240x240x155 voxels of float, labels 1 to 4, none of them in the middle slices."""
    voxels = np.zeros((240, 240, 155), np.float32)
    if labels == "blocks":
        voxels[60:180, 60:180, 95:135] = np.kron(
            np.arange(1, 5).reshape(2, 2, 1), np.ones((60, 60, 40))
        )
    else:
        rng = np.random.default_rng(0)
        voxels[60:180, 60:180, 95:135] = rng.integers(1, 5, (120, 120, 40))
    assert refused(tmp_path, voxels, (40, 140)) == "label_map"


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_scan_enlarged_by_repeating_its_voxels_is_none(tmp_path, times, dtype):
    voxels = enlarged(head().astype(dtype), times)
    assert refused(tmp_path, voxels, (4 * times, 20 * times)) is None


@pytest.mark.parametrize("value", [1, 255, 0.99999997, -7.25])
def test_a_mask_of_one_value_is_a_label_map_whatever_the_value(tmp_path, value):
    mask = np.where(head() > 300, value, 0).astype(np.float32)
    assert refused(tmp_path, mask, (8, 14)) == "label_map"


def test_labels_as_fractions_are_a_label_map(tmp_path):
    labels = np.kron(np.arange(48).reshape(4, 4, 3), np.ones((8, 8, 8))).astype(np.float32)
    assert refused(tmp_path, labels / 7, (8, 14)) == "label_map"


@pytest.mark.parametrize("levels", [7, 8, 12, 16, 32])
def test_a_scan_of_few_levels_is_none(tmp_path, levels):
    assert refused(tmp_path, in_levels(head(), levels), (8, 14)) is None


def test_a_wide_frame_of_another_value_is_background(tmp_path):
    """A head in air of -1000, padded with zeros: two values that are no tissue."""
    padded = np.zeros((96, 96, 24), np.int16)
    padded[16:80, 16:80] = -1000
    padded[32:64, 32:64] = np.where(head() < 200, -1000, head())
    assert refused(tmp_path, padded, (8, 14)) is None


def test_volumes_of_one_slice_or_few_voxels_are_judged():
    assert not is_label_map(head()[:, :, 8:9])
    assert is_label_map(np.arange(8).reshape(2, 2, 2) // 4)


@pytest.mark.real_data
def test_real_label_maps_and_masks_are_label_maps(real_data):
    paths = sorted((real_data / "ixi" / "labels_2mm").glob("*.nii.gz"))
    paths += sorted((real_data / "ixi" / "brain_masks_2mm").glob("*.nii.gz"))
    for pattern in ("*OTMultiClass*", "*brainmask*", "*mask*"):
        paths += sorted((real_data / "tumours").glob(f"**/{pattern}.nii.gz"))
    paths += sorted((real_data / "lesions").glob("*lesion*.nii.gz"))
    assert len(paths) >= 82
    for path in paths:
        volume = read_volume(str(path))
        assert is_label_map(volume.voxels), path
        thin = np.ascontiguousarray(volume.voxels[:, :, 30:60])
        if thin.any():
            assert is_label_map(thin), path


@pytest.mark.real_data
def test_real_scans_are_none_also_enlarged_or_in_few_levels(real_data):
    paths = [*(real_data / "ixi").glob("full/*"), *(real_data / "ixi").glob("stripped/*")]
    paths += [
        *(real_data / "tumours").glob("**/*T1c*"),
        *(real_data / "tumours").glob("*_T1.nii.gz"),
    ]
    paths += [*(real_data / "lesions").glob("*T1*"), *(real_data / "ixi").glob("heads_2mm/*")]
    assert len(paths) >= 71
    for number, path in enumerate(sorted(paths)):
        volume = read_volume(str(path))
        assert not is_label_map(volume.voxels), path
        if number % 10 == 0 and volume.voxels.size < 2e6:
            for times in (2, 3):
                assert not is_label_map(enlarged(volume.voxels, times)), path
            for levels in (8, 12, 16):
                few = in_levels(volume.voxels, levels)
                assert not is_label_map(few), (path, levels)
                assert not is_label_map(enlarged(few, 2)), (path, levels)
