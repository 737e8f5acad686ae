"""Synthetic lesions, where the head is, and what each method makes of a slice."""

import collections
import hashlib
import pathlib

import numpy as np
import pytest
from scipy import ndimage

from evaluator import models
from evaluator.lesions import maps as anomaly
from evaluator.lesions import synthetic
from ixi_tfds.documents.model_card import ModelCard


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
        changed, mask, kind = synthetic.add_lesion(image, room, key=f"a/{number:03d}")
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
    assert set(kinds) == set(synthetic.KINDS)
    assert min(kinds.values()) > 4


def test_a_lesion_follows_from_key_and_seed_alone():
    image, _ = head_slice()
    room = anomaly.inner_head(anomaly.head_mask(image))
    first = synthetic.add_lesion(image, room, key="a/001")
    again = synthetic.add_lesion(image.copy(), room, key="a/001")
    np.testing.assert_array_equal(first[0], again[0])
    assert first[2] == again[2]
    other = synthetic.add_lesion(image, room, key="a/001", seed=1)
    assert (first[1] != other[1]).any()


def test_without_room_the_slice_stays_healthy():
    image, _ = head_slice()
    same, mask, kind = synthetic.add_lesion(image, np.zeros_like(image, bool), key="a/001")
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_largest_part_is_the_head_wherever_it_comes(place):
    """Parts are met from the top down; the head is the first, second or third of them."""
    image = np.zeros((60, 24), np.float32)
    for part in range(3):
        top, side = 20 * part + 3, 14 if part == place else 5
        image[top : top + side, 4 : 4 + side] = 1
    found = anomaly.head_mask(image)
    assert found.dtype == bool and found.shape == image.shape
    expected = np.zeros_like(found)
    expected[20 * place + 3 : 20 * place + 17, 4:18] = True
    # What the smoothing adds at the edge: 1 pixel of a tenth's brightness, corners left out.
    assert found[expected].all()
    grown = ndimage.binary_dilation(expected, iterations=2)
    assert not found[~grown].any() and found.sum() > expected.sum()


@pytest.mark.parametrize(("brightness", "is_head"), [(0.09, False), (0.11, True)])
def test_head_is_what_is_brighter_than_a_tenth_once_smoothed(brightness, is_head):
    assert anomaly.head_mask(np.full((9, 9), brightness, np.float32)).all() == is_head
    assert anomaly.head_mask(np.full((9, 9), brightness, np.float32)).any() == is_head
    # Under a Gaussian of sigma 1 a bright row keeps its neighbours' share, 0.242, and the next
    # but one has 0.054 of it.
    line = np.zeros((9, 9), np.float32)
    line[4] = 1
    np.testing.assert_array_equal(np.flatnonzero(anomaly.head_mask(line)[:, 4]), [3, 4, 5])


def test_what_is_no_brighter_than_the_level_is_air(monkeypatch):
    monkeypatch.setattr(anomaly, "HEAD_LEVEL", 0.0)
    assert not anomaly.head_mask(np.zeros((9, 9), np.float32)).any()


@pytest.mark.parametrize(
    ("columns", "first", "last"),
    [((10, 100), 54, 93), ((10, 94), 52, 87), ((0, 81), 40, 74), ((20, 61), 40, 54)],
)
def test_the_inner_head_begins_half_way_up_and_ends_below_the_top(columns, first, last):
    """Of 100 columns 6 are the depth, from the edge of the image too."""
    head = np.zeros((100, 120), bool)
    head[20:90, slice(*columns)] = True
    inner = anomaly.inner_head(head)
    assert inner.shape == head.shape and inner.dtype == bool
    expected = np.zeros_like(head)
    expected[26:84, first : last + 1] = True
    np.testing.assert_array_equal(inner, expected)


def test_the_depth_is_a_share_of_the_shorter_side():
    assert anomaly.inner_head(np.ones((50, 400), bool))[:, 300].sum() == 50 - 2 * 3
    # Columns 24 to 46 of 0 to 49.
    assert anomaly.inner_head(np.ones((400, 50), bool))[200].sum() == 23


