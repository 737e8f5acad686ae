"""AUPRC, AUROC and Dice from histograms, against scikit-learn and direct computations."""

import numpy as np
import pytest
import sklearn.metrics

from evaluator import curves


def pixels(rng, count, share, shift):
    """Scores of pixels, a `share` of which are lesions that score higher by `shift` or so."""
    lesions = rng.random(count) < share
    return np.clip(rng.exponential(0.04, count) + shift * lesions, -1, 1), lesions


@pytest.mark.parametrize("share", [0.3, 0.01, 0.001])
@pytest.mark.parametrize("shift", [-0.02, 0.0, 0.02, 0.2])
@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_areas_are_scikit_learns_within_the_stated_tolerance(share, shift, scale):
    scores, lesions = pixels(np.random.default_rng(1), 50_000, share, shift)
    scores *= scale
    counts = curves.count(scores.astype(np.float32), lesions)
    auprc = sklearn.metrics.average_precision_score(lesions, scores)
    auroc = sklearn.metrics.roc_auc_score(lesions, scores)
    assert abs(curves.statistics(counts, 0)["auprc"] - auprc) < curves.TOLERANCE
    assert abs(curves.statistics(counts, 0)["auroc"] - auroc) < curves.TOLERANCE


def test_areas_of_8_bit_scores_are_exact():
    rng = np.random.default_rng(2)
    lesions = rng.random(5000) < 0.05
    levels = np.clip(rng.normal(100 + 30 * lesions, 40), 0, 255).round() / 255
    counts = curves.count(levels.astype(np.float32), lesions)
    expected = sklearn.metrics.average_precision_score(lesions, levels)
    assert curves.statistics(counts, 0)["auprc"] == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.roc_auc_score(lesions, levels)
    assert curves.statistics(counts, 0)["auroc"] == pytest.approx(expected, abs=1e-12)
    precision, recall = curves.precision_recall(counts)
    found = sklearn.metrics.precision_recall_curve(lesions, levels)
    np.testing.assert_allclose(precision, found[0][-2::-1])
    np.testing.assert_allclose(recall, found[1][-2::-1])


def test_histograms_add_up():
    rng = np.random.default_rng(3)
    scores, lesions = pixels(rng, 1000, 0.1, 0.1)
    parts = [curves.count(scores[half], lesions[half]) for half in (slice(300), slice(300, None))]
    assert (sum(parts) == curves.count(scores, lesions)).all()
    assert curves.count(np.array([-3.0, 3.0]), np.array([False, True])).sum() == 2


def test_dice_at_a_healthy_percentile_and_the_best_possible():
    rng = np.random.default_rng(4)
    healthy, none = pixels(rng, 20_000, 0.0, 0.0)
    scores, lesions = pixels(rng, 5_000, 0.05, 0.1)
    limit = curves.percentile_bin(curves.count(healthy, none), 99)
    threshold = curves.upper_edge(limit)
    assert (healthy > threshold).mean() == pytest.approx(0.01, abs=1e-3)
    counts = curves.count(scores, lesions)
    expected = sklearn.metrics.f1_score(lesions, scores >= threshold)
    assert curves.statistics(counts, limit)["dice"] == pytest.approx(expected, abs=1e-12)
    found = scores[:, None] >= (np.arange(0, 10_000) / (curves.BINS / 2)) ** 2
    best = (2 * found[lesions].sum(axis=0) / (found.sum(axis=0) + lesions.sum())).max()
    assert curves.statistics(counts, 0)["best_dice"] == pytest.approx(best, abs=1e-12)
    assert curves.prevalence(counts) == pytest.approx(lesions.mean())


def test_without_lesions_there_is_no_number():
    counts = curves.count(np.array([0.1, 0.2]), np.array([False, False]))
    assert all(np.isnan(value) for value in curves.statistics(counts, 0).values())
    assert np.isnan(curves.interval(np.array([np.nan, np.nan]))).all()


def test_nothing_lies_above_the_highest_bin():
    counts = curves.count(np.array([0.1, 1.0]), np.array([False, True]))
    assert curves.statistics(counts, curves.BINS - 1)["dice"] == 0
    assert curves.statistics(counts, curves.BINS - 2)["dice"] == 1


def test_intervals_are_those_of_resampled_subjects():
    rng = np.random.default_rng(5)
    people = [pixels(rng, 500, 0.2, shift) for shift in (0.0, 0.02, 0.05, 0.1, 0.2)]
    counts = np.stack([curves.count(*person) for person in people])
    weights = curves.resample(5, seed=0)
    limit = curves.percentile_bin(counts[0], 90)
    drawn_values = curves.bootstrap(counts, limit, weights)
    values = drawn_values["auprc"]
    assert (weights.sum(axis=1) == 5).all()
    for sample in (0, 500, 999):
        drawn = [
            person
            for person, times in zip(people, weights[sample], strict=True)
            for _ in range(times)
        ]
        scores, lesions = (np.concatenate(part) for part in zip(*drawn, strict=True))
        expected = sklearn.metrics.average_precision_score(lesions, scores)
        assert values[sample] == pytest.approx(expected, abs=curves.TOLERANCE)
        expected = sklearn.metrics.f1_score(lesions, scores >= curves.upper_edge(limit))
        assert drawn_values["dice"][sample] == pytest.approx(expected, abs=1e-9)
    low, high = curves.interval(values)
    assert low < curves.statistics(counts.sum(axis=0), 0)["auprc"] < high
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.95, abs=0.01)
