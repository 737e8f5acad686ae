"""How well scores separate lesion pixels from healthy ones, computed from histograms.

Counts are integers [..., 2, BINS]: healthy and lesion pixels by score. The bins, from -1 to 1, have
equal widths in the signed square root of the score, so they are finest at 0, where most residuals
of good models are. Scores in one bin count as equal, so AUPRC and AUROC differ from those of the
exact scores, by less than `TOLERANCE`.
"""

import numpy as np

BINS = 32768
"""Each of the 256 levels of a stored slice has a bin of its own."""

TOLERANCE = 1e-3
"""Largest difference from scikit-learn's AUPRC and AUROC of exact scores that tests allow.

The largest difference seen was 0.0002.
"""

RESAMPLES = 1000
"""Bootstrap samples for an interval."""


def count(scores: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Histogram of scores, int32 [2, BINS]; scores beyond -1 and 1 count in the outermost bins.

    `scores` are finite, of any shape; `lesions` is bool of the same shape.
    """
    spread = np.sign(scores) * np.sqrt(np.abs(scores))
    bins = np.clip(np.floor((spread + 1.0) * (BINS // 2)), 0, BINS - 1).astype(np.int64)
    counts = np.bincount((bins + BINS * lesions).ravel(), minlength=2 * BINS)
    # int32 is enough for the pixels of a volume, and saves memory.
    return counts.astype(np.int32).reshape(2, BINS)


def statistics(counts: np.ndarray, threshold: int) -> dict[str, np.ndarray]:
    """How well the scores find the lesions; NaN where there is no lesion.

    Args:
      counts: [..., 2, BINS], or fewer bins in the same order.
      threshold: the bin above which pixels count as lesion for `dice`.

    Returns:
      Each [...]: `auprc`, average precision, the sum over thresholds of precision times gain in
      recall without interpolation, as in scikit-learn; `auroc`, the probability that a lesion pixel
      scores above a healthy one, where ties count half; `dice` at the threshold; `best_dice`, the
      highest Dice at any threshold, which only the masks can tell.
    """
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
    """Share of lesion pixels, which is the AUPRC of random scores."""
    return _share(counts[..., 1, :].sum(axis=-1), counts.sum(axis=(-1, -2)))


def percentile_bin(counts: np.ndarray, percentile: float) -> int:
    """The lowest bin such that it and the bins below hold that percentage of healthy pixels."""
    below = np.cumsum(counts[0])
    return int(np.searchsorted(below, percentile / 100 * below[-1]))


def upper_edge(bins: int) -> float:
    """The score at which a bin ends."""
    spread = (bins + 1) / (BINS // 2) - 1.0
    return spread * abs(spread)


def precision_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of counts [2, BINS] at every bin with pixels, highest bin first."""
    above = np.cumsum(counts[:, counts.any(axis=0)][:, ::-1], axis=1)
    return above[1] / above.sum(axis=0), above[1] / max(above[1, -1], 1)


def resampled(counts: np.ndarray, threshold: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`statistics` of every bootstrap sample of subjects, each [samples].

    Args:
      counts: counts of each subject, [subjects, 2, BINS].
      threshold: as in `statistics`.
      weights: samples of `bootstrap.draw`; use the same ones for methods compared in pairs.
    """
    # Most bins are empty, and empty bins change nothing.
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
