"""Anomaly scores of slices: how far each pixel is from what a healthy head would show there.

Every score is in units of the slice's range, 0 to 1, and lies between -1 and 1; higher is more
anomalous.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

BASELINES = ("blurred input", "intensity")
"""Methods that know no model; published work shows that they often win."""

DIRECTIONS = ("either", "bright", "dark")
"""What a score looks for: any difference, or what is brighter or darker than expected."""

HEAD_LEVEL = 0.1
"""Smoothed brightness above which a pixel counts as head, in units of the slice's range."""


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


def score_maps(
    images: np.ndarray,
    heads: np.ndarray,
    reconstructions: Mapping[str, np.ndarray],
    *,
    blur_sigma: float,
    smooth_sigma: float = 0.0,
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Scores of a stack of slices by every method, one (method, direction) after the other.

    A model's score is the residual of input and reconstruction: its absolute value for "either",
    as it is for "bright", with the other sign for "dark". "blurred input" has a Gaussian-blurred
    input in the place of the reconstruction. "intensity" is the brightness itself for "bright",
    1 minus it for "dark", and how far it is from the median of the slice's head for "either".

    Args:
      images: float32 [N, H, W] in [0, 1].
      heads: bool [N, H, W].
      reconstructions: of each model, by its name, float32 [N, H, W].
      blur_sigma: of the blurred input, in pixels.
      smooth_sigma: of a Gaussian over every score in its slice, in pixels; 0 for none.

    Yields:
      ((name, direction), scores), scores float32 [N, H, W].
    """
    expected = dict(reconstructions)
    expected["blurred input"] = _blur(images, blur_sigma)
    expected["intensity"] = np.zeros_like(images)
    for name, reference in expected.items():
        difference = images - reference
        for direction in DIRECTIONS:
            if direction == "bright":
                scores = difference
            elif direction == "dark":
                scores = 1 - images if name == "intensity" else -difference
            else:
                scores = np.abs(images - _medians(images, heads) if name == "intensity" else difference)
            yield (name, direction), _blur(scores, smooth_sigma) if smooth_sigma else scores


def _blur(stack: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(stack, (0, sigma, sigma))


def _medians(images: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Median brightness of the head of each slice, [N, 1, 1]; 0 where there is no head."""
    medians = [
        np.median(image[head]) if head.any() else 0.0
        for image, head in zip(images, heads, strict=True)
    ]
    return np.array(medians, np.float32)[:, None, None]
