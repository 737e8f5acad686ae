"""How a scan looks, in a few numbers, and whether it is unlike the scans of a dataset.

A coarse grid of voxels finds the head. Then rays run from the middle of its upper part to its
surface. On each ray a whole head shows scalp, then a dark shell (skull and fluid), then brain. A
skull-stripped head begins with brain. Depths along a ray are in hundredths of the head's width, so
a small head looks like a large one. Values are differences from the background, so neither a shift
or factor of all values nor padding changes a number.

The bounds below were measured on real heads, whole and stripped: docs/new_scans.md has the numbers,
and benchmarks/look.py measures them again.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from ixi_tfds.images.head import Head, find_head, tilt_of
from ixi_tfds.nifti import Volume
from ixi_tfds.system.errors import UserError

BETWEEN_KINDS = 0.65
"""`Look.shell` of stripped heads is below this, of whole heads above.

Measured: 0.91 to 1.00 in 63 whole IXI heads, 0.06 to 0.44 in 9 stripped ones of 4 sources.
"""

SHELL = 0.25
"""A head is unlike others by its shell if `Look.shell` differs from theirs by more than this."""

RIM = 0.85
"""A head without a dark shell has a bright one (bone in CT) if `Look.rim` is larger by this.

Measured: at most 1.72 in whole T1 heads, where those of 2 mm allow 1.85; 1.95 in CT-like ones.
"""

TAIL = 0.25
"""Contrast differs if `Look.tail` does by more than this.

Measured: 0.20 to 0.39 in whole T1 heads, at least 0.16 in stripped ones (0.66 with an enhancing
tumour), 0.64 to 0.80 in inverted ones, 0.75 in a real T2 scan.
"""

CORTEX = 0.25
"""Contrast differs if `Look.cortex` does by more than this; compared among heads of one kind.

Measured: 0.66 to 0.95 in whole T1 heads, 1.07 to 1.19 in FLAIR-like ones, 1.21 in a real T2 scan.
"""

SPREAD = 2.0
"""Contrast differs if `Look.spread` is this many times smaller or larger, or `Look.rim` larger.

Measured: 0.55 to 1.03 in whole T1 heads, 0.03 in CT-like ones, 0.25 in a real proton density scan.
"""

CUT = 0.1
"""Part of the head is missing if `Look.cut` is larger by more than this.

Measured: 0 in whole heads, 0.16 to 0.42 where the top or a side is cut off.
"""

SIZE = 1.4
"""A head is too large or small if `Look.breadth` differs by more than this factor.

Measured: 0.91 to 1.08 times the median in whole heads, 0.78 to 0.86 in stripped ones.
"""

HEIGHT = 0.85
"""The field of view is too low if it shows less than this share of the height of others.

