"""What `python -m evaluator reconstruct` says of a scan: the JSON file, warnings, the summary."""

from typing import Any

import numpy as np

from evaluator import map_files, placing, volumes
from evaluator.models import Model
from evaluator.volumes import Geometry, Stack
from ixi_tfds.images.look import TRAINING_HEADS

LEAST_SEEN = 0.95
"""A warning is given if the model sees a smaller share of the head."""

MOST_OFF_MM = 10.0
"""A warning is given if the window lies farther from its place in the heads of training.

In 67 heads of IXI it is off by 3 mm at most, in files with a wider field of view by 30 mm.
"""

EXACT = "input minus reconstruction, in the units of the input"
BROUGHT_BACK = (
    "residual on the model's grid (resampled slices minus their reconstruction), brought back to "
    "the scan's grid, in the units of the input; it is not input minus reconstruction, which would "
    "show the blur of resampling at every edge"
)


def describe(
    model: Model,
    geometry: Geometry,
    stack: Stack,
    name: str,
    unlike: list[str] | None,
    heads: str = TRAINING_HEADS,
) -> dict[str, Any]:
    """The JSON's content on a scan as a whole.

    `name` is that of its file; `unlike` comes from `looks.differences`, and `heads` names what the
    scan was compared with.
    """
    facts = _placed(model, geometry, stack, name) | {"unlike_training": unlike}
    return facts | {"warnings": _warnings_of(facts, heads)}


def _placed(model: Model, geometry: Geometry, stack: Stack, name: str) -> dict[str, Any]:
    axis, reverse = map_files.file_axis(stack.volume)
    sides = geometry.config.spacing or geometry.zooms
    seen = volumes.seen(stack)
    by_head = stack.rule.window_mm is not None
    assumed = stack.volume.assumed_axes
    return ({"assumed_axes": assumed} if assumed else {}) | {
        "input": name,
        "model": model.name,
        "model_sha256": model.sha256,
        "anomaly": BROUGHT_BACK if stack.resampled else EXACT,
        "slice_axis": axis,
        "scaling": geometry.config.scaling,
        "range": stack.limits,
        "background": round(stack.head.background, 6),
        "padding": "background"
        if placing.pads_with_background(geometry.config)
        else "scanner zeros",
        "pixel_mm": [round(side, 6) for side in stack.volume.zooms[:2]],
        "slice_mm": round(stack.volume.zooms[2], 6),
        "model_pixel_mm": sides and sides[:2],
        "model_slice_mm": sides and sides[2],
        "resampled": stack.resampled,
        "share_seen": round(float((seen > 0).mean()), 6),
        "share_of_head_seen": round(volumes.share_of_head(stack), 6),
        "slices_in_window": stack.window[1] - stack.window[0],
        "window_mm": [_mm(stack, edge - 0.5) for edge in stack.window],
        "window_mm_from": f"middle of the {'head' if by_head else 'volume'}",
        "slices_of_window": stack.rule.slices_per_volume,
        "window_off_mm": _window_off(geometry, stack),
        "window_file_slices": sorted(
            _file_index(stack, index, reverse=reverse)
            for index in (stack.window[0], stack.window[1] - 1)
        ),
    }


def describe_slice(stack: Stack, index: int, residual: np.ndarray) -> dict[str, Any]:
    """The JSON's row of a slice of the stack; `residual` is [H, W] in the units of the input."""
    _, reverse = map_files.file_axis(stack.volume)
    size = np.abs(residual)
    return {
        "file_index": _file_index(stack, index, reverse=reverse),
        "mm": _mm(stack, index),
        "in_window": stack.window[0] <= index < stack.window[1],
        "mean_absolute_residual": round(float(size.mean(dtype=np.float64)), 6),
        "largest_absolute_residual": round(float(size.max()), 6),
    }


def _warnings_of(facts: dict[str, Any], heads: str) -> list[str]:
    """What the user should know of a scan before trusting its maps, a sentence each."""
    found = list(facts["unlike_training"] or [])
    if assumed := facts.get("assumed_axes"):
        found.append(
            f"the file does not say how the head lies in it and was read as {assumed}, by its "
            "format's convention: check left and right"
        )
    inside, wanted = facts["slices_in_window"], facts["slices_of_window"]
    if inside < wanted:
        found.append(f"the volume has only {inside} of the {wanted} slices of the training window")
    off = facts["window_off_mm"]
    if off is not None and abs(off) > MOST_OFF_MM:
        side = "right" if off > 0 else "left"
        found.append(
            f"the training window lies {abs(off):.0f} mm to the {side} of its place in {heads}, "
            "because slices are counted from the file's first slice; a model trained on a dataset "
            "made with --spacing and --slices in mm looks for the head"
        )
    if facts["share_of_head_seen"] < LEAST_SEEN:
        found.append(
            f"the model saw only {facts['share_of_head_seen']:.0%} of the head, the rest is "
            "outside its field of view and NaN in its maps"
        )
    return found


def summary(facts: dict[str, Any]) -> str:
    """The facts of a scan in a line."""
    inside = [row["mean_absolute_residual"] for row in facts["slices"] if row["in_window"]]
    first, last = facts["window_file_slices"]
    return (
        f"{len(facts['slices'])} slices, {len(inside)} of them in the window of training (slices "
        f"{first:g} to {last:g} of the file, {window_in_words(facts)}), "
        f"{'' if facts['resampled'] else 'not '}resampled, "
        f"{facts['share_of_head_seen']:.0%} of the head seen; mean absolute residual in the "
        f"window {sum(inside) / len(inside):.4g}"
    )


def window_in_words(facts: dict[str, Any]) -> str:
    """Where the window lies, such as `30 mm left to 42 mm right of the middle of the head`."""
    low, high = facts["window_mm"]
    side = "left" if high <= 0 else "right"
    start = f"{-low:g} mm left" if low < 0 < high else f"{abs(low):g}"
    return f"{start} to {abs(high):g} mm {side} of the {facts['window_mm_from']}"


def _window_off(geometry: Geometry, stack: Stack) -> float | None:
    """How far right of its place in the heads of training the window lies, in mm.

    None if that place is not known, or the volume lacks slices of the window.
    """
    first, last = stack.window
    if last - first < stack.rule.slices_per_volume:
        return None
    middle = (first + last - 1) / 2
    found = stack.slices.first + middle * stack.slices.side
    found -= stack.head.middle[2] * stack.volume.zooms[2]
    if stack.rule.window_mm is not None:
        return round(found - sum(stack.rule.window_mm) / 2, 3) + 0.0
    if geometry.off_middle is None:
        return None
    return round(found - geometry.off_middle, 3) + 0.0


def _mm(stack: Stack, index: float) -> float:
    """Where a slice lies along right, in mm from the middle that `window_mm_from` names."""
    return round(stack.slices.first + index * stack.slices.side - stack.middle, 3) + 0.0


def _file_index(stack: Stack, index: int, *, reverse: bool) -> int | float:
    """The middle of a slice in indices of the file; with a fraction if it lies between two."""
    place = (stack.slices.first + index * stack.slices.side) / stack.volume.zooms[2]
    place = stack.volume.voxels.shape[2] - 1 - place if reverse else place
    nearest = round(place)
    return nearest if abs(place - nearest) < 1e-6 else round(place, 3)
