"""How well scores tell lesion from healthy pixels, from histograms that do not grow with pixels.

Counts are integers [..., 2, BINS]: healthy and lesion pixels by score. The bins, from -1 to 1, have
equal widths in the signed square root of the score, so that they are finest at 0, where residuals
of good models lie. Scores within a bin are ties, so that AUPRC and AUROC differ from those of the
scores themselves, by less than `TOLERANCE`.
"""

import numpy as np

BINS = 32768
"""Each of the 256 levels of a stored slice has a bin of its own."""

TOLERANCE = 1e-3
"""Largest difference of AUPRC and AUROC from scikit-learn's on unbinned scores that tests allow.

0.0002 was the largest seen: bins count as ties, which make AUPRC a little lower.
"""

RESAMPLES = 1000
"""How often subjects are drawn for an interval."""


def count(scores: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Histogram of scores, int32 [2, BINS]; those beyond -1 and 1 count in the outermost bins.

    Args:
      scores: finite numbers, any shape.
      lesions: bool of the same shape.
    """
    spread = np.sign(scores) * np.sqrt(np.abs(scores))
    bins = np.clip(np.floor((spread + 1.0) * (BINS // 2)), 0, BINS - 1).astype(np.int64)
    counts = np.bincount((bins + BINS * lesions).ravel(), minlength=2 * BINS)
    # A slice or volume has far fewer pixels than int32 counts, and tallies are many.
    return counts.astype(np.int32).reshape(2, BINS)


def statistics(counts: np.ndarray, threshold: int) -> dict[str, np.ndarray]:
    """How well the scores find the lesions; NaN where there is no lesion.

    Args:
      counts: [..., 2, BINS], or of fewer bins in the same order.
      threshold: the bin above which `dice` takes pixels for lesion.

    Returns:
      `auprc`, average precision: the sum over thresholds of precision times gain in recall, as
      scikit-learn has it, with no interpolation. `auroc`, the chance that a lesion pixel scores
      above a healthy one, ties half. `dice` of what is above the threshold. `best_dice`, the
      highest that any threshold gives, which takes the masks to know. Each [...].
    """
    # From the highest bin down.
    above = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.float64)
    healthy, lesion = above[..., 0, :], above[..., 1, :]
    found, positives = healthy + lesion, lesion[..., -1]
    gained = counts[..., ::-1]
    precision = lesion / np.maximum(found, 1)
    won = _sum(gained[..., 0, :], lesion) - _sum(gained[..., 0, :], gained[..., 1, :]) / 2
    dice = 2 * lesion / np.maximum(found + positives[..., None], 1)
    place = counts.shape[-1] - threshold - 2
    at_threshold = dice[..., place] if place >= 0 else np.zeros_like(positives)
    return {
        "auprc": _share(_sum(gained[..., 1, :], precision), positives),
        "auroc": _share(won, positives * healthy[..., -1]),
        "dice": np.where(positives > 0, at_threshold, np.nan),
        "best_dice": np.where(positives > 0, dice.max(axis=-1), np.nan),
    }


def prevalence(counts: np.ndarray) -> np.ndarray:
    """Share of lesion pixels: the AUPRC that scores without any meaning have."""
    return _share(counts[..., 1, :].sum(axis=-1), counts.sum(axis=(-1, -2)))


def percentile_bin(counts: np.ndarray, percentile: float) -> int:
    """The lowest bin with at least that percentage of the healthy pixels in or below it."""
    below = np.cumsum(counts[0])
    return int(np.searchsorted(below, percentile / 100 * below[-1]))


def upper_edge(bins: int) -> float:
    """The score at which a bin ends."""
    spread = (bins + 1) / (BINS // 2) - 1.0
    return spread * abs(spread)


def precision_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every bin that has pixels, highest first, of counts [2, BINS]."""
    above = np.cumsum(counts[:, counts.any(axis=0)][:, ::-1], axis=1)
    return above[1] / above.sum(axis=0), above[1] / max(above[1, -1], 1)


def resampled(counts: np.ndarray, threshold: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`statistics` of every bootstrap sample of subjects, each [samples].

    Args:
      counts: of each subject, [subjects, 2, BINS].
      threshold: as there.
      weights: what `bootstrap.draw` gives; the same for methods that are to be compared in pairs.
    """
    # Bins without pixels change nothing and are most of them.
    filled = np.flatnonzero(counts.any(axis=(0, 1)))
    threshold = int(np.searchsorted(filled, threshold, side="right")) - 1
    flat = counts[..., filled].reshape(len(counts), -1).astype(np.float64)
    parts = [
        statistics((chunk @ flat).reshape(-1, 2, len(filled)), threshold)
        for chunk in np.array_split(weights, max(1, len(weights) // 50))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sum of products over the bins."""
    return np.einsum("...b,...b->...", one, other)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
