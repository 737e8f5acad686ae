"""Anomaly maps and scores: how far each pixel is from what a healthy head would show there.

Maps are in scanner units. Scores are in units of the slice's range, and may lie beyond -1 and 1
where values are not clipped. Higher is more anomalous.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy import ndimage

from evaluator.models import Model
from ixi_tfds.images.scaling import quantize, to_unit

BLURRED, INTENSITY = "blurred input", "intensity"
BASELINES = (BLURRED, INTENSITY)
"""Methods without a model; published work shows that they often do better than models."""

DIRECTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "either": np.abs,
    "bright": np.positive,
    "dark": np.negative,
}
"""What a score looks for (any difference, brighter or darker than expected), and the function of
the residual that gives the score."""

HEAD_LEVEL = 0.1
"""Smoothed brightness above which a pixel counts as head, in units of the slice's range."""

DEPTH = 0.06
"""Distance of `inner_head` from the head's edge, as a share of the slice's shorter side.

It is the thickness of scalp and skull, 15 mm for IXI's 256 voxels of 0.94 mm or 128 of 2 mm.
"""

UPPER = 0.5
"""Share of the head's height, from the top, that `inner_head` keeps: the brain, not the face."""


def ranges(slices: np.ndarray, limits: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of slices [N, H, W] in scanner units, each float64 [N, 1, 1].

    `limits` are those of the volume; None takes each slice's minimum and maximum.
    """
    if limits is None:
        low, high = (find(slices, axis=(1, 2), keepdims=True) for find in (np.min, np.max))
    else:
        low, high = (np.full((len(slices), 1, 1), limit) for limit in limits)
    return low.astype(np.float64), high.astype(np.float64)


def anomaly_maps(
    model: Model, slices: np.ndarray, limits: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """A model's reconstruction of slices, and their anomaly map: slices minus reconstruction.

    `python -m evaluator reconstruct` writes this map, and `python -m evaluator anomalies` scores
    it: divided by the range, `high - low`, it is the score for "bright".

    If the model has a signature `raw` for such a range, that is called. Otherwise slices are scaled
    here in the same way: to 8 bits, the reconstruction in [0, 1], and back.

    Args:
      model: the model.
      slices: [N, H, W] in scanner units.
      limits: as in `ranges`.

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
    """Mask of the head, bool [H, W], of a slice float32 [H, W] in [0, 1].

    It is the largest connected part above `HEAD_LEVEL` after a Gaussian of sigma 1 pixel, with its
    holes filled. In a scan without skull it is the brain.
    """
    parts, count = ndimage.label(ndimage.gaussian_filter(image, 1.0) > HEAD_LEVEL)
    if not count:
        return np.zeros(image.shape, bool)
    largest = 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return ndimage.binary_fill_holes(parts == largest)


def inner_head(head: np.ndarray) -> np.ndarray:
    """Where brain is expected in a head with skull and face, bool [H, W].

    It is the part deeper than `DEPTH`, in the `UPPER` part. The edge of the image counts as an edge
    of the head. `head` is bool [H, W] with rows to posterior and columns to superior.
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
    """Scores of a stack of slices by every method and direction.

    The scores of a method with a reference are computed from its residual, see `DIRECTIONS`. Those
    of `INTENSITY`, the last method, are the brightness for "bright", 1 minus the brightness for
    "dark", and the distance from the median brightness of the slice's head for "either".

    Args:
      images: float [N, H, W] in units of the slice's range, 0 to 1.
      heads: masks of the heads, bool [N, H, W].
      references: what each method but `INTENSITY` expects, float [N, H, W], by the method's name.
      smooth_sigma: sigma of a Gaussian over scores within slices, in pixels, or one each for rows
        and columns; 0 for none.

    Yields:
      ((method, direction), scores), scores float [N, H, W].
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
    """Slices [N, H, W], each smoothed by a Gaussian of `sigma` pixels along rows and columns."""
    return ndimage.gaussian_filter(stack, (0, *np.broadcast_to(sigma, 2)))


def _smooth(scores: np.ndarray, sigma: float | tuple[float, float]) -> np.ndarray:
    return blur(scores, sigma) if np.any(sigma) else scores
