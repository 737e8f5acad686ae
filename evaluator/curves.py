"""How well scores tell lesion from healthy pixels, from histograms that do not grow with pixels.

Counts are integers [..., 2, BINS]: healthy and lesion pixels by score, bins of equal width from -1
to 1. Scores within a bin are ties. The curves are therefore exactly those of scores rounded to
1/4096, and AUPRC and AUROC are within `TOLERANCE` of those of the scores themselves.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

BINS = 8192
"""Bins from -1 to 1, so that each of the 256 levels of a stored slice has one of its own."""

TOLERANCE = 1e-3
"""Largest difference of AUPRC and AUROC from scikit-learn's on unrounded scores that tests allow.

Seen were differences below 1e-4.
"""

RESAMPLES = 1000
CONFIDENCE = 0.95


def count(scores: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Histogram of scores, int64 [2, BINS]; those beyond -1 and 1 count in the outermost bins.

    Args:
      scores: finite numbers, any shape.
      lesions: bool of the same shape.
    """
    bins = np.clip(np.floor((scores + 1.0) * (BINS // 2)), 0, BINS - 1).astype(np.int64)
    return np.bincount((bins + BINS * lesions).ravel(), minlength=2 * BINS).reshape(2, BINS)


def _at_or_above(counts: np.ndarray) -> np.ndarray:
    """Pixels at or above each bin, from the highest bin down, float64 [..., 2, BINS]."""
    return np.cumsum(counts[..., ::-1], axis=-1, dtype=np.float64)


def auprc(counts: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as average precision, NaN where there is no lesion.

    The sum over thresholds of precision times gain in recall, as scikit-learn's
    `average_precision_score`: no interpolation between points.
    """
    above = _at_or_above(counts)
    precision = above[..., 1, :] / np.maximum(above.sum(axis=-2), 1)
    return _share((precision * counts[..., 1, ::-1]).sum(axis=-1), above[..., 1, -1])


def auroc(counts: np.ndarray) -> np.ndarray:
    """Chance that a lesion pixel scores above a healthy one, ties half; NaN where one is missing."""
    above = _at_or_above(counts)
    healthy, lesion = counts[..., 0, ::-1], counts[..., 1, ::-1]
    won = (healthy * (above[..., 1, :] - lesion / 2)).sum(axis=-1)
    return _share(won, above[..., 0, -1] * above[..., 1, -1])


def dice_above(counts: np.ndarray, threshold: int) -> np.ndarray:
    """Dice of the lesions and what scores in bins above `threshold`; NaN where there is no lesion."""
    found = counts[..., threshold + 1 :].sum(axis=-1)
    dice = 2 * found[..., 1] / np.maximum(found.sum(axis=-1) + counts[..., 1, :].sum(axis=-1), 1)
    return np.where(counts[..., 1, :].any(axis=-1), dice, np.nan)


def best_dice(counts: np.ndarray) -> np.ndarray:
    """The highest Dice that any threshold gives: it takes the masks to know it."""
    above = _at_or_above(counts)
    total = above[..., 1, -1]
    dice = 2 * above[..., 1, :] / np.maximum(above.sum(axis=-2) + total[..., None], 1)
    return np.where(total > 0, dice.max(axis=-1), np.nan)


def prevalence(counts: np.ndarray) -> np.ndarray:
    """Share of lesion pixels: the AUPRC that scores without any meaning have."""
    return _share(counts[..., 1, :].sum(axis=-1), counts.sum(axis=(-1, -2)))


def percentile_bin(counts: np.ndarray, percentile: float) -> int:
    """The lowest bin with at least that percentage of the healthy pixels in or below it."""
    below = np.cumsum(counts[0])
    return int(np.searchsorted(below, percentile / 100 * below[-1]))


def upper_edge(bins: int) -> float:
    """The score at which a bin ends."""
    return (bins + 1) / (BINS // 2) - 1.0


def precision_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every bin that has pixels, highest first."""
    above = _at_or_above(counts)[:, counts[:, ::-1].any(axis=0)]
    return above[1] / above.sum(axis=0), above[1] / max(above[1, -1], 1)


def resample(subjects: int, *, seed: int) -> np.ndarray:
    """How often each subject stands in each bootstrap sample, int64 [RESAMPLES, subjects]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(subjects, [1 / subjects] * subjects, size=RESAMPLES)


def bootstrap(
    statistics: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Statistics of every bootstrap sample of subjects, [..., samples].

    Args:
      statistics: takes counts [samples, 2, BINS] and gives one or more of the functions above,
        [..., samples].
      counts: of each subject, [subjects, 2, BINS].
      weights: what `resample` gives; the same for methods that are to be compared in pairs.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    chunks = np.array_split(weights, max(1, len(weights) // 100))
    parts = [statistics((chunk @ flat).reshape(-1, 2, BINS)) for chunk in chunks]
    return np.concatenate(parts, axis=-1)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle `CONFIDENCE` of bootstrap values; samples without a lesion (NaN) do not count."""
    known = values[np.isfinite(values)]
    if not known.size:
        return float("nan"), float("nan")
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def _share(part: Any, whole: Any) -> np.ndarray:
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
