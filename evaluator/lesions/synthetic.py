"""Synthetic lesions: ellipses brighter or darker than the tissue around them, with their masks.

A lesion depends on the slice's name and the seed alone, not on order, batch or machine.
"""

import dataclasses
import hashlib

import numpy as np

RADII = (0.02, 0.04, 0.06)
"""Radii of lesions as shares of the slice's shorter side: 5, 10 and 15 mm in IXI."""

CONTRASTS = (-0.3, -0.15, 0.15, 0.3)
"""Change of brightness in the middle of a lesion, in units of the slice's range, 0 to 1."""

_ELONGATION = 4 / 3
_RIM = 2.0
_TRIES = 200


@dataclasses.dataclass(frozen=True)
class Kind:
    """Size and brightness of a lesion: one of `RADII` and one of `CONTRASTS`."""

    radius: float
    contrast: float

    def __str__(self) -> str:
        return f"radius {self.radius:.2f}, contrast {self.contrast:+.2f}"


KINDS = tuple(Kind(radius, contrast) for radius in RADII for contrast in CONTRASTS)


def add_lesion(
    image: np.ndarray, room: np.ndarray, *, key: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, Kind | None]:
    """Put one lesion into a healthy slice.

    The lesion is an ellipse of random kind, with a rim of two pixels that fades linearly. It lies
    inside `room`, where the mean brightness allows its contrast, so that little is clipped.

    Args:
      image: float32 [H, W] in [0, 1].
      room: where lesions may be, bool [H, W].
      key: the slice's name, which with `seed` determines kind, place and shape.
      seed: from 0; another seed gives other lesions.

    Returns:
      The slice with the lesion, the lesion's mask, bool [H, W], and its kind; the slice unchanged,
      an empty mask and None if no place was found in `_TRIES`.
    """
    digest = hashlib.sha256(f"lesion {seed} {key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    kind = KINDS[rng.integers(len(KINDS))]
    radius = kind.radius * min(image.shape)
    stretch = _ELONGATION ** rng.uniform(-1, 1)
    turn = rng.uniform(0, np.pi)
    for place in rng.permutation(np.argwhere(room))[:_TRIES]:
        distance = _distance(image.shape, place, (radius * stretch, radius / stretch), turn)
        mask = distance <= 1
        if room[mask].all() and 0 <= image[mask].mean() + kind.contrast <= 1:
            profile = np.clip((1 - distance) * radius / _RIM + 0.5, 0, 1)
            changed = np.clip(image + kind.contrast * profile, 0, 1).astype(np.float32)
            return changed, mask, kind
    return image, np.zeros(image.shape, bool), None


def _distance(
    shape: tuple[int, ...], place: np.ndarray, axes: tuple[float, float], turn: float
) -> np.ndarray:
    """Distance from the middle of an ellipse, as a share of its radius: 1 on its edge."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = rows - place[0], columns - place[1]
    along = (y * np.cos(turn) + x * np.sin(turn)) / axes[0]
    across = (x * np.cos(turn) - y * np.sin(turn)) / axes[1]
    return np.hypot(along, across)
