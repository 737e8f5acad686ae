"""Views of scans that a model has reconstructed; `evaluator.viewer` draws them."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evaluator import scan_facts, viewer, volumes
from ixi_tfds.system import storage


def write_view(
    folder: pathlib.Path,
    name: str,
    stack: volumes.Stack,
    anomaly: np.ndarray,
    facts: dict[str, Any],
    lesion: np.ndarray | None = None,
) -> None:
    """Write the view of a scan.

    Args:
      folder: an existing folder.
      name: the start of the files' names.
      stack: the scan.
      anomaly: its anomaly map on the volume's grid.
      facts: what `scan_facts.describe` says of the scan, and `warnings`.
      lesion: mask on the same grid, to be outlined.
    """
    rows = {
        "Scan": facts["input"],
        "Model": facts["model"],
        "SHA-256 of the model": facts["model_sha256"],
        "Window of training": scan_facts.window_in_words(facts),
        "Voxels": "resampled to the model's grid, and the map back" if stack.resampled else "as is",
        "Head seen by the model": f"{facts['share_of_head_seen']:.0%}",
    }
    side, places = stack.volume.zooms[2], stack.slices
    # From middles of slices to edges of voxels.
    window = [(places.first + (edge - 0.5) * places.side) / side + 0.5 for edge in stack.window]
    viewer.write_view(
        folder,
        name,
        stack.volume,
        anomaly,
        window=(window[0], window[1]),
        meaning=facts["anomaly"],
        facts=rows,
        lesion=lesion,
        warnings=facts["warnings"],
    )


def views_into(folder: pathlib.Path, facts: dict[str, Any]) -> Callable[..., None]:
    """A function that writes the view of a volume and adds its name to `facts`.

    Its arguments are those of `lesions.tallies.View`. The first view replaces the folder.
    """

    def write(
        subject: str,
        stack: volumes.Stack,
        anomaly: np.ndarray,
        lesion: np.ndarray,
        said: dict[str, Any],
    ) -> None:
        write_view(folder, add_name(folder, subject, facts), stack, anomaly, said, lesion)

    return write


def add_name(folder: pathlib.Path, subject: str, facts: dict[str, Any]) -> str:
    """The name of a person's view, added to `facts`; the first replaces the folder."""
    if "views" not in facts:
        storage.remove_tree(folder)
        folder.mkdir(parents=True)
    name = subject.replace("/", "_")
    facts.setdefault("views", []).append(name)
    return name
