"""Synthetic lesions: blobs that are brighter or darker than what they replace, with their masks.

What is drawn depends on the slice's name and the seed alone, not on order, batch or machine.
"""

import dataclasses
import hashlib

import numpy as np

RADII = (0.02, 0.04, 0.06)
"""Radius of a lesion in shares of the slice's shorter side.

On IXI's 256 voxels of 0.94 mm, or 128 of 2 mm, they are 5, 10 and 15 mm.
"""

CONTRASTS = (-0.3, -0.15, 0.15, 0.3)
"""What is added in the middle of a lesion, in units of the slice's range, 0 to 1."""

DEPTH = 0.06
"""Tissue that a lesion has around it, in shares of the shorter side: it keeps off scalp and skull."""

SUPERIOR = 0.4
"""Lesions lie in this upper share of the head's height, away from neck and face."""

_ELONGATION = 4 / 3
_RIM = 2.0
_TRIES = 200


@dataclasses.dataclass(frozen=True)
class Kind:
    """How large and how bright a lesion is, one of `RADII` and one of `CONTRASTS`."""

    radius: float
    contrast: float

    def __str__(self) -> str:
        return f"radius {self.radius:.2f}, contrast {self.contrast:+.2f}"


KINDS = tuple(Kind(radius, contrast) for radius in RADII for contrast in CONTRASTS)


def add_lesion(
    image: np.ndarray, head: np.ndarray, *, key: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, Kind | None]:
    """Put one lesion into a healthy slice.

    It is an ellipse of the drawn kind's area whose rim of two pixels fades linearly. It lies inside
    the upper head with `DEPTH` around it, at a place where the brightness leaves room for its
    contrast, so that clipping takes little of it.

    Args:
      image: float32 [H, W] in [0, 1], rows running to posterior and columns to superior.
      head: bool [H, W], where the head is.
      key: the slice's name; kind, place and shape follow from it.
      seed: other lesions for the same slices.

    Returns:
      The slice with the lesion, its mask (bool [H, W], the ellipse), and its kind; the slice as it
      was, an empty mask and None where the head has no room for it.
    """
    digest = hashlib.sha256(f"lesion {seed} {key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    kind = KINDS[rng.integers(len(KINDS))]
    side = min(image.shape)
    radius, depth = kind.radius * side, DEPTH * side
    stretch = _ELONGATION ** rng.uniform(-1, 1)
    axes = radius * stretch, radius / stretch
    turn = rng.uniform(0, np.pi)
    places = np.argwhere(_superior(head))
    for place in rng.permutation(places)[:_TRIES]:
        distance = _distance(image.shape, place, axes, turn)
        mask = distance <= 1
        surroundings = distance <= 1 + depth / min(axes)
        if not head[surroundings].all() or _leaves_image(place, max(axes) + depth, image.shape):
            continue
        if 0 <= image[mask].mean() + kind.contrast <= 1:
            profile = np.clip((1 - distance) * radius / _RIM + 0.5, 0, 1)
            changed = np.clip(image + kind.contrast * profile, 0, 1).astype(np.float32)
            return changed, mask, kind
    return image, np.zeros(image.shape, bool), None


def _superior(head: np.ndarray) -> np.ndarray:
    """The upper part of the head."""
    columns = np.flatnonzero(head.any(axis=0))
    upper = head.copy()
    if columns.size:
        lowest, highest = columns[[0, -1]]
        upper[:, : round(highest - SUPERIOR * (highest - lowest))] = False
    return upper


def _distance(
    shape: tuple[int, ...], place: np.ndarray, axes: tuple[float, float], turn: float
) -> np.ndarray:
    """Distance from the middle of an ellipse in units of its own radius there: 1 on its edge."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = rows - place[0], columns - place[1]
    along = (y * np.cos(turn) + x * np.sin(turn)) / axes[0]
    across = (x * np.cos(turn) - y * np.sin(turn)) / axes[1]
    return np.hypot(along, across)


def _leaves_image(place: np.ndarray, reach: float, shape: tuple[int, ...]) -> bool:
    return bool((place - reach < 0).any() or (place + reach > np.array(shape) - 1).any())