Measured: 161 to 166 mm in whole heads, of which no more than 170 mm count.
"""

COARSE = 2.0
"""Voxels are coarse if their longest side is more than this many times that of others."""

TILT = 15.0
"""A volume is oblique if it is tilted by more degrees than this, and more than others by 5."""

SHEAR = 2.0
"""A volume is sheared if its axes deviate from right angles by more degrees than others by this."""

TRAINING_HEADS = "the training heads"
"""What a scan is compared with, in words."""

_COARSE_MM = 8.0
_RAYS = 64
_SAMPLES = 96  # along a ray, hundredths of the head's width apart
_MIDDLE = 0.5  # of the rays, below the top of the head, in widths
_CORE = 40  # samples next to the middle: brain, in whole and in stripped heads
_SURFACE = 0.2  # of the core's median: outside the surface, rays are below this
_EDGE = 3  # a ray is cut if the head reaches so many samples near to the end of the volume
_DEPTHS = 45
_SHELL = slice(3, 22)  # depths at which a skull may be
_BEYOND = 15  # samples beyond the shell that tell how bright the brain is
_CORTEX = slice(14, 24)  # depths of the outer brain of a whole head
_DARK = 0.6
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_RANGE = (10, 90)  # percentiles: a tenth of other heads in a dataset do not make it less strict


@dataclasses.dataclass(frozen=True)
class Look:
    """How a scan looks. Lists are along posterior, superior and right.

    Attributes:
      zooms: sides of a voxel, in mm.
      extent: sides of the box around the head, in mm; of a head with a neck, the top 170 mm.
      tilt: of the head in the scanner, by the affine, from `head.tilt_of`, in degrees.
      shear: largest deviation of two axes of the volume from a right angle, in degrees.
      cut: share of the rays on which the volume ends before the head does.
      shell: share of the other rays on which a shell lies between surface and brain that has less
        than 0.6 times the value on either side.
      rim: largest value near the surface, in multiples of the core's median; median of the rays.
      cortex: median at the depth of the cortex, in multiples of the core's.
      histogram: percentiles 5, 25, 50, 75 and 95 of the core, in multiples of its median size. All
        are negative if the head is darker than the background.
    """

    zooms: tuple[float, float, float]
    extent: tuple[float, float, float]
    tilt: float
    shear: float
    cut: float
    shell: float
    rim: float
    cortex: float
    histogram: tuple[float, float, float, float, float]

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, _numbers(self))) and min(*self.zooms, *self.extent) >= 0):
            raise UserError(f"{self} is not how a scan looks")

    @property
    def spread(self) -> float:
        """Distance of the outer percentiles of the core."""
        return self.histogram[-1] - self.histogram[0]

    @property
    def tail(self) -> float:
        """Share of the spread above the median: small if the commonest tissue is the brightest."""
        return (self.histogram[-1] - self.histogram[2]) / self.spread if self.spread else 0.5

    @property
    def breadth(self) -> float:
        """Geometric mean of length and width of the head, in mm."""
        return float(np.sqrt(self.extent[0] * self.extent[2]))


@dataclasses.dataclass(frozen=True)
class TypicalLook:
    """The range of each number of the looks of a dataset: its percentiles 10 and 90."""

    low: Look
    high: Look


def look_of(volume: Volume) -> Look:
    """How a volume with finite voxels looks; it reads about 1% of the voxels of a 1 mm head."""
    head = _find_head(volume)
    rays, inside = _rays(volume, head)
    rays /= np.median(np.abs(rays[:, :_CORE])) or 1.0
    profiles, cut = _from_surface(rays, inside)
    shell, rim, cortex = _layers(profiles[~cut]) if not cut.all() else (0.0, 0.0, 0.0)
    axes = volume.affine[:3, :3] / volume.zooms
    shear = np.degrees(np.arcsin(np.minimum(1.0, np.abs(np.triu(axes.T @ axes, 1))))).max()
    extent = np.subtract(head.high, head.low) * volume.zooms
    core = np.sort(rays[:, :_CORE], axis=None)
    histogram = core[[round(share * (core.size - 1)) for share in _SHARES]]
    outside = [tilt_of(volume.affine), float(shear), float(cut.mean()), shell, rim, cortex]
    return _look([*volume.zooms, *extent.tolist(), *outside, *histogram.tolist()])


def typical(looks: Sequence[Look]) -> TypicalLook | None:
    """The typical look of a dataset's volumes; None without volumes."""
    return _typical(np.array([_numbers(look) for look in looks])) if looks else None


def unlike_the_rest(looks: Sequence[Look]) -> list[list[str]]:
    """For each of a dataset's volumes, what differs between it and all others; as `unlike`."""
    if len(looks) < 2:
        return [[] for _ in looks]
    others = _typical_of_others(np.array([_numbers(look) for look in looks]))
    pairs = zip(looks, others, strict=True)
    return [unlike(look, [typical_other], "the other heads") for look, typical_other in pairs]


def unlike(look: Look, known: Sequence[TypicalLook], others: str = TRAINING_HEADS) -> list[str]:
    """What differs between a scan and the scans of each of several datasets, in a clause each.

    Empty if it looks like those of one of them; else the shortest list. `others` names the
    scans of the datasets.
    """
    return min((_differences(look, one, others) for one in known), key=len, default=[])


