"""Geometry: scans as slices for a model, and maps back on the grid of the file.

The axes of a volume are flipped and swapped to those of the dataset (PSR: posterior, superior,
right; slices are sagittal), without loss. Its slices then follow the rule of the model's config:

- A config with a spacing: the volume is resampled to it along all three axes, as in preprocessing.
  If the window is in mm, window and planes lie around the middle of the head.
- A config without a spacing, and voxels whose sides differ from those of training by at most
  `SAME_SPACING`: planes are cropped or padded around their middle, and slices have their
  numbers in the volume, as in preprocessing.
- The same config, and other voxels: the volume is first resampled to the voxels of training.

Slices in the window of training are those of preprocessing, to the bit. Slices before and after it
are made in the same way and cover the whole volume. Maps are brought back to the volume's grid;
without resampling this is exact. Voxels that the model never sees are NaN.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from evaluator import placing
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.documents.model_card import DatasetFacts, ModelCard
from ixi_tfds.images.head import LEVEL, Head, find_head
from ixi_tfds.images.look import TypicalLook
from ixi_tfds.images.resampling import (
    Places,
    Weights,
    places_of,
    reached,
    resample,
    resampled_slices,
    weights,
)
from ixi_tfds.images.scaling import percentile_range, range_of_slices
from ixi_tfds.nifti import Volume, check_finite, check_window, read_volume
from ixi_tfds.system.errors import UserError

_MOST_SLICES = 10**6


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Geometry of the volumes that a model was trained on.

    Attributes:
      config: window, size and scaling of the slices.
      shape: median number of voxels along PSR; None if not recorded.
      zooms: median sides of voxels along PSR, in mm; None if not recorded.
      off_middle: median distance in mm from the middle of the head to that of a window by number,
        along right; None if not recorded.
      looks: how the volumes of each training dataset look; empty if not all are recorded.
    """

    config: SliceConfig
    shape: tuple[int, int, int] | None = None
    zooms: tuple[float, float, float] | None = None
    off_middle: float | None = None
    looks: tuple[TypicalLook, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stack:
    """A volume, and the matrices from its voxels to n slices [n, H, W] and back.

    Attributes:
      volume: the scan, in PSR.
      rule: the config of training; with a spacing if the volume is resampled.
      head: where the head lies in the volume, and the value of the background.
      slices: places of the slices along right.
      window: the slices [first, last) of the stack that are in the window of training.
      middle: where the middle of the head, for a window in mm, or of the volume lies along right,
        in mm from the centre of the first voxel.
      limits: low and high of the intensity range in scanner units, for models with volume
        scaling; None if each slice has its own.
      padding: value of pixels outside the volume, in scanner units.
      there: sparse matrices [H, posterior], [W, superior] and [n, right].
      back: sparse matrices [posterior, H], [superior, W] and [right, n].
      values: the slices in scanner units, float32 [n, H, W], if the rule has a spacing.
    """

    volume: Volume
    rule: SliceConfig
    head: Head
    slices: Places
    window: tuple[int, int]
    middle: float
    limits: tuple[float, float] | None
    padding: float
    there: Weights
    back: Weights
    values: np.ndarray | None = None

    @property
    def resampled(self) -> bool:
        """Whether voxels are resampled, not only cropped or padded."""
        return any((matrix.data != 1).any() for matrix in self.there)

    @property
    def pixels(self) -> tuple[float, float]:
        """Sides of a slice's pixel, posterior and superior, in voxels of the volume."""
        sides = self.rule.spacing or self.volume.zooms
        return sides[0] / self.volume.zooms[0], sides[1] / self.volume.zooms[1]


def training_geometry(card: ModelCard) -> Geometry:
    """The geometry in a model's card; with several datasets, that of the first, and all looks.

    Raises:
      UserError: the card does not describe the slices.
    """
    facts = next(iter(card.datasets.values()), DatasetFacts())
    if facts.slices is None or facts.slices.window[1] > _MOST_SLICES:
        raise UserError(
            "the model's card (assets.extra/model_card.json) does not tell what slices the model "
            "was trained on; export it with python -m trainer"
        )
    return geometry_of(facts.slices, facts.geometry, [d.look for d in card.datasets.values()])


def geometry_of(
    config: SliceConfig,
    volumes: manifest.Geometry | None,
    looks: Sequence[TypicalLook | None] = (),
) -> Geometry:
    """The geometry of a dataset from its manifest's slices and volumes, and looks of datasets."""
    known = tuple(look for look in looks if look is not None)
    return Geometry(
        config=config,
        shape=volumes.shape if volumes else None,
        zooms=volumes.zooms if volumes else None,
        off_middle=volumes.off_middle if volumes else None,
        looks=known if len(known) == len(looks) else (),
    )


def open_stack(path: str, geometry: Geometry, *, allow_unknown_orientation: bool = False) -> Stack:
    """Read a volume and make slices of it by the rule of a model's config.

    Args:
      path: a file of one head, with any axes and any real data type.
      geometry: geometry of training; without spacing and zooms nothing is resampled.
      allow_unknown_orientation: as for `nifti.read_volume`.

    Raises:
      ScanError: the file cannot be read, or its values are not those of a head.
    """
    volume = read_volume(path, allow_unknown_orientation=allow_unknown_orientation)
    check_finite(volume, path)
    rule = placing.rule_for(path, volume, geometry.config, geometry.zooms)
    head = find_head(volume)
    by_background = placing.pads_with_background(geometry.config)
    stack = _stack(path, volume, rule, head, head.background if by_background else 0.0)
    planes = stack.there[2][slice(*stack.window)].indices
    window = int(planes.min()), int(planes.max()) + 1
    check_window(volume, path, window)
    values = limits = None
    if rule.spacing is not None:
        values = _values(stack, as_in_training=geometry.config.spacing is not None)
    if rule.scaling == "volume" and values is None:
        limits = percentile_range(volume, dataclasses.replace(rule, window=window))
    elif rule.scaling == "volume" and values is not None:
        rows, columns = map(reached, stack.there[:2])
        limits = range_of_slices(values[slice(*stack.window)], rows, columns)
    return dataclasses.replace(stack, values=values, limits=limits)


def to_slices(stack: Stack, values: np.ndarray) -> np.ndarray:
    """Values [posterior, superior, right] on the volume's grid as slices, float64 [n, H, W].

    For a mask of 0 and 1, the result is the marked share of each pixel.
    """
    return resample(values.astype(np.float64), stack.there).transpose(2, 0, 1)


def scanner_slices(stack: Stack, first: int, last: int) -> np.ndarray:
    """Slices [first, last) of the stack in scanner units, float32 or float64 [n, H, W]."""
    if stack.values is not None:
        return stack.values[first:last]
    planes = stack.volume.scaled(stack.volume.voxels[:, :, first:last])
    p, s, r = stack.there
    slices = resample(planes, (p, s, r[first:last, first:last]), stack.padding)
    return slices.transpose(2, 0, 1)


def from_slices(
    stack: Stack,
    slices: np.ndarray,
    *,
    given: np.ndarray | None = None,
    planes: np.ndarray | None = None,
    unseen: float = np.nan,
) -> np.ndarray:
    """Slices on the volume's grid, float [posterior, superior, right] of the same precision.

    Args:
      stack: where the slices lie.
      slices: [n, H, W]: all slices, or those of `given`.
      given: indices of the slices, in order; None for all. The others count as unseen.
      planes: indices of the planes of the volume that are wanted; None for all.
      unseen: value of voxels that no slice reaches.
    """
    p, s, r = stack.back
    if given is not None:
        r = _without(r, ~np.isin(np.arange(r.shape[1]), given))[:, given]
    if planes is not None:
        r = r[planes]
    return resample(slices.transpose(1, 2, 0), (p, s, r), unseen)


def planes_in_window(stack: Stack) -> np.ndarray:
    """Which planes of the volume lie in the window of training, bool [right]."""
    side, (first, last) = stack.slices.side, stack.window
    low, high = (stack.slices.first + (edge - 0.5) * side for edge in (first, last))
    places = np.arange(stack.volume.voxels.shape[2]) * stack.volume.zooms[2]
    nearly = 1e-6 * side
    return (low - nearly <= places) & (places < high - nearly)


def seen(stack: Stack) -> np.ndarray:
    """What the model sees of a volume, uint8 [posterior, superior, right].

    It is 2 in the window of training, 1 in other slices, and 0 where the model sees nothing.
    """
    p, s, r = map(reached, stack.back)
    depth = np.where(planes_in_window(stack), np.uint8(2), np.uint8(1)) * r
    return np.multiply.outer(np.outer(p, s), depth)


def share_of_head(stack: Stack) -> float:
    """Share of the head that the model sees, from 0 to 1, counted on voxels 3 mm apart."""
    volume, head = stack.volume, stack.head
    picked = tuple(
        slice(max(0, int(np.ceil(low))), int(high) + 1, max(1, int(3 / side)))
        for low, high, side in zip(head.low, head.high, volume.zooms, strict=True)
    )
    distance = np.abs(volume.scaled(volume.voxels[picked]) - head.background)
    foreground = distance > LEVEL * np.percentile(distance, 99)
    shown = [reached(matrix)[part] for matrix, part in zip(stack.back, picked, strict=True)]
    counted = foreground[np.ix_(*shown)].sum()
    return float(counted / max(1, foreground.sum()))


def _stack(path: str, volume: Volume, rule: SliceConfig, head: Head, padding: float) -> Stack:
    """The geometry of a stack, without values and limits."""
    rows, columns, slices, first = placing.grid(volume, rule, head)
    voxels = places_of(volume)
    p, s, r = weights((rows, columns, slices), voxels)
    # Pixels outside the volume show nothing of it, and give nothing back.
    shown = reached(p), reached(s), reached(r)
    window = placing.window(path, volume, rule, np.flatnonzero(shown[2]) + first)
    backwards = weights(voxels, (rows, columns, slices))
    back = [_without(matrix, ~keep) for matrix, keep in zip(backwards, shown, strict=True)]
    start = slices.first + int(np.argmax(shown[2])) * slices.side
    return Stack(
        volume=volume,
        rule=rule,
        head=head,
        slices=Places(int(shown[2].sum()), slices.side, start),
        window=window,
        middle=placing.middle(volume, rule, head),
        limits=None,
        padding=padding,
        there=(p, s, r[shown[2]]),
        back=(back[0], back[1], back[2][:, shown[2]]),
    )


def _without(matrix: scipy.sparse.csr_array, dropped: np.ndarray) -> scipy.sparse.csr_array:
    """The matrix without the columns that are dropped, their weight given to those left."""
    kept = matrix.tocoo()
    data = np.where(dropped[kept.col], 0.0, kept.data)
    left = data > 0
    data, row, col = data[left], kept.row[left], kept.col[left]
    totals = np.bincount(row, weights=data, minlength=matrix.shape[0])
    return scipy.sparse.csr_array((data / totals[row], (row, col)), shape=matrix.shape)


def _values(stack: Stack, *, as_in_training: bool) -> np.ndarray:
    """The slices of a rule with a spacing, float32 [n, H, W] in scanner units."""
    volume = stack.volume
    # As in preprocessing, means of stored voxels are scaled.
    padding = (stack.padding - volume.inter) / volume.slope
    made = resample(volume.voxels.astype(np.float32, order="F"), stack.there, padding)
    values = volume.scaled(made.transpose(2, 0, 1)).astype(np.float32)
    complete = stack.window[1] - stack.window[0] == stack.rule.slices_per_volume
    if as_in_training and complete:
        # A product along the axes in another order would round differently.
        values[slice(*stack.window)] = resampled_slices(volume, stack.rule, stack.head)
    return values