@pytest.mark.parametrize("name", ["model", "blurred input"])
def test_each_slice_is_scored_by_its_own_expectation_and_median(name):
    rng = np.random.default_rng(0)
    images, expected = rng.random((2, 3, 8, 9)).astype(np.float32)
    heads = np.zeros((3, 8, 9), bool)
    heads[0, 2:5], heads[1, :, 3:8] = True, True  # the third shows no head
    maps = dict(anomaly.score_maps(images, heads, {name: expected}))
    assert len(maps) == 6
    for place, image in enumerate(images):
        residual = image - expected[place]
        typical = np.median(image[heads[place]]) if place < 2 else 0
        for (method, direction), values in {
            (name, "either"): np.abs(residual),
            (name, "bright"): residual,
            (name, "dark"): expected[place] - image,
            ("intensity", "either"): np.abs(image - typical),
            ("intensity", "bright"): image,
            ("intensity", "dark"): 1 - image,
        }.items():
            found = maps[method, direction][place]
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, values, atol=1e-6)
    smoothed = dict(anomaly.score_maps(images, heads, {name: expected}, smooth_sigma=1.5))
    for method, scores in maps.items():
        for place in range(3):
            values = ndimage.gaussian_filter(scores[place], 1.5)
            np.testing.assert_allclose(smoothed[method][place], values, atol=1e-6)


def test_slices_without_a_head_mask_each_are_refused():
    images = np.zeros((2, 8, 8), np.float32)
    with pytest.raises(ValueError, match="shorter"):
        list(anomaly.score_maps(images, np.ones((1, 8, 8), bool), {}))


def test_a_blur_stays_within_its_slice_and_runs_both_ways():
    stack = np.zeros((3, 21, 21))
    stack[1, 10, 10] = 1
    blurred = anomaly.blur(stack, 2.0)
    assert not blurred[[0, 2]].any()
    np.testing.assert_allclose(blurred[1], blurred[1].T)
    # The middle of a Gaussian of two dimensions.
    assert blurred[1, 10, 10] == pytest.approx(1 / (2 * np.pi * 2**2), rel=1e-3)


def shape_of(mask):
    """Half axes of an ellipse, longer one first, and the angle of the longer one with the rows."""
    places = np.argwhere(mask).astype(float)
    places -= places.mean(axis=0)
    # Each square pixel adds a twelfth to the variances of what is a quarter of the half axis.
    values, vectors = np.linalg.eigh(places.T @ places / len(places) - np.eye(2) / 12)
    return 2 * np.sqrt(values[::-1]), np.arctan2(*vectors[::-1, 1]) % np.pi


def test_lesions_are_ellipses_of_all_directions_in_shares_of_the_shorter_side():
    image = np.full((300, 500), 0.5, np.float32)
    room = np.zeros(image.shape, bool)
    room[50:-50, 50:-50] = True
    shapes = []
    for number in range(60):
        _, mask, kind = synthetic.add_lesion(image, room, key=f"a/{number:03d}")
        (longer, shorter), angle = shape_of(mask)
        assert longer * shorter == pytest.approx((300 * kind.radius) ** 2, rel=0.08)
        # A stretch of 4/3 at most, in the one direction and against the other.
        assert longer / shorter < (4 / 3) ** 2 * 1.08
        if longer / shorter > 1.2:
            shapes.append(angle)
    assert len(shapes) > 30
    counts, _ = np.histogram(shapes, bins=4, range=(0, np.pi))
    assert counts.min() >= 3


