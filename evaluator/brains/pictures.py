"""Slices of brains with lesions to show in a report."""

import dataclasses

import numpy as np

from evaluator.brains.tally import Judged

_WHITEST = 1.2
"""What is shown in white; white matter is at 0.8."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An axial slice of a brain, float32 and bool [right, anterior].

    Attributes:
      title: whose it is.
      slice: the brain, from 0 for black to 1 for white.
      lesion: its mask.
      scores: judged map of each method, by name.
      repaired: what the models of each task make of the slice, on the same scale, by name.
    """

    title: str
    slice: np.ndarray
    lesion: np.ndarray
    scores: dict[str, np.ndarray]
    repaired: dict[str, np.ndarray]


def picture_of(title: str, found: Judged) -> Picture:
    """The axial slice with most lesion."""
    place = int(np.argmax(found.lesion.sum(axis=(0, 2))))

    def cut(values: np.ndarray) -> np.ndarray:
        return np.rot90(values[:, place], -1).copy()

    values, residuals = cut(found.brain.values), found.residuals
    return Picture(
        title,
        values / np.float32(_WHITEST),
        cut(found.lesion),
        {name: cut(score) for name, score in found.scores.items()},
        {name: (values - cut(each)) / np.float32(_WHITEST) for name, each in residuals.items()},
    )
