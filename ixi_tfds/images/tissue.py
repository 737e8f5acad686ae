"""One scale for all brains: the mask, the bias field, and the intensities of the tissues.

Everything here takes a volume [p, s, r] in which the brain is brighter than what is masked out, as
in T1-weighted scans, and voxel sides in mm.
"""

from collections.abc import Sequence

import numpy as np
from etils import epy

with epy.lazy_imports():
    import scipy.ndimage

WHITE_MATTER = 0.8
"""White matter after scaling."""

HIGHEST = 1.6
"""Brighter voxels are clipped to this."""

TISSUES = (0.393, 0.664, WHITE_MATTER)
"""Cerebrospinal fluid, grey matter and white matter of the training heads, after scaling."""

_ROUNDS = 6
_LINEAR_ROUNDS = 2
_ORDER = 3
_NEAR = 0.13  # natural logarithm of a ratio to white matter
_ERODED_MM = 4.0
_MOST_SAMPLES = 40_000
_BINS = 256
_SMOOTHED = 3.0  # bins
_LEAST_PEAK = 0.4


def clean_mask(mask: np.ndarray, closing: int) -> np.ndarray:
    """The largest piece of a brain mask without gaps and holes.

    Args:
      mask: bool [p, s, r].
      closing: gaps of up to twice as many voxels are closed.

    Raises:
      ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty")
    # Nothing changes outside the smallest box around the mask.
    (box,) = scipy.ndimage.find_objects(mask.astype(np.uint8))
    # Closing at the faces of the box needs voxels beyond them.
    padded = np.pad(mask[box], closing)
    closed = scipy.ndimage.binary_closing(padded, iterations=closing)
    inner = tuple(slice(closing, -closing) for _ in range(mask.ndim))
    pieces, _ = scipy.ndimage.label(closed[inner])
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    # In rows, however the mask lies in memory: sums over it depend on their order.
    clean = np.zeros(mask.shape, bool)
    clean[box] = scipy.ndimage.binary_fill_holes(pieces == largest)
    return clean


def scale_tissues(values: np.ndarray, mask: np.ndarray, zooms: Sequence[float]) -> np.ndarray:
    """Divide out the bias field and bring white matter to `WHITE_MATTER`.

    Args:
      values: [p, s, r] in any unit in which nothing is 0.
      mask: bool [p, s, r], the brain, as from `clean_mask`.
      zooms: sides of a voxel in mm.

    Returns:
      float32 [p, s, r] from 0 to `HIGHEST`; 0 outside the mask.

    Raises:
      ValueError: the brain has no positive values.
    """
    values = np.where(mask, np.maximum(values, 0), 0).astype(np.float32)
    positive = mask & (values > 0)
    if not positive.any():
        raise ValueError("the brain has no values above those of the background")
    corrected = values / np.exp(_bias(values, positive, zooms)).astype(np.float32)
    scaled = corrected * np.float32(WHITE_MATTER / white_peak(corrected[positive]))
    return np.minimum(scaled, np.float32(HIGHEST)) * mask


def white_peak(values: np.ndarray) -> float:
    """The value of white matter: the brightest mode of the histogram that is high enough.

    A mode counts if the smoothed histogram is at least 0.4 times as high there as at its highest.

    Args:
      values: positive values of the voxels of a brain, [n].
    """
    most = float(np.percentile(values, 99.9))
    counts, edges = np.histogram(values, _BINS, (0.0, most))
    smooth = scipy.ndimage.gaussian_filter1d(counts.astype(np.float64), _SMOOTHED)
    rises = np.diff(smooth, prepend=0.0, append=0.0)
    modes = np.flatnonzero(
        (rises[:-1] > 0) & (rises[1:] <= 0) & (smooth >= _LEAST_PEAK * smooth.max())
    )
    brightest = int(modes[-1])
    return float(edges[brightest] + edges[brightest + 1]) / 2


def match_tissues(
    scaled: np.ndarray, mask: np.ndarray, tissues: Sequence[float] = TISSUES
) -> np.ndarray:
    """Bring the tissues of a scan from elsewhere to those of the training heads.

    Three normal distributions are fitted to the histogram. Their means are mapped to `tissues`,
    what is between them linearly. Slopes are kept between 0.6 and 1.6. The scan is left as it is
    if its white matter comes out below 0.7 or above 1.0, since the fit has failed then.

    Args:
      scaled: result of `scale_tissues`.
      mask: bool [p, s, r], the brain.
      tissues: cerebrospinal fluid, grey matter and white matter of the training heads.
    """
    means = tissue_means(scaled[mask])
    if not 0.7 <= means[2] <= 1.0:
        return scaled
    knots, targets = [0.0, *means], [0.0, *tissues]
    slopes = np.clip(np.diff(targets) / np.maximum(np.diff(knots), 1e-3), 0.6, 1.6)
    # From white matter downwards, so that it is exact.
    ends = [tissues[2]]
    for slope, width in zip(slopes[::-1], np.diff(knots)[::-1], strict=True):
        ends.append(ends[-1] - slope * width)
    below = np.interp(scaled, knots, ends[::-1])
    above = tissues[2] + (scaled - means[2]) * (tissues[2] / means[2])
    mapped = np.where(scaled > means[2], above, below)
    return np.clip(mapped, 0, HIGHEST).astype(np.float32) * mask


def tissue_means(values: np.ndarray) -> tuple[float, float, float]:
    """Means of fluid, grey and white matter, by expectation maximization of the histogram."""
    counts, edges = np.histogram(values, 160, (0.05, 1.25))
    places = (edges[:-1] + edges[1:]) / 2
    mean, sigma, share = np.array(TISSUES), np.array([0.12, 0.07, 0.05]), np.full(3, 1 / 3)
    for _ in range(60):
        distance = (places[:, None] - mean) / sigma
        density = share / sigma * np.exp(-0.5 * distance**2) + 1e-12
        weight = counts[:, None] * density / density.sum(axis=1, keepdims=True)
        total = weight.sum(axis=0) + 1e-9
        mean = (weight * places[:, None]).sum(axis=0) / total
        sigma = np.sqrt((weight * (places[:, None] - mean) ** 2).sum(axis=0) / total)
        sigma, share = np.maximum(sigma, 0.02), total / total.sum()
    fluid, grey, white = np.sort(mean).tolist()
    return fluid, grey, white


def scaling_steps() -> dict[str, str]:
    """What `scale_tissues` and `match_tissues` do, by step, exactly enough to do it again."""
    fluid, grey, white = TISSUES
    return {
        "bias field": "ixi_tfds.images.tissue.scale_tissues: values below 0 become 0; the field is "
        f"exp of a polynomial of order {_ORDER} in three variables, from -1 to 1 over the samples "
        "and held beyond +-1.1, fitted by least squares to ln(value / white matter) of the "
        f"samples within {_NEAR} of 0, in {_ROUNDS} rounds, of order 1 in the first "
        f"{_LINEAR_ROUNDS}; samples are every k-th brain voxel above 0, the mask eroded by "
        f"{_ERODED_MM:g} mm, k = max(1, number // {_MOST_SAMPLES}); the field is divided out",
        "white matter": "ixi_tfds.images.tissue.white_peak: the brightest mode of the histogram of "
        f"the brain's values above 0 ({_BINS} bins from 0 to the 99.9th percentile, smoothed by a "
        f"Gaussian of {_SMOOTHED:g} bins) that is at least {_LEAST_PEAK} times as high as the "
        f"highest; it becomes {WHITE_MATTER}, what is above {HIGHEST} becomes {HIGHEST}",
        "scans from elsewhere": f"ixi_tfds.images.tissue.match_tissues, not for the training "
        f"cohort: the means of three normal distributions, fitted to the brain's histogram by "
        f"expectation maximization, are mapped to the medians of fluid, grey and white matter "
        f"in ensemble.json ({fluid}, {grey} and {white} without one), linearly between, slopes "
        "from 0.6 to 1.6; left alone if white matter lies outside 0.7 to 1.0",
    }


def _bias(values: np.ndarray, brain: np.ndarray, zooms: Sequence[float]) -> np.ndarray:
    """Logarithm of the bias field, a cubic polynomial fitted to what is near white matter."""
    rounds = max(1, round(_ERODED_MM / max(zooms)))
    inner = scipy.ndimage.binary_erosion(brain, iterations=rounds)
    places = np.argwhere(inner if inner.any() else brain)
    places = places[:: max(1, len(places) // _MOST_SAMPLES)]
    seen = values[tuple(places.T)]
    logs = np.log(seen)
    middle, half = places.mean(axis=0), np.ptp(places, axis=0) / 2 + 1
    terms = _terms(((places - middle) / half).T)
    linear = [number for number, powers in enumerate(_powers()) if sum(powers) <= 1]
    fitted = np.zeros(terms.shape[0])
    for number in range(_ROUNDS):
        flat = logs - fitted @ terms
        peak = np.log(white_peak(np.exp(flat)))
        near = np.abs(flat - peak) < _NEAR
        used = linear if number < _LINEAR_ROUNDS else list(range(terms.shape[0]))
        fitted = np.zeros(terms.shape[0])
        fitted[used] = np.linalg.lstsq(terms[used][:, near].T, logs[near] - peak, rcond=None)[0]
    # Outside the samples a polynomial runs away.
    axes = [
        np.clip((np.arange(n) - m) / h, -1.1, 1.1)
        for n, m, h in zip(values.shape, middle, half, strict=True)
    ]
    p, s, r = ([axis**power for power in range(_ORDER + 1)] for axis in axes)
    field = np.zeros(values.shape)
    for factor, (a, b, c) in zip(fitted, _powers(), strict=True):
        field += factor * p[a][:, None, None] * s[b][:, None] * r[c]
    return field


def _powers() -> list[tuple[int, int, int]]:
    """The powers of the terms of a cubic polynomial in three variables."""
    each = range(_ORDER + 1)
    return [(a, b, c) for a in each for b in each for c in each if a + b + c <= _ORDER]


def _terms(places: np.ndarray) -> np.ndarray:
    """The terms of the polynomial at places [3, n] between -1 and 1, [terms, n]."""
    return np.stack([places[0] ** a * places[1] ** b * places[2] ** c for a, b, c in _powers()])