def test_kind_and_size_are_drawn_by_the_digest_of_seed_and_key():
    """So that another release, or another machine, draws the same ones."""
    image = np.full((200, 200), 0.5, np.float32)
    for key, seed in (("IXI002/052", 0), ("a", 0), ("a", 7)):
        _, mask, kind = synthetic.add_lesion(image, np.ones(image.shape, bool), key=key, seed=seed)
        digest = hashlib.sha256(f"lesion {seed} {key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        radius, contrast = divmod(int(rng.integers(12)), 4)
        assert kind.radius == (0.02, 0.04, 0.06)[radius]
        assert kind.contrast == (-0.3, -0.15, 0.15, 0.3)[contrast]
        stretch = (4 / 3) ** rng.uniform(-1, 1)
        (longer, shorter), _ = shape_of(mask)
        assert longer / shorter == pytest.approx(max(stretch, 1 / stretch) ** 2, rel=0.15)
    assert str(synthetic.Kind(0.02, -0.15)) == "radius 0.02, contrast -0.15"


@pytest.mark.parametrize(("brightness", "sign"), [(0.1, 1), (0.9, -1)])
def test_lesions_lie_where_the_brightness_leaves_room(brightness, sign):
    """A slice that is too dark gets no darker lesion, and one that is too bright no brighter."""
    image = np.full((96, 96), brightness, np.float32)
    room = anomaly.inner_head(np.ones(image.shape, bool))
    image[:, :20] = 0.5  # out of the room
    signs = []
    for number in range(40):
        changed, mask, kind = synthetic.add_lesion(image, room, key=f"b/{number}")
        if kind is None:
            np.testing.assert_array_equal(changed, image)
            assert not mask.any()
            continue
        signs.append(np.sign(kind.contrast))
        assert np.abs(changed - image).max() == pytest.approx(abs(kind.contrast), abs=1e-6)
    assert set(signs) == {sign} and len(signs) > 10


SCANNER = np.random.default_rng(4).integers(-40, 900, (3, 6, 5)).astype(np.float64)
SCANNER[2] = 7  # an empty range


def a_model(raw=None, *, takes_range=False):
    """One that halves the brightness of slices in [0, 1]."""
    path = pathlib.Path("m")
    return models.Model(
        "m", path, "", ModelCard(), lambda slices: slices / 2, (6, 5), raw, takes_range
    )


@pytest.mark.parametrize("limits", [None, (20.0, 700.0)])
def test_a_model_without_scanner_units_gets_8_bits_and_its_maps_are_in_scanner_units(limits):
    low, high = SCANNER.min(axis=(1, 2)), SCANNER.max(axis=(1, 2))
    if limits:
        low, high = (np.full(3, limit) for limit in limits)
    reconstruction, residual = anomaly.anomaly_maps(a_model(), SCANNER, limits)
    assert reconstruction.dtype == residual.dtype == np.float32
    for index, (bottom, top) in enumerate(zip(low, high, strict=True)):
        share = (SCANNER[index].clip(bottom, top) - bottom) / max(top - bottom, 1)
        unit = np.floor(255 * share + 0.499999999) / 255 / 2
        expected = bottom + unit * (top - bottom)
        np.testing.assert_allclose(reconstruction[index], expected, rtol=1e-5)
        # Values beyond the range are not clipped in the map.
        np.testing.assert_allclose(residual[index], SCANNER[index] - expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("limits", [None, (20.0, 700.0)])
@pytest.mark.parametrize("takes_range", [True, False])
def test_a_model_in_scanner_units_gets_the_range_that_it_takes(limits, takes_range):
    """One that takes each slice's own extrema cannot be given another range."""
    given = []

    def raw(**inputs):
        given.append(inputs)
        return {"reconstruction": np.float32(1), "residual": np.float32(2)}

    maps = anomaly.anomaly_maps(a_model(raw, takes_range=takes_range), SCANNER, limits)
    if limits and not takes_range:
        assert not given and maps[0].shape == SCANNER.shape
        return
    assert maps == (1, 2)
    (inputs,) = given
    assert all(value.dtype == np.float32 for value in inputs.values())
    np.testing.assert_array_equal(inputs.pop("slices"), SCANNER)
    if takes_range:
        low, high = limits or (SCANNER.min(axis=(1, 2)), SCANNER.max(axis=(1, 2)))
        np.testing.assert_array_equal(inputs.pop("low"), np.float32(np.broadcast_to(low, 3)))
        np.testing.assert_array_equal(inputs.pop("high"), np.float32(np.broadcast_to(high, 3)))
    assert not inputs


def test_smoothing_may_be_wider_along_one_axis():
    image, head = head_slice()
    scores = dict(anomaly.score_maps(image[None], head[None], {}, smooth_sigma=(0.0, 3.0)))
    expected = ndimage.gaussian_filter1d(image, 3.0, axis=1)
    np.testing.assert_allclose(scores["intensity", "bright"][0], expected, atol=1e-6)
