"""How a dataset's slices are made: window, size and intensity scaling."""

import dataclasses
import re
from collections.abc import Sequence

from ixi_tfds.system.errors import UserError

VERSION = "1.0.0"
"""Version of the preprocessing and of its datasets.

It changes whenever the same scan would give different bytes.
"""

SCALINGS = ("slice", "volume", "tissue")
PLANES = ("sagittal", "axial", "coronal")
MOST_COPIES = 20

_WHOLE = 0.01  # of a slice; a window in mm is rounded where it is written


@dataclasses.dataclass(frozen=True)
class SliceConfig:
    """How a volume, in the axes of IXI (PSR), becomes slices.

    Attributes:
      name: name of the dataset's folder; lower-case letters, digits and underscores.
      in_plane: required (posterior, superior) voxels of a volume; None accepts any.
      size: (height, width) of a stored slice. Volumes of another size are padded with scanner
        zeros or cropped, equally on both sides (an odd voxel at the end).
      window: slices `[first, last)` of the last (right) axis.
      scaling: "slice" stretches each slice to its own extrema; "volume" scales all slices of a
        volume by one robust percentile range of the window's voxels; "tissue" keeps the brain
        only, on the scale of `images.tissue`, in a box around its middle.
      spacing: sides of a voxel along posterior, superior and right, in mm, to which every volume is
        resampled before slicing; None keeps the volume's own voxels.
      window_mm: the window in mm along right, `[first, last)` around the middle of the head, which
        is then also the middle of the slices' planes. It needs `spacing`; `window` is then `(0, n)`
        for the n slices in it. None: the window is by slice number.
      padding: "background" pads planes with the value of the scan's background; None, the rule of
        earlier versions and of the published configs, with scanner zeros.
      plane: "axial" or "coronal"; None for sagittal. Only with scaling "tissue". Rows and columns
        of axial slices run to posterior and right, of coronal ones to superior and right; axial
        slices are numbered to superior, coronal ones to posterior.
      copies: number of moved copies of each training volume; None for none. Only with scaling
        "tissue".
    """

    name: str
    in_plane: tuple[int, int] | None = (256, 256)
    size: tuple[int, int] = (256, 256)
    window: tuple[int, int] = (50, 110)
    scaling: str = "slice"
    spacing: tuple[float, float, float] | None = None
    window_mm: tuple[float, float] | None = None
    padding: str | None = None
    plane: str | None = None
    copies: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                f"config name {self.name!r}: use lower-case letters, digits and underscores"
            )
        if not 0 <= self.window[0] < self.window[1]:
            raise UserError(f"slice window {self.window}: give FIRST:LAST with 0 <= FIRST < LAST")
        for sides in (self.size, self.in_plane or self.size):
            if min(sides) < 1 or max(sides) > 4096:
                raise UserError(f"size {sides}: both sides must be between 1 and 4096")
        if self.scaling not in SCALINGS:
            raise UserError(f"scaling {self.scaling!r}: choose one of {', '.join(SCALINGS)}")
        if self.padding not in (None, "background"):
            raise UserError(f"padding {self.padding!r}: must be 'background' or absent")
        self._check_spacing()
        self._check_brain()

    def _check_spacing(self) -> None:
        if self.spacing and not all(0.05 <= side <= 50 for side in self.spacing):
            raise UserError(f"spacing {self.spacing}: sides of a voxel are from 0.05 to 50 mm")
        if self.window_mm is None:
            return
        if self.spacing is None:
            raise UserError("a slice window in mm needs a spacing in mm")
        n = slices_in(self.window_mm, self.spacing)
        if self.window != (0, n):
            raise UserError(f"slice window {self.window}: {self.window_mm} mm are {n} slices")

    def _check_brain(self) -> None:
        if self.plane not in (None, *PLANES[1:]):
            raise UserError(f"plane {self.plane!r}: choose one of {', '.join(PLANES)}")
        if self.copies is not None and not 1 <= self.copies <= MOST_COPIES:
            raise UserError(f"copies {self.copies}: from 1 to {MOST_COPIES}")
        if self.scaling != "tissue":
            if self.plane or self.copies:
                raise UserError("only the scaling by tissue has planes and copies")
            return
        if self.spacing is None or self.window_mm or self.window[0]:
            raise UserError(
                "the scaling by tissue needs a spacing, and slices by number from 0, which lie "
                "around the middle of the brain"
            )

    @property
    def box(self) -> tuple[int, int, int]:
        """Voxels along posterior, superior and right of the box that the slices are cut from."""
        (height, width), n = self.size, self.slices_per_volume
        if self.plane == "axial":
            return height, n, width
        return (n, height, width) if self.plane == "coronal" else (height, width, n)

    @property
    def slices_per_volume(self) -> int:
        """Number of slices per volume."""
        return self.window[1] - self.window[0]

    def slices_of_a_volume(self, split: str) -> int:
        """Number of slices of each volume in a split, those of its moved copies included."""
        return self.slices_per_volume * (1 + (self.copies or 0) * (split == "train"))

    @property
    def description(self) -> str:
        """The config in a sentence."""
        scaled = {
            "slice": "each slice stretched to its own extrema",
            "volume": "one robust percentile range a volume",
            "tissue": "one scale of tissues a volume",
        }[self.scaling]
        padded = f", padded with the {self.padding}" if self.padding else ""
        return (
            f"slices {self._taken}, stored as {self.size[0]}x{self.size[1]}{padded}, 8 bits, "
            f"{scaled}"
        )

    @property
    def _taken(self) -> str:
        """Which slices are taken, by number or in mm, and of what volumes."""
        if self.scaling == "tissue":
            return (
                f"{self.slices_per_volume} {self.plane or PLANES[0]} ones around the middle of "
                f"the brain, of brains resampled to {in_words(self.spacing or ())} mm"
            )
        by_number = f"[{self.window[0]}, {self.window[1]})"
        if self.spacing is None:
            plane = "any in-plane size" if self.in_plane is None else in_words(self.in_plane)
            return f"{by_number} of {plane}"
        resampled = f"of volumes resampled to {in_words(self.spacing)} mm"
        if self.window_mm is None:
            return f"{by_number} {resampled}"
        first, last = self.window_mm
        return f"[{first:g} mm, {last:g} mm) around the middle of the head, {resampled}"


