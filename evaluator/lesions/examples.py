"""Slices with lesions to show in a report."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """A slice to show.

    Attributes:
      title: its name and its lesion.
      image: the slice with the lesion, float32 [H, W] in units of its range.
      lesion: mask, bool [H, W].
      references: each model's reconstruction, and the blurred input, float32 [H, W], by name.
    """

    title: str
    image: np.ndarray
    lesion: np.ndarray
    references: dict[str, np.ndarray]


def most_lesion(masks: np.ndarray, wanted: int) -> list[int]:
    """The slice with most lesion in each of `wanted` equal parts of the slices with any."""
    areas = masks.sum(axis=(1, 2))
    parts = np.array_split(np.flatnonzero(areas), wanted)
    return [int(part[np.argmax(areas[part])]) for part in parts if part.size]


def example_of(
    title: str,
    place: int,
    images: np.ndarray,
    masks: np.ndarray,
    references: dict[str, np.ndarray],
) -> Example:
    """The slice at a place in `images` and `masks`, both [N, H, W], as an example."""
    expected = {name: stack[place].copy() for name, stack in references.items()}
    return Example(title, images[place].copy(), masks[place].copy(), expected)
