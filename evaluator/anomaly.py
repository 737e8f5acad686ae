"""Anomaly maps and scores: how far each pixel is from what a healthy head would show there.

Maps are in scanner units. Scores are in units of the slice's range; where values are not clipped to
it, some lie beyond -1 and 1. Higher is more anomalous.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy import ndimage

from evaluator.models import Model
from ixi_tfds.images.scaling import quantize, to_unit

BLURRED, INTENSITY = "blurred input", "intensity"
BASELINES = (BLURRED, INTENSITY)
"""Methods that know no model; published work shows that they often win."""

DIRECTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "either": np.abs,
    "bright": np.positive,
    "dark": np.negative,
}
"""What a score looks for, any difference or what is brighter or darker than expected, and how it is
made of the residual."""

HEAD_LEVEL = 0.1
"""Smoothed brightness above which a pixel counts as head, in units of the slice's range."""

DEPTH = 0.06
"""How far inside the head `inner_head` begins, in shares of the slice's shorter side.

On IXI's 256 voxels of 0.94 mm, or 128 of 2 mm, it is 15 mm: scalp and skull.
"""

UPPER = 0.5
"""Share of the head's height, from the top, that `inner_head` keeps: the brain, not the face."""


def ranges(slices: np.ndarray, limits: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of slices in scanner units, each float64 [N, 1, 1].

    Args:
      slices: [N, H, W] in scanner units.
      limits: low and high of the volume; None takes each slice's own extrema.
    """
    if limits is None:
        axes = (1, 2)
        low, high = (find(slices, axis=axes, keepdims=True) for find in (np.min, np.max))
    else:
        low, high = (np.full((len(slices), 1, 1), limit) for limit in limits)
    return low.astype(np.float64), high.astype(np.float64)


def anomaly_maps(
    model: Model, slices: np.ndarray, limits: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """What a model makes of slices, and their anomaly map: slices minus reconstruction.

    `python -m evaluator reconstruct` writes the map as it is. `python -m evaluator anomalies`
    scores the same map: divided by the range, `high - low`, it is the score for "bright".

    The signature `raw` does it where the model has one for such a range. For all others it is done
    here by the same rule: 8 bits, the reconstruction in [0, 1], and back.

    Args:
      model: what reconstructs.
      slices: [N, H, W] in scanner units.
      limits: as `ranges` takes them.

    Returns:
      Reconstruction and residual, both float32 [N, H, W] in scanner units.
    """
    low, high = ranges(slices, limits)
    if model.raw is not None and (limits is None or model.raw_takes_range):
        inputs = {"slices": slices.astype(np.float32)}
        if model.raw_takes_range:
            inputs["low"] = low[:, 0, 0].astype(np.float32)
            inputs["high"] = high[:, 0, 0].astype(np.float32)
        given = model.raw(**inputs)
        return np.asarray(given["reconstruction"]), np.asarray(given["residual"])
    unit = np.asarray(model.reconstruct(to_unit(quantize(slices, low, high))[..., None]))[..., 0]
    scanner = low + unit.astype(np.float64) * (high - low)
    return scanner.astype(np.float32), (slices - scanner).astype(np.float32)


def head_mask(image: np.ndarray) -> np.ndarray:
    """Where the head is: the largest bright part of the smoothed slice, its holes filled.

    Bright is above `HEAD_LEVEL` after a Gaussian of sigma 1 pixel. Of a scan without skull this is
    the brain.

    Args:
      image: float32 [H, W] in [0, 1].

    Returns:
      bool [H, W].
    """
    parts, count = ndimage.label(ndimage.gaussian_filter(image, 1.0) > HEAD_LEVEL)
    if not count:
        return np.zeros(image.shape, bool)
    largest = 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(parts == largest)


def inner_head(head: np.ndarray) -> np.ndarray:
    """Where brain is to be expected in a whole head: `DEPTH` inside it, in the `UPPER` part.

    The edge of the image is an edge of the head too.

    Args:
      head: bool [H, W], rows running to posterior and columns to superior.

    Returns:
      bool [H, W].
    """
    deep = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1] > DEPTH * min(head.shape)
    columns = np.flatnonzero(head.any(axis=0))
    if columns.size:
        lowest, highest = columns[[0, -1]]
        deep[:, : round(highest - UPPER * (highest - lowest))] = False
    return deep


def score_maps(
    images: np.ndarray,
    heads: np.ndarray,
    references: Mapping[str, np.ndarray],
    *,
    smooth_sigma: float | tuple[float, float] = 0.0,
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Scores of a stack of slices by every method, one (method, direction) after the other.

    Where a method knows what it expects instead of the slice, its score is made of the residual of
    the two, as `DIRECTIONS` says. Last comes `INTENSITY`: the brightness itself for "bright", 1
    minus it for "dark", and how far it is from the median of the slice's head for "either".

    Args:
      images: float [N, H, W] in units of the slice's range, 0 to 1.
      heads: bool [N, H, W].
      references: what each method but `INTENSITY` expects, by its name, float [N, H, W].
      smooth_sigma: of a Gaussian over every score in its slice, in pixels, the same along rows and
        columns or one for each; 0 for none.

    Yields:
      ((name, direction), scores), scores float [N, H, W].
    """
    for name, reference in references.items():
        residual = images - reference
        for direction, made_of in DIRECTIONS.items():
            yield (name, direction), _smooth(made_of(residual), smooth_sigma)
    medians = [
        np.median(image[head]) if head.any() else 0.0
        for image, head in zip(images, heads, strict=True)
    ]
    typical = np.array(medians, np.float32)[:, None, None]
    by_brightness = {"either": np.abs(images - typical), "bright": images, "dark": 1 - images}
    for direction, scores in by_brightness.items():
        yield (INTENSITY, direction), _smooth(scores, smooth_sigma)


def blur(stack: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    """Each slice of [N, H, W] after a Gaussian of `sigma` pixels, along rows and columns."""
    return ndimage.gaussian_filter(stack, (0, *np.broadcast_to(sigma, 2)))


def _smooth(scores: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    return blur(scores, sigma) if np.any(sigma) else scores
