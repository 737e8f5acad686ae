"""NaN in a volume: background around the head, a fault inside it."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from volumes import head, image

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError

CONFIG = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))


def stripped(lowest=-3.6):
    """A head [P, S, R] without its air, which is NaN; its own lowest value is given."""
    voxels = head().astype(np.float32) / 100
    inside = np.indices(voxels.shape).T / np.array(voxels.shape) - 0.5
    air = (inside**2).sum(-1).T > 0.2
    voxels[16, 16, 12] = lowest
    voxels[air] = np.nan
    return voxels, air


def write(folder, voxels, **changes):
    made = image(voxels)
    for field, value in changes.items():
        made.header[field] = value
    nib.save(made, folder / "x.nii.gz")
    return str(folder / "x.nii.gz")


def slices(path):
    return list(slices_of(Scan("x", "", path), CONFIG))


def test_nan_around_a_stripped_head_is_the_lowest_value(tmp_path):
    voxels, air = stripped()
    volume = read_volume(write(tmp_path, voxels))
    assert (volume.voxels[air] == np.float32(-3.6)).all()
    np.testing.assert_array_equal(volume.voxels[~air], voxels[~air])
    assert volume.voxels.dtype.kind == "f" and volume.voxels.dtype.itemsize == 4
    plain = np.where(air, np.float32(-3.6), voxels)
    wanted = slices(write(tmp_path, plain))
    given = slices(write(tmp_path, voxels))
    for (_, one), (_, other) in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_nan_at_some_faces_is_what_the_other_faces_have(tmp_path):
    """A head that was resampled beyond its field of view, whose air is not the lowest value."""
    voxels = head().astype(np.float32) - 1000
    voxels[:3] = np.nan
    voxels[16, 16, 12] = -2000
    volume = read_volume(write(tmp_path, voxels))
    assert (
        volume.voxels[:3]
        == np.nanmedian(
            np.concatenate(
                [np.moveaxis(voxels, axis, 0)[end].ravel() for axis in range(3) for end in (0, -1)]
            )
        )
    ).all()


def test_with_a_negative_slope_background_is_the_lowest_value_in_scanner_units(tmp_path):
    voxels, air = stripped()
    made = image(-voxels)
    made.header.set_slope_inter(-1, 0)
    content = made.header.copy()
    content["scl_slope"], content["scl_inter"], content["vox_offset"] = -1, 0, 352
    raw = content.binaryblock + bytes(4) + (-voxels).tobytes("F")
    (tmp_path / "x.nii").write_bytes(raw)
    volume = read_volume(str(tmp_path / "x.nii"))
    assert volume.scaled(volume.voxels)[air] == pytest.approx(-3.6)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (np.s_[15, 17, 11], r"1 voxels .* first at \[15, 17, 11\]"),
        (np.s_[14:17, 14:17, 9:12], r"27 voxels .* first at \[14, 14, 9\]"),
        (np.s_[:, :, 11], r"1024 voxels .* first at \[0, 0, 11\]"),
        (np.s_[10, :, :], r"768 voxels .* first at \[10, 0, 0\]"),
    ],
    ids=["a voxel", "a hole", "a slice", "a row of slices"],
)
@pytest.mark.parametrize("background", [0, np.nan])
def test_nan_inside_the_head_is_refused_with_its_place(tmp_path, place, told, background):
    voxels, air = stripped()
    voxels[air] = background
    voxels[place] = np.nan
    with pytest.raises(ScanError, match=told) as caught:
        slices(write(tmp_path, voxels))
    assert caught.value.reason == "non_finite" and "NaN inside the head" in caught.value.detail


def test_infinite_voxels_are_refused_wherever_they_are(tmp_path):
    for value in (np.inf, -np.inf):
        voxels, _ = stripped()
        voxels[0, 0, 0] = value
        with pytest.raises(ScanError, match=r"1 voxels that are infinite, the first at \[0, 0, 0"):
            slices(write(tmp_path, voxels))


def test_a_volume_of_nothing_but_nan_is_refused(tmp_path):
    with pytest.raises(ScanError, match="holds nothing but NaN") as caught:
        slices(write(tmp_path, np.full((32, 32, 24), np.nan, np.float32)))
    assert caught.value.reason == "non_finite"


@pytest.mark.real_data
def test_real_stripped_heads_with_nan_around_them_are_those_with_zeros(real_data, tmp_path):
    for path in sorted((real_data / "ixi" / "stripped").glob("*.nii.gz"))[:2]:
        made = nib.load(path)
        voxels = np.asarray(made.dataobj, np.float32)
        outside = ~ndimage.binary_fill_holes(voxels > 0)
        holed = np.where(outside, np.float32(np.nan), voxels)
        nib.save(nib.Nifti1Image(holed, made.affine), tmp_path / "x.nii.gz")
        volume, expected = (read_volume(str(p)).voxels for p in (tmp_path / "x.nii.gz", path))
        # The lowest value of a brain may lie just above the zeros around it.
        np.testing.assert_allclose(volume, expected, atol=voxels[~outside].min())
        assert voxels[~outside].min() < 0.01 * voxels.max()
