"""AUPRC, AUROC and Dice from histograms, against scikit-learn and direct computations."""

import numpy as np
import pytest
import sklearn.metrics

from evaluator import bootstrap
from evaluator.lesions import histograms


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
    counts = histograms.count(scores.astype(np.float32), lesions)
    auprc = sklearn.metrics.average_precision_score(lesions, scores)
    auroc = sklearn.metrics.roc_auc_score(lesions, scores)
    assert abs(histograms.statistics(counts, 0)["auprc"] - auprc) < histograms.TOLERANCE
    assert abs(histograms.statistics(counts, 0)["auroc"] - auroc) < histograms.TOLERANCE


def test_areas_of_8_bit_scores_are_exact():
    rng = np.random.default_rng(2)
    lesions = rng.random(5000) < 0.05
    levels = np.clip(rng.normal(100 + 30 * lesions, 40), 0, 255).round() / 255
    counts = histograms.count(levels.astype(np.float32), lesions)
    expected = sklearn.metrics.average_precision_score(lesions, levels)
    assert histograms.statistics(counts, 0)["auprc"] == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.roc_auc_score(lesions, levels)
    assert histograms.statistics(counts, 0)["auroc"] == pytest.approx(expected, abs=1e-12)
    precision, recall = histograms.precision_recall(counts)
    found = sklearn.metrics.precision_recall_curve(lesions, levels)
    np.testing.assert_allclose(precision, found[0][-2::-1])
    np.testing.assert_allclose(recall, found[1][-2::-1])


def test_histograms_add_up():
    rng = np.random.default_rng(3)
    scores, lesions = pixels(rng, 1000, 0.1, 0.1)
    parts = [
        histograms.count(scores[half], lesions[half]) for half in (slice(300), slice(300, None))
    ]
    assert (sum(parts) == histograms.count(scores, lesions)).all()
    assert histograms.count(np.array([-3.0, 3.0]), np.array([False, True])).sum() == 2


def test_dice_at_a_healthy_percentile_and_the_best_possible():
    rng = np.random.default_rng(4)
    healthy, none = pixels(rng, 20_000, 0.0, 0.0)
    scores, lesions = pixels(rng, 5_000, 0.05, 0.1)
    limit = histograms.percentile_bin(histograms.count(healthy, none), 99)
    threshold = histograms.upper_edge(limit)
    assert (healthy > threshold).mean() == pytest.approx(0.01, abs=1e-3)
    counts = histograms.count(scores, lesions)
    expected = sklearn.metrics.f1_score(lesions, scores >= threshold)
    assert histograms.statistics(counts, limit)["dice"] == pytest.approx(expected, abs=1e-12)
    found = scores[:, None] >= (np.arange(0, 10_000) / (histograms.BINS / 2)) ** 2
    best = (2 * found[lesions].sum(axis=0) / (found.sum(axis=0) + lesions.sum())).max()
    assert histograms.statistics(counts, 0)["best_dice"] == pytest.approx(best, abs=1e-12)
    assert histograms.prevalence(counts) == pytest.approx(lesions.mean())


def test_without_lesions_there_is_no_number():
    counts = histograms.count(np.array([0.1, 0.2]), np.array([False, False]))
    assert all(np.isnan(value) for value in histograms.statistics(counts, 0).values())
    assert np.isnan(bootstrap.interval(np.array([np.nan, np.nan]))).all()


def test_nothing_lies_above_the_highest_bin():
    counts = histograms.count(np.array([0.1, 1.0]), np.array([False, True]))
    assert histograms.statistics(counts, histograms.BINS - 1)["dice"] == 0
    assert histograms.statistics(counts, histograms.BINS - 2)["dice"] == 1


def test_intervals_are_those_of_resampled_subjects():
    rng = np.random.default_rng(5)
    people = [pixels(rng, 500, 0.2, shift) for shift in (0.0, 0.02, 0.05, 0.1, 0.2)]
    counts = np.stack([histograms.count(*person) for person in people])
    weights = bootstrap.draw(5, draws=histograms.RESAMPLES, seed=0)
    limit = histograms.percentile_bin(counts[0], 90)
    drawn_values = histograms.resampled(counts, limit, weights)
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
        assert values[sample] == pytest.approx(expected, abs=histograms.TOLERANCE)
        expected = sklearn.metrics.f1_score(lesions, scores >= histograms.upper_edge(limit))
        assert drawn_values["dice"][sample] == pytest.approx(expected, abs=1e-9)
    low, high = bootstrap.interval(values)
    assert low < histograms.statistics(counts.sum(axis=0), 0)["auprc"] < high
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.95, abs=0.01)


