"""Pictures of slices and scores for the report, as PNG bytes.

Slices are shown upright: stored rows run to posterior and columns to superior, so a quarter turn
puts superior up and anterior to the left.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
import scipy.ndimage
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ixi_tfds.images.metrics import METRICS

RESIDUAL_COLOURS = "RdBu_r"
"""Diverging colours, distinct with every common colour blindness."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, distinct with every common colour blindness."""

_LINES = ("-", "--", ":", "-.")

plainly = matplotlib.rc_context(matplotlib.rcParamsDefault)
"""Decorator of what draws: the user's matplotlibrc and styles do not count."""


def residual_limit(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Where the colours of residuals saturate: the 99.5th percentile of their absolute values."""
    residuals = [np.abs(original - reconstruction).ravel() for original, reconstruction in pairs]
    return max(float(np.percentile(np.concatenate(residuals), 99.5)), 1e-3)


def slice_png(image: np.ndarray) -> bytes:
    """A slice, float [H, W] in [0, 1], as an upright grey picture with a pixel for each pixel."""
    grey = np.round(255 * np.clip(np.rot90(image), 0, 1)).astype(np.uint8)
    return _pixels(grey)


def residual_png(residual: np.ndarray, limit: float) -> bytes:
    """A residual, float [H, W], as an upright picture whose colours saturate at `limit`."""
    shares = np.clip(np.rot90(residual) / (2 * limit) + 0.5, 0, 1)
    return _pixels(matplotlib.colormaps[RESIDUAL_COLOURS](shares, bytes=True)[..., :3])


def outlined_png(image: np.ndarray, mask: np.ndarray) -> bytes:
    """A slice as in `slice_png`, with the edge of a mask, bool [H, W], in colour."""
    grey = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    edge = mask & ~scipy.ndimage.binary_erosion(mask)
    colours[edge] = np.round(255 * np.array(matplotlib.colors.to_rgb(_COLOURS[1])))
    return _pixels(np.rot90(colours))


def zoom(image: np.ndarray, center: tuple[int, int]) -> np.ndarray:
    """The part [H/3, W/3] of a slice around `center`, moved inside the slice."""
    cut = []
    for side, place in zip(image.shape, center, strict=True):
        length = max(side // 3, 1)
        first = min(max(place - length // 2, 0), side - length)
        cut.append(slice(first, first + length))
    return image[tuple(cut)]


def worst_place(residual: np.ndarray) -> tuple[int, int]:
    """(row, column) around which the mean absolute residual, of [H, W], is largest."""
    smoothed = scipy.ndimage.uniform_filter(np.abs(residual), max(residual.shape[0] // 8, 1))
    row, column = np.unravel_index(np.argmax(smoothed), residual.shape)
    return int(row), int(column)


@plainly
def histogram(frame: pd.DataFrame, metric: str) -> bytes:
    """Histogram of a metric, a column of `frame`, with an outline for each model."""
    figure, axes = _plot()
    count = min(max(10, round(frame["key"].nunique() ** 0.5)), 40)
    bins = np.histogram_bin_edges(frame[metric], bins=count).tolist()
    for model, style in _styles(frame["model"]).items():
        values = frame.loc[frame["model"] == model, metric]
        label = f"{model}, mean {values.mean():.4g}"
        axes.hist(values, bins=bins, histtype="step", linewidth=1.6, label=literal(label), **style)
    axes.set_xlabel(METRICS[metric].title)
    axes.set_ylabel("slices")
    return _png(_with_legend(figure, axes))


@plainly
def by_slice_index(frame: pd.DataFrame, metric: str) -> bytes:
    """A metric against the slice index: dots, and a line for each model's mean."""
    figure, axes = _plot()
    for model, style in _styles(frame["model"]).items():
        mine = frame[frame["model"] == model]
        means = mine.groupby("slice_index")[metric].mean()
        axes.scatter(
            mine["slice_index"], mine[metric], s=8, alpha=0.25, linewidths=0, color=style["color"]
        )
        axes.plot(means.index, means, label=literal(model), **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("slice index, left to right")
    axes.set_ylabel(METRICS[metric].title)
    return _png(_with_legend(figure, axes))


@plainly
def robustness_curve(curves: pd.DataFrame, corruption: str, metric: str, unit: str) -> bytes:
    """A metric against the amount of a corruption, with a line and an interval for each model.

    Args:
      curves: what `robustness.curves` gives; its first model, the corrupted input, is drawn grey.
      corruption: name of the corruption.
      metric: "psnr" or "ssim".
      unit: unit of the amount.
    """
    figure, axes = _plot()
    wanted = curves[curves["corruption"].isin(["none", corruption])]
    for model, style in _styles(wanted["model"], first_is_reference=True).items():
        mine = wanted[wanted["model"] == model].sort_values("amount")
        axes.plot(
            mine["amount"], mine[metric], marker="o", markersize=3.5, label=literal(model), **style
        )
        ends = mine[f"{metric}_low"], mine[f"{metric}_high"]
        axes.fill_between(mine["amount"], *ends, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_title(corruption)
    axes.set_xlabel(unit)
    axes.set_ylabel(f"{METRICS[metric].title} against the clean slice")
    return _png(_with_legend(figure, axes))


@plainly
def learning_curves(
    histories: Mapping[str, pd.DataFrame], column: str, label: str, *, models: Sequence[str]
) -> bytes:
    """A column of runs' histories against the epoch, with a logarithmic scale for losses.

    Args:
      histories: histories by model, each with `epoch` and `column`.
      column: the column to draw.
      label: label of the axis.
      models: all models of the report, so that each has the same colour in every plot.
    """
    figure, axes = _plot()
    for model, style in _styles(models).items():
        if model in histories:
            axes.plot(
                histories[model]["epoch"], histories[model][column], label=literal(model), **style
            )
    if "loss" in column:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    return _png(_with_legend(figure, axes))


@plainly
def precision_recall(
    title: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]], chance: float
) -> bytes:
    """Precision against recall, with a line for each method.

    Args:
      title: title of the plot.
      lines: recall and precision by name.
      chance: precision of random scores, drawn as a thin line.
    """
    figure, axes = _plot()
    for name, style in _styles(lines).items():
        axes.step(*lines[name], where="post", label=literal(name), **style)
    axes.axhline(chance, color="#777777", linewidth=0.8)
    axes.set_title(title)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    return _png(_with_legend(figure, axes))


@plainly
def quality(points: Mapping[str, tuple[float, float]], baseline: float) -> bytes:
    """AUPRC against the PSNR of healthy brains, a point for each model.

    Args:
      points: PSNR in dB and AUPRC by name.
      baseline: AUPRC of the better baseline, drawn as a thin line.
    """
    figure, axes = _plot()
    for place, (name, style) in enumerate(_styles(points).items()):
        marker = "osD^v"[place % 5]
        axes.plot(*points[name], marker, color=style["color"], markersize=8, label=literal(name))
    axes.axhline(baseline, color="#777777", linewidth=0.8)
    axes.set_xlabel("PSNR of healthy brains, dB")
    axes.set_ylabel("AUPRC of lesions, either sign")
    axes.set_ylim(0, 1.15 * max(baseline, *(area for _, area in points.values())))
    axes.margins(x=0.1)
    return _png(_with_legend(figure, axes))


def literal(name: str) -> str:
    """Escape a name for matplotlib: `$` starts a formula, and a leading `_` hides the name."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _styles(names: Iterable[str], *, first_is_reference: bool = False) -> dict[str, dict[str, Any]]:
    """Colour and line of each model, in the order of names; a reference is grey and dashed."""
    models = list(dict.fromkeys(names))
    styles: dict[str, dict[str, Any]] = {}
    if first_is_reference:
        styles[models.pop(0)] = {"color": "#777777", "linestyle": (0, (4, 2))}
    for place, model in enumerate(models):
        styles[model] = {
            "color": _COLOURS[place % len(_COLOURS)],
            "linestyle": _LINES[place // len(_COLOURS) % len(_LINES)],
        }
    return styles


def _plot() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    """Add a legend above the plot, where it hides no line."""
    _, names = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, names)) > 24 else 2
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the name of the software, the bytes depend on the pixels alone.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _pixels(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(values).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
