"""What a view shows: the right voxels, whatever the axes of the file."""

import numpy as np
import pytest
import shown_heads
from shown_heads import AFFINE, BRIGHT, DARK, SHAPE, UNSEEN

from evaluator.viewer.shown import shown_of, shrunk


@pytest.fixture
def shown(tmp_path):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    return shown_of(volume, anomaly, window=(9, 24))


@pytest.mark.parametrize("axes", ["RAS", "PSR", "LPS", "ILA"])
def test_voxels_and_millimetres_are_those_of_the_file_in_any_axes(tmp_path, axes):
    volume, anomaly = shown_heads.write_and_read(tmp_path, axes)
    shown = shown_of(volume, anomaly, window=(9, 24))
    np.testing.assert_allclose(shown.scan, shown_heads.scan_ras(), atol=1e-3)
    np.testing.assert_array_equal(shown.anomaly, np.nan_to_num(shown_heads.anomaly_ras()))
    np.testing.assert_allclose(shown.affine, AFFINE, atol=1e-4)
    assert shown.window == (9 / 30, 24 / 30)


def test_nan_is_never_seen_and_zero_is_seen(shown):
    assert not shown.seen[:, :, :UNSEEN].any() and shown.seen[:, :, UNSEEN:].all()


def test_it_opens_at_the_largest_anomaly_inside_the_window(tmp_path, shown):
    assert np.abs(np.subtract(shown.place, BRIGHT)).max() <= 2
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    left = shown_of(volume, anomaly, window=(0, 14))
    assert np.abs(np.subtract(left.place, DARK)).max() <= 2


def test_it_opens_at_the_lesion_if_there_is_one(tmp_path):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    lesion = np.zeros(volume.voxels.shape, bool)
    # Posterior, superior, right.
    lesion[10:13, 20:23, 4:7] = True
    shown = shown_of(volume, anomaly, window=(9, 24), lesion=lesion)
    assert shown.lesion[shown.place] and shown.place == (5, SHAPE[1] - 1 - 11, 21)


def test_threshold_and_limit_are_in_the_scans_units(shown):
    assert 3 < shown.threshold <= shown.limit <= 80


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_map_without_anomalies_can_be_shown(tmp_path, value):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    shown = shown_of(volume, np.full_like(anomaly, value), window=(9, 24))
    assert shown.limit == 1 and 0 <= shown.threshold <= 1


def test_larger_voxels_show_the_same_places(shown):
    small = shrunk(shown, 7.0)
    assert min(small.zooms) >= 6.9 and small.scan.size < shown.scan.size / 3
    # The corners of the outermost voxels, the window and the start are where they were, in mm.
    for low in (-0.5, None):
        corner = np.array([low] * 3 if low else np.array(shown.scan.shape) - 0.5)
        other = np.array([low] * 3 if low else np.array(small.scan.shape) - 0.5)
        apart = shown.affine[:3, :3] @ corner + shown.affine[:3, 3]
        apart -= small.affine[:3, :3] @ other + small.affine[:3, 3]
        assert np.abs(apart).max() < 3.5
    for a, b in zip(shown.window, small.window, strict=True):
        mm = [
            view.affine @ [edge * view.scan.shape[0] - 0.5, 0, 0, 1]
            for view, edge in ((shown, a), (small, b))
        ]
        along = shown.affine[:3, 0] / np.linalg.norm(shown.affine[:3, 0])
        # Only the first voxel's place along the other axes differs.
        assert abs((mm[0] - mm[1])[:3] @ along) < 0.6
    start = shown.affine @ [*shown.place, 1] - small.affine @ [*small.place, 1]
    assert np.abs(start).max() < 4
    i, j, k = small.place
    assert small.anomaly[i, j, k] > 40 and not small.seen[:, :, 0].any()