def test_bins_are_of_equal_width_in_the_signed_square_root():
    """16384 bins on each side of 0: of 0.25, whose root is a half, the bin is half-way up."""
    scores = np.array([[-1.0, -0.25, 0.0], [0.25, 0.2499999, 1.0]])
    counts = histograms.count(scores, np.array([[False, True, False], [True, False, True]]))
    assert counts.shape == (2, 32768) and counts.dtype == np.int32
    healthy, lesion = map(np.flatnonzero, counts)
    np.testing.assert_array_equal(healthy, [0, 16384, 24575])
    np.testing.assert_array_equal(lesion, [8192, 24576, 32767])
    beyond = histograms.count(
        np.array([-9.0, -1.01, 1.01, 9.0]), np.array([True, True, False, False])
    )
    assert beyond[0, -1] == 2 and beyond[1, 0] == 2 and beyond.sum() == 4


FEW = np.array([[[3, 2, 1, 0], [1, 0, 4, 0]], [[2, 0, 0, 1], [0, 2, 0, 0]]])
"""Of two people in 4 bins, healthy and lesion pixels."""


def unbinned(counts):
    """A score for each pixel, the number of its bin, and whether it is a lesion."""
    bins = np.broadcast_to(np.arange(counts.shape[-1]), counts.shape)
    lesions = np.broadcast_to(np.array([[False], [True]]), counts.shape)
    return np.repeat(bins, counts.ravel()), np.repeat(lesions, counts.ravel())


def dice_above(scores, lesions, threshold):
    found = scores > threshold
    return 2 * (found & lesions).sum() / (found.sum() + lesions.sum())


@pytest.mark.parametrize("threshold", [-1, 0, 1, 2, 3])
def test_statistics_of_a_few_bins_are_those_of_their_pixels(threshold):
    values = histograms.statistics(FEW, threshold)
    assert all(value.shape == (2,) for value in values.values())
    for person, counts in enumerate(FEW):
        scores, lesions = unbinned(counts)
        expected = {
            "auprc": sklearn.metrics.average_precision_score(lesions, scores),
            "auroc": sklearn.metrics.roc_auc_score(lesions, scores),
            "dice": dice_above(scores, lesions, threshold),
            "best_dice": max(dice_above(scores, lesions, each) for each in range(-1, 4)),
        }
        assert {name: value[person] for name, value in values.items()} == pytest.approx(expected)
        share = histograms.prevalence(FEW)[person]
        assert share == pytest.approx(lesions.mean())
    # By hand, for the first: 4 of 5 pixels of bin 2, 4 of 7 from bin 1, 5 of all 11.
    assert histograms.statistics(FEW[0], 1)["auprc"] == pytest.approx((4 * 4 / 5 + 5 / 11) / 5)
    precision, recall = histograms.precision_recall(FEW[0])
    np.testing.assert_allclose(precision, [4 / 5, 4 / 7, 5 / 11])
    np.testing.assert_allclose(recall, [4 / 5, 4 / 5, 1])
    # Of 5 lesion pixels 4 are above 5 healthy ones and tied with 1; 1 is tied with 3.
    assert histograms.statistics(FEW[0], 1)["auroc"] == pytest.approx((4 * 5.5 + 1.5) / 30)


def test_a_single_lesion_pixel_on_top_is_found():
    """In a bin of its own, one below an empty one."""
    counts = np.array([[2, 1, 0, 0], [0, 0, 1, 0]])
    values = histograms.statistics(counts, 1)
    names = ("auprc", "auroc", "dice", "best_dice")
    assert values == dict.fromkeys(names, 1.0)
    precision, recall = histograms.precision_recall(counts)
    np.testing.assert_allclose(precision, [1, 1 / 2, 1 / 4])
    np.testing.assert_allclose(recall, [1, 1, 1])