def _differences(look: Look, known: TypicalLook, others: str) -> list[str]:
    low, high = known.low, known.high
    cut = look.cut > high.cut + CUT
    resized = not low.breadth / SIZE < look.breadth < high.breadth * SIZE
    without_shell = look.shell < min(BETWEEN_KINDS, low.shell - SHELL)
    bone = without_shell and look.rim > high.rim + RIM
    whole = look.shell > max(BETWEEN_KINDS, high.shell + SHELL)
    comparable = not (without_shell or whole or cut or resized)
    found = {
        f"looks skull-stripped, unlike {others}": without_shell and not bone,
        f"looks like a whole head, and {others} are skull-stripped": whole,
        f"has another contrast than {others} (another sequence, modality or a label map?)": bone
        or _contrast_differs(look, low, high, comparable),
        f"lacks part of the head: it ends at the edge of the volume on {look.cut:.0%} of rays": cut,
        f"the head is {look.extent[0]:.0f} mm long and {look.extent[2]:.0f} mm wide, that of "
        f"{others} {_span(low, high, 0)} and {_span(low, high, 2)} mm": resized,
        f"shows {look.extent[1]:.0f} mm of the head from its top down, {others} "
        f"{_span(low, high, 1)} mm": comparable and look.extent[1] < HEIGHT * low.extent[1],
        f"has voxels of up to {max(look.zooms):.3g} mm, {others} of up to "
        f"{max(high.zooms):.3g} mm": max(look.zooms) > COARSE * max(high.zooms),
        f"is oblique: tilted by {look.tilt:.0f} degrees": look.tilt > max(TILT, high.tilt + 5),
        f"is sheared: its axes are {look.shear:.1f} degrees off right angles": look.shear
        > high.shear + SHEAR,
    }
    return [clause for clause, holds in found.items() if holds]


def _contrast_differs(look: Look, low: Look, high: Look, comparable: bool) -> bool:
    """Whether the core's values differ; those of the cortex count in comparable heads only."""
    return (
        (look.histogram[2] < 0) != (low.histogram[2] < 0)
        or not low.tail - TAIL < look.tail < high.tail + TAIL
        or look.spread < low.spread / SPREAD
        or (comparable and look.spread > high.spread * SPREAD)
        or (comparable and look.rim > high.rim * SPREAD)
        or (comparable and not low.cortex - CORTEX < look.cortex < high.cortex + CORTEX)
    )


def _numbers(look: Look) -> list[float]:
    """All numbers of a look, in the order of `_look`."""
    outside = [look.tilt, look.shear, look.cut, look.shell, look.rim, look.cortex]
    return [*look.zooms, *look.extent, *outside, *look.histogram]


def _typical(numbers: np.ndarray) -> TypicalLook:
    low, high = np.percentile(numbers, _RANGE, axis=0).tolist()
    return TypicalLook(low=_look(low), high=_look(high))


def _typical_of_others(numbers: np.ndarray) -> Iterator[TypicalLook]:
    """For each row, `_typical` of all other rows."""
    # Which row is left out matters by its rank, and only near the percentiles: a few ranks stand
    # for all rows.
    near = np.floor(np.multiply(_RANGE, (len(numbers) - 2) / 100)) + np.arange(-1, 4)[:, None]
    ranks = np.unique(np.clip([*near.flat, len(numbers) - 1], 0, len(numbers) - 1)).astype(int)
    ranked = np.sort(numbers, axis=0)
    ends = [np.percentile(np.delete(ranked, one, axis=0), _RANGE, axis=0) for one in ranks]
    places = np.searchsorted(ranks, numbers.argsort(axis=0).argsort(axis=0))
    for low, high in np.take_along_axis(np.array(ends), places[:, None], axis=0).tolist():
        yield TypicalLook(low=_look(low), high=_look(high))


def _span(low: Look, high: Look, axis: int) -> str:
    ends = [f"{look.extent[axis]:.0f}" for look in (low, high)]
    return " to ".join(dict.fromkeys(ends))


