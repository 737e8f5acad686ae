"""Brains of any scanner come to one scale of tissues."""

import numpy as np
import pytest

from ixi_tfds.images import tissue

SHAPE, ZOOMS = (52, 44, 40), (4.0, 4.0, 4.0)


def places(shape=SHAPE):
    """Coordinates from -1 to 1 along each axis, [3, p, s, r]."""
    return np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))


def made_up_brain(shape=SHAPE):
    """Fluid, grey and white matter at 40%, 66% and 80%, and the brain's mask."""
    radius = np.linalg.norm(places(shape) / 0.9, axis=0)
    values = np.select([radius < 0.2, radius < 0.75, radius < 1], [0.4, 0.8, 0.66], 0.0)
    noise = np.random.default_rng(0).normal(0, 0.01, shape)
    return values + noise * (values > 0), radius < 1


def medians(scaled):
    """Of fluid, grey and white matter."""
    radius = np.linalg.norm(places() / 0.9, axis=0)
    zones = (radius < 0.15, (radius > 0.8) & (radius < 0.95), (radius > 0.3) & (radius < 0.7))
    return [float(np.median(scaled[zone])) for zone in zones]


@pytest.mark.parametrize("unit", [1.0, 350.0, 1e-4])
def test_white_matter_has_one_value_whatever_the_unit(unit):
    values, mask = made_up_brain()
    scaled = tissue.scale_tissues(values * unit, mask, ZOOMS)
    assert medians(scaled) == pytest.approx([0.4, 0.66, 0.8], abs=0.01)
    assert scaled.dtype == np.float32 and scaled.max() <= tissue.HIGHEST
    assert not scaled[~mask].any()


def test_a_smooth_bias_is_divided_out():
    values, mask = made_up_brain()
    p, s, r = places()
    biased = values * np.exp(0.4 * p - 0.3 * s * r + 0.2 * r**2)
    scaled = tissue.scale_tissues(biased, mask, ZOOMS)
    white = mask & (np.abs(np.linalg.norm(places() / 0.9, axis=0) - 0.5) < 0.2)
    before = biased[white].std() / biased[white].mean()
    after = scaled[white].std() / scaled[white].mean()
    assert before > 0.1 and after < 0.05
    assert medians(scaled)[2] == pytest.approx(0.8, abs=0.01)


def test_the_white_peak_is_the_brightest_that_is_high_enough():
    draws = np.random.default_rng(0)
    grey, white = draws.normal(60, 3, 9000), draws.normal(90, 3, 6000)
    few = draws.normal(140, 3, 600)  # an enhancing tumour
    assert tissue.white_peak(np.concatenate([grey, white, few])) == pytest.approx(90, abs=2)


def test_a_brighter_lesion_does_not_move_the_scale():
    values, mask = made_up_brain()
    scaled = tissue.scale_tissues(values, mask, ZOOMS)
    lesion = (
        np.linalg.norm(places() - np.array([0.3, 0.2, 0.3])[:, None, None, None], axis=0) < 0.15
    )
    damaged = np.where(lesion, 1.3, values)
    again = tissue.scale_tissues(damaged, mask, ZOOMS)
    assert np.abs(again - scaled)[mask & ~lesion].max() < 0.02
    assert again[lesion].mean() == pytest.approx(1.3, abs=0.03)


def test_what_has_no_values_is_refused():
    _, mask = made_up_brain()
    with pytest.raises(ValueError, match="no values above"):
        tissue.scale_tissues(np.zeros(SHAPE), mask, ZOOMS)
    with pytest.raises(ValueError, match="mask is empty"):
        tissue.clean_mask(np.zeros(SHAPE, bool), 2)


def test_a_mask_is_one_piece_without_gaps_also_at_the_faces():
    _, mask = made_up_brain()
    ragged = mask.copy()
    ragged[26, 22, 18:21] = False  # a hole
    ragged[10, :, 20] = False  # a gap
    ragged[0, 0, 0] = True  # a speck
    assert (tissue.clean_mask(ragged, 2) == tissue.clean_mask(mask, 2)).all()
    full = np.ones((8, 8, 8), bool)
    assert tissue.clean_mask(full, 2).all()


def test_air_around_a_mask_changes_nothing():
    _, mask = made_up_brain()
    mask[26, 22, 18:21] = mask[10, :, 20] = mask[:, 30, 2] = False
    around = np.pad(mask, ((3, 9), (0, 4), (7, 0)))
    assert not mask.all() and mask.any(axis=(1, 2)).sum() < len(mask)
    inside = np.pad(tissue.clean_mask(mask, 2), ((3, 9), (0, 4), (7, 0)))
    np.testing.assert_array_equal(tissue.clean_mask(around, 2), inside)


def test_a_clean_mask_lies_in_rows_so_that_sums_over_it_are_the_same():
    _, mask = made_up_brain()
    assert tissue.clean_mask(np.asfortranarray(mask), 2).flags.c_contiguous


def test_tissues_of_another_contrast_come_to_those_of_training():
    values, mask = made_up_brain()
    scaled = tissue.scale_tissues(values, mask, ZOOMS)
    radius = np.linalg.norm(places() / 0.9, axis=0)
    # Grey matter of another contrast.
    other = np.where((radius > 0.75) & mask, scaled + 0.06, scaled)
    matched = tissue.match_tissues(other, mask)
    assert medians(matched) == pytest.approx(tissue.TISSUES, abs=0.03)


def test_a_scan_whose_tissues_are_not_found_stays_as_it_is():
    _, mask = made_up_brain()
    noise = np.random.default_rng(0).uniform(0.05, 0.5, SHAPE).astype(np.float32) * mask
    assert (tissue.match_tissues(noise, mask) == noise).all()