def in_words(sides: Sequence[float]) -> str:
    """Sides of a plane or of a voxel, such as 256x256 or 0.9375x0.9375x1.2."""
    return "x".join(f"{side:.4g}" for side in sides)


def slices_in(window_mm: tuple[float, float], spacing: tuple[float, float, float]) -> int:
    """Number of slices in a window in mm.

    Raises:
      UserError: the window is empty or no whole number of slices, or no head is as large.
    """
    (first, last), side = window_mm, spacing[2]
    if not -500 <= first < last <= 500:
        raise UserError(
            f"slice window {first:g}mm:{last:g}mm: give FIRSTmm:LASTmm around the middle of the "
            "head, with FIRST < LAST"
        )
    n = max(1, round((last - first) / side))
    if abs((last - first) / side - n) > _WHOLE:
        middle, half = (first + last) / 2, n * side / 2
        raise UserError(
            f"slice window {first:g}mm:{last:g}mm: give a whole number of slices: {n} slices of "
            f"{side:g} mm are {middle - half:g}mm:{middle + half:g}mm"
        )
    return n


THESIS = SliceConfig(name="thesis", scaling="slice")
VOLUME_SCALED = SliceConfig(name="volume_scaled", scaling="volume")


def _brain(side: int, plane: str) -> SliceConfig:
    """The config of brains in a plane; the box holds all 62 brains of IXI that were measured."""
    p, s, r = 208 // side, 160 // side, 160 // side
    size, n = {
        "sagittal": ((p, s), r),
        "axial": ((p, r), s),
        "coronal": ((s, r), p),
    }[plane]
    return SliceConfig(
        name=f"brain_{side}mm_{plane}",
        in_plane=None,
        size=size,
        window=(0, n),
        scaling="tissue",
        spacing=(float(side), float(side), float(side)),
        plane=None if plane == PLANES[0] else plane,
    )


BRAINS = tuple(_brain(side, plane) for side in (2, 1) for plane in PLANES)
CONFIGS = {config.name: config for config in (THESIS, VOLUME_SCALED, *BRAINS)}
