"""Flags of a config: which slices of which volumes, by number or in mm, and how they are stored."""

import dataclasses
import math
import re

from ixi_tfds.config import CONFIGS, MOST_COPIES, PLANES, SCALINGS, SliceConfig, slices_in
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

PADDING = "background"
"""Padding of configs of the user's own. Those of earlier versions were padded with zeros."""

_MILLIMETRES = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?)mm:([-+]?[0-9]+(?:\.[0-9]+)?)mm")


@dataclasses.dataclass(frozen=True)
class SliceFlags:
    """The name of a config, and the geometry of a config of the user's own."""

    config: str = flag(f"Name of the config: {', '.join(CONFIGS)}, or your own.", "thesis")
    in_plane: str | None = flag(
        "Voxels (posterior x superior) a volume must have, or 'any'. --size is the default.", None
    )
    size: str | None = flag("Height x width of stored slices; others are padded or cropped.", None)
    slices: str | None = flag(
        "Slices FIRST:LAST of the right axis to store, without LAST. With --spacing also in mm "
        "around the middle of the head, as in -36mm:36mm.",
        None,
    )
    spacing: str | None = flag(
        "Resample every volume to voxels of this size in mm before slicing: 2, or 2x2x2 for "
        "posterior x superior x right.",
        None,
    )
    scaling: str | None = flag(
        "Scale to 8 bits by slice, by volume, or by tissue, which keeps the brain only.",
        None,
        choices=SCALINGS,
    )
    plane: str | None = flag(
        "Plane of the slices with --scaling=tissue; sagittal by default.",
        None,
        choices=PLANES,
    )
    copies: int = flag(
        "With --scaling=tissue, store so many copies of each training volume, each turned, scaled, "
        "shifted and perhaps mirrored at random.",
        0,
        least=0,
        most=MOST_COPIES,
    )

    def slice_config(self) -> SliceConfig:
        """The config that the flags name and describe.

        Raises:
          UserError: an unknown name without a geometry, or a geometry under a known name.
        """
        if self.config in CONFIGS:
            for name in ("slices", "size", "in_plane", "spacing", "scaling", "plane"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name}: the config {self.config} is fixed; name a geometry of your own "
                        "by another --config"
                    )
            return self._with_copies(CONFIGS[self.config])
        if not (self.slices and self.size):
            raise UserError(
                f"--config={self.config}: not one of {', '.join(CONFIGS)}; a config of your own "
                "needs --slices and --size"
            )
        if self.in_plane and self.spacing:
            raise UserError("--in_plane: not with --spacing, which takes volumes of any size")
        size = _pair("size", self.size, "x")
        in_plane: tuple[int, int] | None = size
        if self.in_plane == "any" or self.spacing:
            in_plane = None
        elif self.in_plane:
            in_plane = _pair("in_plane", self.in_plane, "x")
        spacing = _spacing(self.spacing) if self.spacing else None
        window, window_mm = _window(self.slices, spacing)
        made = SliceConfig(
            name=self.config,
            in_plane=in_plane,
            size=size,
            window=window,
            scaling=self.scaling or "slice",
            spacing=spacing,
            window_mm=window_mm,
            padding=None if self.scaling == "tissue" else PADDING,
            plane=None if self.plane == PLANES[0] else self.plane,
        )
        return self._with_copies(made)

    def _with_copies(self, config: SliceConfig) -> SliceConfig:
        return dataclasses.replace(config, copies=self.copies) if self.copies else config


def _spacing(text: str) -> tuple[float, float, float]:
    """The three sides of a voxel in `--spacing`."""
    try:
        sides = [float(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 3) or not all(0 < side < math.inf for side in sides):
        raise UserError(f"--spacing={text}: give a side in mm as in 2, or three as in 2x2x2")
    posterior, superior, right = sides if len(sides) == 3 else sides * 3
    return posterior, superior, right


def _window(
    text: str, spacing: tuple[float, float, float] | None
) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """`window` and `window_mm` of a config, from `--slices`."""
    if "mm" not in text:
        return _pair("slices", text, ":"), None
    found = _MILLIMETRES.fullmatch(text)
    if not found:
        raise UserError(f"--slices={text}: give a window in mm as in -36mm:36mm")
    if spacing is None:
        raise UserError(f"--slices={text}: a window in mm needs --spacing, such as --spacing=2")
    window_mm = float(found[1]), float(found[2])
    return (0, slices_in(window_mm, spacing)), window_mm


def _pair(flag: str, text: str, separator: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise UserError(f"--{flag}={text}: give two numbers as in 1{separator}2")
    return int(first), int(second)
