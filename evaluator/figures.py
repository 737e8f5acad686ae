"""Pictures of slices and scores, as PNG bytes: for the report, and for files by `write_png`.

Slices are shown upright: stored rows run to posterior and columns to superior, so a quarter turn
puts superior up and anterior to the left.
"""

import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

RESIDUAL_COLOURS = "RdBu_r"
"""Diverging, and told apart with every common colour blindness."""

_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE"}
_BLUE, _VERMILION = "#0072B2", "#D55E00"


def write_png(path: pathlib.Path, png: bytes) -> None:
    """Write a picture, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(png)
    temporary.replace(path)


def residual_limit(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Where the colours of residuals saturate: the 99.5th percentile of their absolute values."""
    residuals = [np.abs(original - reconstruction).ravel() for original, reconstruction in pairs]
    return max(float(np.percentile(np.concatenate(residuals), 99.5)), 1e-3)


def reconstruction_gallery(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]], *, limit: float | None = None
) -> bytes:
    """Original, reconstruction and residual side by side, a row a slice.

    Args:
      rows: title of each row, and its original and reconstruction, float32 [H, W] in [0, 1].
      limit: absolute residual at which the colours saturate; that of `rows` by default, so that
        the colours of all rows compare.
    """
    limit = residual_limit(list(rows.values())) if limit is None else limit
    figure = Figure(figsize=(9.6, 3.25 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for axes, (title, (original, reconstruction)) in zip(grid, rows.items(), strict=True):
        axes[0].imshow(np.rot90(original), cmap="gray", vmin=0, vmax=1)
        axes[1].imshow(np.rot90(reconstruction), cmap="gray", vmin=0, vmax=1)
        shown = axes[2].imshow(
            np.rot90(original - reconstruction), cmap=RESIDUAL_COLOURS, vmin=-limit, vmax=limit
        )
        if title:
            axes[0].set_ylabel(title)
        figure.colorbar(shown, ax=axes[2], extend="both", fraction=0.05)
    for axes, title in zip(grid[0], ("original", "reconstruction", "residual"), strict=True):
        axes.set_title(title)
    _without_ticks(grid)
    return _png(figure)


def slice_grid(slices: Mapping[str, np.ndarray], *, columns: int = 4) -> bytes:
    """Slices in a grid, each under its title, such as several places across one volume.

    Args:
      slices: title of each slice, and the slice, [H, W], each stretched to its own extrema.
      columns: slices in a row of the grid.
    """
    lines = -(-len(slices) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.65 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(slices) :]:
        axes.set_axis_off()
    for axes, (title, image) in zip(grid.flat, slices.items(), strict=False):
        axes.imshow(np.rot90(image), cmap="gray")
        axes.set_title(title)
    _without_ticks(grid)
    return _png(figure)


def histogram(frame: pd.DataFrame, metric: str) -> bytes:
    """How a metric, a column of `frame`, spreads over the slices, with its mean."""
    figure, axes = _plot()
    mean = frame[metric].mean()
    axes.hist(frame[metric], bins=min(max(10, round(len(frame) ** 0.5)), 40), color=_BLUE)
    axes.axvline(mean, color=_VERMILION, linestyle="--", label=f"mean {mean:.4g}")
    axes.set_xlabel(_LABELS[metric])
    axes.set_ylabel("slices")
    axes.legend(frameon=False)
    return _png(figure)


def by_slice_index(frame: pd.DataFrame, metric: str) -> bytes:
    """A metric against the place of the slice in its volume: a dot a slice, the mean as a line."""
    figure, axes = _plot()
    means = frame.groupby("slice_index")[metric].mean()
    axes.scatter(frame["slice_index"], frame[metric], s=8, alpha=0.4, color=_BLUE, linewidths=0)
    axes.plot(means.index, means, color=_VERMILION, label="mean")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("slice index, left to right")
    axes.set_ylabel(_LABELS[metric])
    axes.legend(frameon=False)
    return _png(figure)


def _plot() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _without_ticks(grid: np.ndarray) -> None:
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the creator's name the bytes depend on the pixels alone.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
