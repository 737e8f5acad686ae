"""Anomaly scores of slices: how far each pixel is from what a healthy head would show there.

Every score is in units of the slice's range, 0 to 1, and lies between -1 and 1; higher is more
anomalous.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

BLURRED, INTENSITY = "blurred input", "intensity"
BASELINES = (BLURRED, INTENSITY)
"""Methods that know no model; published work shows that they often win."""

DIRECTIONS = ("either", "bright", "dark")
"""What a score looks for: any difference, or what is brighter or darker than expected."""

HEAD_LEVEL = 0.1
"""Smoothed brightness above which a pixel counts as head, in units of the slice's range."""

DEPTH = 0.06
"""How far inside the head `inner_head` begins, in shares of the slice's shorter side.

On IXI's 256 voxels of 0.94 mm, or 128 of 2 mm, it is 15 mm: scalp and skull.
"""

UPPER = 0.5
"""Share of the head's height, from the top, that `inner_head` keeps: the brain, not the face."""


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
    smooth_sigma: float = 0.0,
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Scores of a stack of slices by every method, one (method, direction) after the other.

    Where a method knows what it expects instead of the slice, its score is the residual of the two:
    its absolute value for "either", as it is for "bright", with the other sign for "dark". Last
    comes `INTENSITY`: the brightness itself for "bright", 1 minus it for "dark", and how far it is
    from the median of the slice's head for "either".

    Args:
      images: float32 [N, H, W] in [0, 1].
      heads: bool [N, H, W].
      references: what each method but `INTENSITY` expects, by its name, float32 [N, H, W].
      smooth_sigma: of a Gaussian over every score in its slice, in pixels; 0 for none.

    Yields:
      ((name, direction), scores), scores float32 [N, H, W].
    """
    medians = [
        np.median(image[head]) if head.any() else 0.0
        for image, head in zip(images, heads, strict=True)
    ]
    typical = np.array(medians, np.float32)[:, None, None]
    for name in (*references, INTENSITY):
        if name == INTENSITY:
            maps = (np.abs(images - typical), images, 1 - images)
        else:
            residual = images - references[name]
            maps = (np.abs(residual), residual, -residual)
        for direction, scores in zip(DIRECTIONS, maps, strict=True):
            yield (name, direction), blur(scores, smooth_sigma) if smooth_sigma else scores


def blur(stack: np.ndarray, sigma: float) -> np.ndarray:
    """Each slice of [N, H, W] after a Gaussian of `sigma` pixels."""
    return ndimage.gaussian_filter(stack, (0, sigma, sigma))
