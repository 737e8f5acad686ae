"""Views of a scan and its anomaly map: a page to move through, and a picture to print."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epy

from evaluator.viewer.page import render
from evaluator.viewer.shown import ABOVE as ABOVE
from evaluator.viewer.shown import shown_of
from ixi_tfds.nifti import Volume
from ixi_tfds.system.files import write_bytes, write_text

with epy.lazy_imports():
    from evaluator.viewer import picture

SUFFIXES = ("_view.html", "_view.png")


def write_view(
    folder: pathlib.Path,
    name: str,
    volume: Volume,
    anomaly: np.ndarray,
    *,
    window: tuple[float, float],
    meaning: str,
    facts: Mapping[str, str],
    lesion: np.ndarray | None = None,
    warnings: Sequence[str] = (),
    levels: tuple[float, float] | None = None,
) -> None:
    """Write `NAME_view.html` and `NAME_view.png` into a folder, each complete or not at all.

    Args:
      folder: an existing folder.
      name: the start of the files' names; also the title of the page.
      volume: the scan.
      anomaly: anomaly map in scanner units, or mark from -1 to 1, [posterior, superior, right] on
        the grid of `volume.voxels`, NaN where the model never saw the voxel.
      window: the window of training [first, last) along right, in voxels; may be fractions.
      meaning: one sentence on what the anomaly map is.
      facts: what else to say, such as the model's name and digest; label and value of each row.
      lesion: mask on the same grid, to be outlined.
      warnings: what to know before trusting the map; above all else.
      levels: given for the mark of an ensemble, which has no window: the absolute mark below which
        the overlay is transparent at first, and at which its colours saturate. None takes
        percentiles, see `shown.shown_of`.

    Raises:
      OSError: a file cannot be written.
    """
    shown = shown_of(volume, anomaly, window=window, lesion=lesion, levels=levels)
    write_text(folder / f"{name}{SUFFIXES[0]}", render(shown, name, meaning, facts, warnings))
    write_bytes(folder / f"{name}{SUFFIXES[1]}", picture.draw(shown, name, facts, warnings))


def remove_view(folder: pathlib.Path, name: str) -> None:
    """Remove an earlier view of the same name, which would not fit new maps."""
    for suffix in SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