def _look(values: Sequence[float]) -> Look:
    """A look from all its numbers in their order, rounded to four digits."""
    v = [round(value, 4) for value in values]
    return Look(
        zooms=(v[0], v[1], v[2]),
        extent=(v[3], v[4], v[5]),
        tilt=v[6],
        shear=v[7],
        cut=v[8],
        shell=v[9],
        rim=v[10],
        cortex=v[11],
        histogram=(v[12], v[13], v[14], v[15], v[16]),
    )


def _find_head(volume: Volume) -> Head:
    """The head in voxels of the volume, found in a coarse grid of them."""
    shape = np.array(volume.voxels.shape)
    steps = np.clip(_COARSE_MM / np.array(volume.zooms), 1, shape).astype(int)
    starts = (shape - 1) % steps // 2
    picked = tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
    affine = volume.affine.copy()
    affine[:3, :3] *= steps
    coarse = dataclasses.replace(volume, voxels=volume.voxels[picked], affine=affine)
    head = find_head(coarse, every_mm=0.0)
    low, high = (tuple((np.array(end) * steps + starts).tolist()) for end in (head.low, head.high))
    return dataclasses.replace(head, low=low, high=high)


def _rays(volume: Volume, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Values along rays over the upper half sphere, from its middle outwards.

    Returns:
      Differences from the background, float64 [rays, samples], 0 outside the volume; and the
      number of samples inside of it, int [rays].
    """
    low, high = np.array(head.low) * volume.zooms, np.array(head.high) * volume.zooms
    width = high[2] - low[2]
    middle = (low + high) / 2
    middle[1] = high[1] - _MIDDLE * width
    places, inside = [], np.ones(_STEPS.shape[1:], bool)
    for axis, (n, side) in enumerate(zip(volume.voxels.shape, volume.zooms, strict=True)):
        at = np.rint(_STEPS[axis] * (width / 100 / side) + middle[axis] / side).astype(np.int32)
        inside &= (at >= 0) & (at < n)
        places.append(np.clip(at, 0, n - 1, out=at))
    values = volume.scaled(volume.voxels[tuple(places)]) - head.background
    values[~inside] = 0.0
    return values, inside.sum(axis=1)


def _from_surface(rays: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of values by depth below the surface, [rays, depths], and which rays are cut, bool."""
    sizes = np.abs(rays)
    outside = sizes <= _SURFACE
    # Two samples in a row: a single one may be noise.
    bright = ~(outside[:, :-1] | outside[:, 1:])
    surface = _SAMPLES - 1 - np.argmax(bright[:, ::-1], axis=1)
    cut = (inside < _SAMPLES) & (surface >= inside - _EDGE)
    places = np.maximum(surface[:, None] - np.arange(_DEPTHS), 0)
    return np.take_along_axis(sizes, places, axis=1), cut


def _layers(profiles: np.ndarray) -> tuple[float, float, float]:
    """`shell`, `rim` and `cortex` of a look from values by depth [rays, depths]."""
    near = profiles[:, _SHELL]
    at = _SHELL.start + near.argmin(axis=1)[:, None]
    outer = np.where(np.arange(_DEPTHS) < at, profiles, 0.0).max(axis=1)
    beyond = np.minimum(at + np.arange(_BEYOND), _DEPTHS - 1)
    inner = np.median(np.take_along_axis(profiles, beyond, axis=1), axis=1)
    dark = near.min(axis=1) < _DARK * np.minimum(outer, inner)
    rim = np.median(profiles[:, _SHELL.start - 1 : _SHELL.stop].max(axis=1))
    return float(dark.mean()), float(rim), float(np.median(profiles[:, _CORTEX]))


def _half_sphere() -> np.ndarray:
    """Steps along evenly spread rays, [3, rays, samples]: posterior, superior, right."""
    index = np.arange(_RAYS) + 0.5
    height, turn = index / _RAYS, index * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    directions = np.stack([radius * np.cos(turn), height, radius * np.sin(turn)])
    return (directions[:, :, None] * np.arange(_SAMPLES)).astype(np.float32)


_STEPS = _half_sphere()