def test_where_there_is_nothing_nothing_is_divided_by_zero():
    with np.errstate(all="raise"):
        values = histograms.statistics(np.zeros((2, 3), int), 0)
        assert all(np.isnan(value) for value in values.values())
        assert np.isnan(histograms.prevalence(np.zeros((2, 3), int)))
        healthy = np.array([[1, 0, 2], [0, 0, 0]])
        assert all(np.isnan(value) for value in histograms.statistics(healthy, 0).values())
        assert histograms.prevalence(healthy) == 0
        precision, recall = histograms.precision_recall(healthy)
    assert not precision.any() and not recall.any()
    # Lesions alone have no healthy pixel to be above of.
    values = histograms.statistics(np.array([[0, 0], [1, 2]]), 0)
    assert np.isnan(values["auroc"]) and values["auprc"] == 1
    assert (values["dice"], values["best_dice"]) == (pytest.approx(0.8), 1)


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [(49.5, 0), (49.6, 0), (49.7, 1), (50, 1), (50.1, 3), (99, 3), (99.8, 3), (99.9, 4)],
)
def test_the_percentile_is_the_lowest_bin_with_that_share_of_healthy_pixels(percentile, expected):
    """As NumPy's "inverted_cdf" has it; lesion pixels do not count."""
    counts = np.array([[496, 4, 0, 498, 2], [5000, 0, 0, 0, 0]])
    assert histograms.percentile_bin(counts, percentile) == expected
    scores, lesions = unbinned(counts)
    assert expected == np.percentile(scores[~lesions], percentile, method="inverted_cdf")


def test_a_bin_ends_where_the_next_one_begins():
    edges = [histograms.upper_edge(bins) for bins in (-1, 8191, 16383, 24575, 32767)]
    assert edges == [-1, -0.25, 0, 0.25, 1]
    assert (
        histograms.count(np.array([histograms.upper_edge(20_000)]), np.array([False]))[0, 20_001]
        == 1
    )


def test_people_are_drawn_with_replacement_and_alike():
    weights = bootstrap.draw(3, draws=histograms.RESAMPLES, seed=7)
    expected = np.random.default_rng(7).multinomial(3, [1 / 3] * 3, size=1000)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)
    assert (weights != bootstrap.draw(3, draws=histograms.RESAMPLES, seed=8)).any()


@pytest.mark.parametrize("threshold", [0, 1, 2, 4, 5, 6])
def test_a_bootstrap_sample_is_its_people_pooled(threshold):
    """Bins that nobody has a pixel in are left out on the way, which changes nothing."""
    counts = np.zeros((2, 2, 7), int)
    counts[..., [1, 2, 4, 5]] = FEW
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    found = histograms.resampled(counts, threshold, weights)
    for sample, times in enumerate(weights):
        pooled = np.tensordot(times, counts, 1)
        scores, lesions = unbinned(pooled)
        expected = {
            "auprc": sklearn.metrics.average_precision_score(lesions, scores),
            "auroc": sklearn.metrics.roc_auc_score(lesions, scores),
            "dice": dice_above(scores, lesions, threshold),
            "best_dice": max(dice_above(scores, lesions, each) for each in range(-1, 7)),
        }
        assert {name: value[sample] for name, value in found.items()} == pytest.approx(expected)


def test_a_bootstrap_holds_fifty_samples_at_a_time(monkeypatch):
    """Memory does not grow with their number, nor is it spent on a matrix for each of them."""
    sizes, statistics = [], histograms.statistics

    def spy(counts, threshold):
        sizes.append(len(counts))
        return statistics(counts, threshold)

    monkeypatch.setattr(histograms, "statistics", spy)
    found = histograms.resampled(FEW, 1, bootstrap.draw(2, draws=histograms.RESAMPLES, seed=0))
    assert sizes == [50] * 20 and found["auprc"].shape == (1000,)


def test_an_interval_leaves_out_a_fortieth_on_each_side():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert bootstrap.interval(values) == pytest.approx((25, 975))
    known = np.concatenate([[np.nan, np.inf], values, [-np.inf]])
    assert bootstrap.interval(known) == pytest.approx((25, 975))
    assert bootstrap.interval(np.array([3.0])) == (3, 3)


def test_the_tolerance_is_that_of_the_report():
    assert histograms.TOLERANCE == 0.001
