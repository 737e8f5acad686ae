"""The picture of three planes for a paper or a README."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from evaluator.viewer.colours import colours_of
from evaluator.viewer.shown import ABOVE, Shown

_PLANES = (
    ("sagittal", 1, 2, 0, "PAIS"),
    ("coronal", 0, 2, 1, "LRIS"),
    ("axial", 0, 1, 2, "LRPA"),
)
"""Name, axes across, up and through, and letters left, right, below, above; left is left."""

_DOTS_PER_INCH = 200
_WIDTH = 7.0
_SCALE_MM = 50.0
_LONGEST = 100


@matplotlib.rc_context(matplotlib.rcParamsDefault)
def draw(shown: Shown, title: str, facts: Mapping[str, str], warnings: Sequence[str] = ()) -> bytes:
    """Three planes through `shown.place` as PNG, 7 inches wide, in neurological convention."""
    extents = [n * side for n, side in zip(shown.scan.shape, shown.zooms, strict=True)]
    ratios = [extents[across] for _, across, _, _, _ in _PLANES]
    tallest = max(extents[up] for _, _, up, _, _ in _PLANES)
    height = (_WIDTH - 1.0) * tallest / sum(ratios)
    figure = Figure(
        figsize=(_WIDTH, height + 0.9 + 0.13 * bool(warnings)),
        dpi=_DOTS_PER_INCH,
        layout="constrained",
    )
    axes = figure.subplots(1, 3, width_ratios=ratios)
    for ax, (name, across, up, through, letters) in zip(axes, _PLANES, strict=True):
        _draw_plane(ax, shown, across, up, through)
        mm = float(shown.affine[through] @ [*shown.place, 1.0])
        text = f"{name}, {'xyz'[through]} = {mm:.0f} mm".replace("-", "\u2212")
        ax.set_title(text, fontsize=8)
        _label_sides(ax, letters)
    _draw_scale(axes[0])
    _draw_bar(figure, axes, shown)
    model = f", model {facts['Model']}" if "Model" in facts else ""
    lines = [f"{title}{model}", f"{_legend(shown, facts)}; for research only"]
    if warnings:
        lines.insert(1, f"warning: {textwrap.shorten(warnings[0], _LONGEST, placeholder=' ...')}")
    figure.suptitle("\n".join(lines), fontsize=8, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _legend(shown: Shown, facts: Mapping[str, str]) -> str:
    if not shown.is_mark:
        return "dashed: window of training; hatched: not seen by the model"
    above = facts.get(ABOVE)
    return (f"above the threshold: {above}; " if above else "") + "hatched: not judged"


def _draw_plane(ax: Axes, shown: Shown, across: int, up: int, through: int) -> None:
    def plane(values: np.ndarray) -> np.ndarray:
        cut = np.take(values, shown.place[through], axis=through)
        return cut.T if across < up else cut

    (low, high), zooms = shown.levels, shown.zooms
    grey = np.clip((plane(shown.scan) - low) / (high - low), 0, 1)
    anomaly = plane(shown.anomaly)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    visible = np.abs(anomaly) >= shown.threshold
    picture[visible] = colours_of(anomaly, shown.limit)[visible]
    unseen = ~plane(shown.seen)
    picture[unseen] *= 0.5
    n, m = shown.scan.shape[across], shown.scan.shape[up]
    box = (0, n * zooms[across], 0, m * zooms[up])
    ax.imshow(picture, origin="lower", extent=box, interpolation="nearest")
    x, y = (np.arange(count) + 0.5 for count in (n, m))
    x, y = x * zooms[across], y * zooms[up]
    if unseen.any() and min(unseen.shape) > 1:
        levels = [0.5, 1.5]
        hatched = ax.contourf(x, y, unseen.astype(float), levels, colors="none", hatches=["////"])
        hatched.set_edgecolor("#bbbbbb")
        hatched.set_linewidth(0)
    if shown.lesion is not None and plane(shown.lesion).any():
        ax.contour(x, y, plane(shown.lesion).astype(float), [0.5], colors="white", linewidths=0.8)
    if across == 0 and not shown.is_mark:
        for share in shown.window:
            ax.axvline(share * box[1], color="white", linestyle=(0, (4, 3)), linewidth=0.8)
    ax.set_facecolor("black")
    ax.set_xticks([])
    ax.set_yticks([])


def _label_sides(ax: Axes, letters: str) -> None:
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
    alignments = (("left", "center"), ("right", "center"), ("center", "bottom"), ("center", "top"))
    for letter, place, (horizontal, vertical) in zip(letters, places, alignments, strict=True):
        ax.text(
            *place,
            letter,
            transform=ax.transAxes,
            ha=horizontal,
            va=vertical,
            color="white",
            fontsize=8,
            fontweight="bold",
        )


def _draw_scale(ax: Axes) -> None:
    right, bottom = ax.get_xlim()[1] * 0.96, ax.get_ylim()[1] * 0.035
    ax.plot([right - _SCALE_MM, right], [bottom, bottom], color="white", linewidth=1.5)
    middle = right - _SCALE_MM / 2
    text = f"{_SCALE_MM:.0f} mm"
    ax.text(middle, bottom * 1.4, text, color="white", fontsize=7, ha="center", va="bottom")


def _draw_bar(figure: Figure, axes: np.ndarray, shown: Shown) -> None:
    """The colour bar, grey where the overlay is transparent."""
    values = np.linspace(-shown.limit, shown.limit, 512)
    colours = colours_of(values, shown.limit)
    colours[np.abs(values) < shown.threshold] = 0.5
    scale = ScalarMappable(Normalize(-shown.limit, shown.limit), ListedColormap(colours))
    bar = figure.colorbar(scale, ax=axes, shrink=0.85, aspect=25, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    what = "mark" if shown.is_mark else "anomaly in the scan's units"
    bar.set_label(f"{what} (grey: not shown)\norange: brighter, blue: darker", fontsize=7)
    if shown.is_mark:
        bar.set_ticks([-shown.limit, -shown.threshold, 0, shown.threshold, shown.limit])
