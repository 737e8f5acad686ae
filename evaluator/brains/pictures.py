"""Slices of brains with lesions to show in a report."""

import dataclasses

import numpy as np

from evaluator.brains.tally import Judged
from ixi_tfds.images.tissue import HIGHEST


@dataclasses.dataclass(frozen=True)
class Picture:
    """An axial slice of a brain, float32 and bool [posterior, right].

    Attributes:
      title: whose it is.
      slice: the brain, in [0, 1].
      lesion: its mask.
      scores: judged map of each method, by name.
      repaired: what the models of each task make of the slice, in [0, 1], by name.
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
        return values[:, place].copy()

    values = cut(found.brain.values)
    return Picture(
        title,
        values / np.float32(HIGHEST),
        cut(found.lesion),
        {name: cut(score) for name, score in found.scores.items()},
        {name: (values - cut(each)) / HIGHEST for name, each in found.residuals.items()},
    )
