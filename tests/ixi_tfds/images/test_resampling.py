"""Resampling and finding the head: places, values outside the volume, and shifts."""

import dataclasses

import numpy as np
import pytest
from nibabel.affines import from_matvec

from ixi_tfds.config import SliceConfig
from ixi_tfds.images.head import background_of, find_head, tilt_of
from ixi_tfds.images.resampling import (
    Places,
    resample,
    resampled_slices,
    share_cropped,
    slice_places,
    source_window,
    weights,
)
from ixi_tfds.nifti import Volume
from ixi_tfds.system.errors import UserError

MM = SliceConfig("mm", None, (24, 24), (0, 12), spacing=(5.0,) * 3, window_mm=(-30.0, 30.0))


def volume(voxels, zooms=(2.0, 2.0, 2.0)):
    affine = from_matvec(np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]) * zooms)
    return Volume(voxels, 1.0, 0.0, affine, None, "")


def ellipsoid(shape=(60, 60, 45), zooms=(2.0, 2.0, 2.0), middle=(61.0, 63.0, 44.0), seed=0):
    """A textured ellipsoid of 90 x 80 x 70 mm in air, in millimetres, and so on any grid alike."""
    places = np.meshgrid(
        *(np.arange(n) * z for n, z in zip(shape, zooms, strict=True)), indexing="ij"
    )
    x, y, z = (place - at for place, at in zip(places, middle, strict=True))
    inside = (x / 45) ** 2 + (y / 40) ** 2 + (z / 35) ** 2
    texture = 100 + 20 * np.sin(x / 9) + 20 * np.cos(y / 8 + z / 11)
    return volume(np.where(inside < 1, texture, 0.0).astype(np.float32), zooms)


def test_a_linear_ramp_is_kept_by_resampling():
    ramp = np.arange(30.0)[:, None, None] * 2.0 + np.zeros((30, 8, 8))
    source = [Places(30, 2.0), Places(8, 2.0), Places(8, 2.0)]
    result = [Places(12, 3.0, 7.0), *source[1:]]
    found = resample(ramp, weights(result, source))
    np.testing.assert_allclose(found[:, 3, 3], 7.0 + 3.0 * np.arange(12), atol=0.26)


def test_the_same_grid_gives_the_same_values_to_the_bit():
    values = np.random.default_rng(0).normal(size=(9, 8, 7))
    grid = [Places(n, 0.9375) for n in values.shape]
    np.testing.assert_array_equal(resample(values, weights(grid, grid), 3.0), values)


def test_a_shift_by_whole_voxels_moves_values_and_fills_with_background():
    values = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    grid = [Places(n, 0.3) for n in values.shape]
    moved = resample(values, weights([Places(5, 0.3, 0.6), *grid[1:]], grid), -1000.0)
    np.testing.assert_array_equal(moved[:3], values[2:])
    assert (moved[3:] == -1000).all()


def test_coarser_pixels_are_means_and_do_not_alias():
    stripes = np.tile([0.0, 1.0], 32)[:, None, None] * np.ones((64, 4, 4))
    grid = [Places(n, 1.0) for n in stripes.shape]
    found = resample(stripes, weights([Places(14, 4.0, 4.0), *grid[1:]], grid))
    np.testing.assert_allclose(found, 0.5, atol=1e-12)


@pytest.mark.parametrize("background", [0.0, -1000.0, 10000.0, -3.6])
def test_the_background_is_that_of_the_border(background):
    head = ellipsoid()
    shifted = dataclasses.replace(head, inter=background)
    assert background_of(shifted) == pytest.approx(background)
    np.testing.assert_allclose(find_head(shifted).middle, find_head(head).middle)


def test_padding_and_a_crop_move_the_middle_of_the_head_by_as_much():
    head = ellipsoid()
    middle = find_head(head).middle
    np.testing.assert_allclose(np.multiply(middle, 2.0), (61, 63, 44), atol=1.0)
    padded = volume(np.pad(head.voxels, ((7, 0), (0, 3), (30, 0))))
    np.testing.assert_allclose(find_head(padded).middle, np.add(middle, (7, 0, 30)), atol=1e-6)


def test_a_neck_and_shoulders_do_not_move_the_middle():
    head = ellipsoid((60, 140, 45), middle=(61.0, 220.0, 44.0))
    voxels = head.voxels.copy()
    voxels[5:55, :40] = 100
    with_neck = find_head(volume(voxels))
    np.testing.assert_allclose(with_neck.middle, find_head(head).middle, atol=0.01)


