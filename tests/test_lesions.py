"""Synthetic lesions, where the head is, and what each method makes of a slice."""

import collections

import numpy as np
import pytest

from evaluator import anomaly, lesions


def head_slice(size=96, seed=0):
    """A noisy round head of brightness 0.5 in air, and a bright speck outside it."""
    rows, columns = np.indices((size, size)) / size - 0.5
    head = np.hypot(rows, columns) < 0.42
    noise = np.random.default_rng(seed).normal(0, 0.01, (size, size))
    image = np.where(head, 0.5, 0.02) + noise
    image[45:50, 45:50] = 0.0  # a ventricle
    image[:3, :3] = 0.9
    return np.clip(image, 0, 1).astype(np.float32), head


def test_the_head_is_its_largest_part_with_holes_filled():
    image, head = head_slice()
    found = anomaly.head_mask(image)
    assert found[45:50, 45:50].all() and not found[:3, :3].any()
    assert (found != head).mean() < 0.05
    assert not anomaly.head_mask(np.zeros((8, 8), np.float32)).any()


def test_the_inner_head_is_deep_and_in_the_upper_half():
    head = np.zeros((100, 100), bool)
    head[20:90, 10:] = True  # it reaches the upper edge of the image
    inner = anomaly.inner_head(head)
    rows, columns = (np.flatnonzero(inner.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (26, 83)
    assert (columns[0], columns[-1]) == (54, 93)
    assert not anomaly.inner_head(np.zeros((9, 9), bool)).any()


def test_lesions_are_what_their_kinds_say():
    image, _ = head_slice()
    image[45:50, 45:50] = 0.5  # so that nothing is clipped
    room = anomaly.inner_head(anomaly.head_mask(image))
    kinds = collections.Counter()
    for number in range(150):
        changed, mask, kind = lesions.add_lesion(image, room, key=f"a/{number:03d}")
        kinds[kind] += 1
        assert room[mask].all() and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1
        area = np.pi * (kind.radius * 96) ** 2
        assert mask.sum() == pytest.approx(area, rel=0.2, abs=5)
        change = changed - image
        assert abs(change[mask]).max() == pytest.approx(abs(kind.contrast), abs=1e-6)
        assert (change * np.sign(kind.contrast) >= 0).all()
        # The edge of the mask is where half of the contrast is left.
        assert abs(change[mask]).min() >= abs(kind.contrast) / 2 - 1e-6
        assert abs(change[~mask]).max() <= abs(kind.contrast) / 2 + 1e-6
    assert set(kinds) == set(lesions.KINDS)
    assert min(kinds.values()) > 4


def test_a_lesion_follows_from_key_and_seed_alone():
    image, _ = head_slice()
    room = anomaly.inner_head(anomaly.head_mask(image))
    first = lesions.add_lesion(image, room, key="a/001")
    again = lesions.add_lesion(image.copy(), room, key="a/001")
    np.testing.assert_array_equal(first[0], again[0])
    assert first[2] == again[2]
    other = lesions.add_lesion(image, room, key="a/001", seed=1)
    assert (first[1] != other[1]).any()


def test_without_room_the_slice_stays_healthy():
    image, _ = head_slice()
    same, mask, kind = lesions.add_lesion(image, np.zeros_like(image, bool), key="a/001")
    assert kind is None and not mask.any()
    np.testing.assert_array_equal(same, image)


def test_scores_by_method_and_direction():
    image, head = head_slice()
    expected = np.full_like(image, 0.4)
    maps = dict(anomaly.score_maps(image[None], head[None], {"model": expected[None]}))
    assert list(maps) == [
        (name, direction)
        for name in ("model", "intensity")
        for direction in ("either", "bright", "dark")
    ]
    residual = image - 0.4
    np.testing.assert_allclose(maps["model", "either"][0], abs(residual), atol=1e-6)
    np.testing.assert_allclose(maps["model", "bright"][0], residual, atol=1e-6)
    np.testing.assert_allclose(maps["model", "dark"][0], -residual, atol=1e-6)
    np.testing.assert_array_equal(maps["intensity", "bright"][0], image)
    np.testing.assert_array_equal(maps["intensity", "dark"][0], 1 - image)
    typical = np.median(image[head])
    np.testing.assert_allclose(maps["intensity", "either"][0], abs(image - typical), atol=1e-6)


def test_smoothing_stays_within_slices():
    image, head = head_slice()
    pair, heads = np.stack([image, 0 * image]), np.stack([head, head])
    maps = dict(anomaly.score_maps(pair, heads, {}, smooth_sigma=2.0))
    bright = maps["intensity", "bright"]
    assert not bright[1].any()
    assert bright[0, 45:50, 45:50].min() > 0.05 > image[45:50, 45:50].max()
