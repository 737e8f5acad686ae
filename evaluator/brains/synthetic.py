"""Synthetic lesions in three dimensions: rough textured blobs, brighter or darker than the tissue.

They share no code with the damage that models learn to undo, and follow from the person's name and
the seed alone. Sizes and contrasts are fixed so that plain intensity has an AUPRC of 0.06 to 0.10
on the test heads of IXI (docs/lesions.md).
"""

import dataclasses
import hashlib

import numpy as np
from scipy import ndimage

from ixi_tfds.images.brain import Brain
from ixi_tfds.images.tissue import HIGHEST

LESIONS = 4
"""Number in a head."""

RADII_MM = (4.0, 14.0)
CONTRASTS = (0.14, 0.36)
"""Ranges of their radii, and of the change of brightness where white matter is at 0.8."""

_DEEP_MM = 6.0
_SOFT_MM = 2.0
_ROUGH = 0.3
_TEXTURE = 0.05


def add_lesions(brain: Brain, *, name: str, seed: int) -> tuple[Brain, np.ndarray]:
    """Put lesions into a healthy brain.

    Args:
      brain: the brain.
      name: of the person; with `seed` it determines all of the lesions.
      seed: from 0.

    Returns:
      The brain with lesions, and their number at each voxel, int [p, s, r], from 1; 0 elsewhere.
    """
    digest = hashlib.sha256(f"lesions {seed} {name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    sides = np.array([places.side for places in brain.places])
    deep = ndimage.distance_transform_edt(brain.mask, sampling=sides) > _DEEP_MM
    room = np.argwhere(deep if deep.any() else brain.mask)
    values, numbers = brain.values.copy(), np.zeros(brain.mask.shape, int)
    for number in range(1, LESIONS + 1):
        share = _blob(rng, brain.mask.shape, room[rng.integers(len(room))], sides) * brain.mask
        inside = (share > 0.5) & (numbers == 0)
        change = rng.uniform(*CONTRASTS) * rng.choice([-1.0, 1.0])
        texture = ndimage.gaussian_filter(rng.standard_normal(values.shape), 1.0)
        values += share * (change + _TEXTURE * texture / texture.std())
        numbers[inside] = number
    clipped = np.clip(values, 0, HIGHEST).astype(np.float32)
    return dataclasses.replace(brain, values=clipped * brain.mask), numbers


def _blob(
    rng: np.random.Generator, shape: tuple[int, ...], centre: np.ndarray, sides: np.ndarray
) -> np.ndarray:
    """How much of each voxel a blob covers, from 0 to 1."""
    radius = np.exp(rng.uniform(*np.log(RADII_MM)))
    axes = radius * np.exp(rng.uniform(-0.3, 0.3, 3))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    offsets = (np.indices(shape).reshape(3, -1).T - centre) * sides
    distance = np.linalg.norm((offsets @ turn) / axes, axis=1).reshape(shape)
    rough = ndimage.gaussian_filter(rng.standard_normal(shape), radius / 3 / sides)
    distance += _ROUGH * rough / rough.std()
    return np.clip(0.5 + (1 - distance) * radius / _SOFT_MM, 0, 1)