@pytest.mark.parametrize(
    "zooms", [(2.0, 2.0, 2.0), (1.0, 1.5, 3.0), (0.8, 0.8, 6.0), (2.1, 2.1, 2.1)]
)
def test_heads_of_other_voxels_give_the_same_slices(zooms):
    shape = tuple(int(side / zoom) for side, zoom in zip((120, 120, 90), zooms, strict=True))
    here, other = (resampled_slices(head, MM) for head in (ellipsoid(), ellipsoid(shape, zooms)))
    assert here.shape == other.shape == (12, 24, 24) and here.dtype == np.float32
    same = np.corrcoef(here.ravel(), other.ravel())[0, 1]
    beside = np.corrcoef(here[1:].ravel(), other[:-1].ravel())[0, 1]
    assert same > 0.98 and same > beside


def test_padded_slices_give_the_same_slices():
    head = ellipsoid()
    padded = volume(np.pad(head.voxels, ((0, 0), (0, 0), (30, 0))))
    np.testing.assert_allclose(resampled_slices(padded, MM), resampled_slices(head, MM), atol=1e-3)


def test_a_window_by_number_counts_slices_of_the_resampled_volume():
    config = SliceConfig("n", None, (20, 20), (2, 7), spacing=(4.0, 4.0, 4.0))
    rows, columns, depths = slice_places(ellipsoid(), config)
    # 45 slices of 2 mm are 22 of 4 mm, around the same middle.
    assert (depths.n, depths.side) == (22, 4.0)
    assert depths.first + 21 / 2 * 4.0 == pytest.approx(44 / 2 * 2.0)
    assert (rows.n, columns.n) == (20, 20)
    assert rows.first + 19 / 2 * 4.0 == pytest.approx(59 / 2 * 2.0)
    assert resampled_slices(ellipsoid(), config).shape == (5, 20, 20)


def test_what_lies_beyond_the_volume_is_background():
    head = dataclasses.replace(ellipsoid(), inter=-1000.0)
    wide = dataclasses.replace(MM, size=(60, 60))
    corner = resampled_slices(head, wide)[:, :3, :3]
    np.testing.assert_array_equal(corner, np.float32(-1000))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window_mm": (-30.0, 30.0)}, "needs a spacing"),
        ({"spacing": (2.0, 2.0, 0.0)}, "0.05 to 50 mm"),
        ({"spacing": (2.0,) * 3, "window_mm": (30.0, -30.0)}, "FIRST < LAST"),
        ({"spacing": (2.0,) * 3, "window_mm": (-6.0, 6.0), "window": (0, 5)}, "are 6 slices"),
        ({"padding": "white"}, "padding"),
    ],
)
def test_impossible_rules_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        SliceConfig("own", None, **values)


def test_a_window_in_mm_lies_around_the_middle_of_the_head():
    *_, depths = slice_places(ellipsoid(), MM)
    # The head's middle is at 44 mm, so the window reaches from 14 to 74 mm, in slices of 5 mm.
    assert depths.first == pytest.approx(16.5, abs=1.0)
    assert depths.n == 12 and depths.side == 5.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tilt_is_the_largest_angle_of_an_axis(axis):
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn = np.insert(np.insert([[c, -s], [s, c]], axis, 0, axis=0), axis, 0, axis=1)
    turn[axis, axis] = 1
    psr = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    assert tilt_of(from_matvec(turn @ psr * (1.0, 2.0, 6.0))) == pytest.approx(20)
    assert tilt_of(from_matvec(psr * (1.0, 2.0, 6.0))) == 0


def test_slices_of_the_volume_are_those_whose_centres_lie_in_the_window():
    head = ellipsoid()
    middle = find_head(head).middle[2]
    first, last = source_window(head, MM)
    inside = [i for i in range(45) if -30 <= (i - middle) * 2.0 < 30]
    assert (first, last) == (inside[0], inside[-1] + 1)
    by_number = SliceConfig("n", None, (24, 24), (3, 9))
    assert source_window(head, by_number) == (3, 9)


def test_the_share_of_the_head_that_the_slices_leave_out():
    """The ellipsoid is 45 x 40 voxels in the plane, and lies from 8 to 53 and from 11.5 to 51.5."""
    head = ellipsoid()
    found = find_head(head)
    by_number = {
        size: share_cropped(head, SliceConfig("n", None, size, (3, 9)), found)
        for size in ((60, 60), (46, 80), (20, 60), (20, 20))
    }
    assert by_number[60, 60] == by_number[46, 80] == 0
    assert by_number[20, 60] == pytest.approx(1 - 20 / 41, abs=0.03)
    assert by_number[20, 20] == pytest.approx(1 - 20 / 41 * 20 / 37, abs=0.03)
    assert share_cropped(head, MM, found) == 0
    small = dataclasses.replace(MM, size=(8, 24))
    assert share_cropped(head, small, found) == pytest.approx(1 - 20 / 41, abs=0.03)
