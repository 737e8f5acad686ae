"""Slices in rows and grids, for the pictures of README and docs.

Slices are shown upright, as in `evaluator.report.figures`.
"""

import matplotlib.figure
import numpy as np

from evaluator.report import figures


def reconstruction_gallery(rows):
    """Original, reconstruction and residual side by side, a row a slice, as a figure.

    `rows` has the original and its reconstruction, float32 [H, W] in [0, 1], of each title. The
    colours of all rows compare.
    """
    limit = figures.residual_limit(list(rows.values()))
    figure = matplotlib.figure.Figure(figsize=(9.6, 3.25 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for axes, (title, (original, reconstruction)) in zip(grid, rows.items(), strict=True):
        axes[0].imshow(np.rot90(original), cmap="gray", vmin=0, vmax=1)
        axes[1].imshow(np.rot90(reconstruction), cmap="gray", vmin=0, vmax=1)
        shown = axes[2].imshow(
            np.rot90(original - reconstruction),
            cmap=figures.RESIDUAL_COLOURS,
            vmin=-limit,
            vmax=limit,
        )
        axes[0].set_ylabel(figures.literal(title))
        figure.colorbar(shown, ax=axes[2], extend="both", fraction=0.05)
    for axes, title in zip(grid[0], ("original", "reconstruction", "residual"), strict=True):
        axes.set_title(title)
    _without_ticks(grid)
    return figure


def comparison_gallery(original, reconstructions, columns=4):
    """A slice, and below each of its reconstructions the residual, as a figure.

    `original` and the `reconstructions`, by title, are float32 [H, W] in [0, 1]. The colours of all
    residuals compare.
    """
    limit = figures.residual_limit([(original, made) for made in reconstructions.values()])
    lines = -(-(len(reconstructions) + 1) // columns)
    size = (3.2 * columns, 6.6 * lines)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    grid = figure.subplots(2 * lines, columns, squeeze=False)
    above, below = grid[::2].ravel(), grid[1::2].ravel()
    for axes in (*above[len(reconstructions) + 1 :], below[0], *below[len(reconstructions) + 1 :]):
        axes.set_axis_off()
    for axes, (title, image) in zip(
        above, ({"original": original} | reconstructions).items(), strict=False
    ):
        axes.imshow(np.rot90(image), cmap="gray", vmin=0, vmax=1)
        axes.set_title(figures.literal(title))
    for axes, made in zip(below[1:], reconstructions.values(), strict=False):
        residual = np.rot90(original - made)
        colours = figures.RESIDUAL_COLOURS
        shown = axes.imshow(residual, cmap=colours, vmin=-limit, vmax=limit)
    scale = below[0].inset_axes((0.7, 0, 0.07, 1))
    figure.colorbar(shown, cax=scale, extend="both", label="residual", ticklocation="left")
    _without_ticks(grid)
    return figure


def lesion_gallery(rows):
    """Scan, outline of the lesion, mark and repair side by side, a row a brain, as a figure.

    `rows` has `evaluator.brains.pictures.Picture`s.
    """
    figure = matplotlib.figure.Figure(figsize=(11, 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for place in (0, 1):
            axes[place].imshow(np.rot90(row.slice), cmap="gray", vmin=0, vmax=1)
        axes[1].contour(np.rot90(row.lesion), [0.5], colors="#e69f00", linewidths=1.2)
        mark = np.rot90(row.scores["ensemble"])
        shown = axes[2].imshow(mark, cmap=figures.RESIDUAL_COLOURS, vmin=-1, vmax=1)
        axes[3].imshow(np.rot90(row.repaired["repair"]), cmap="gray", vmin=0, vmax=1)
        axes[0].set_ylabel(figures.literal(row.title))
        figure.colorbar(shown, ax=axes[2], fraction=0.05)
    titles = ("scan", "outline of the lesion", "mark", "repair: what is expected")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    _without_ticks(grid)
    return figure


def slice_grid(slices, columns=4):
    """Slices, [H, W] by title and each stretched to its own extrema, in a grid, as a figure."""
    lines = -(-len(slices) // columns)
    figure = matplotlib.figure.Figure(figsize=(2.4 * columns, 2.65 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(slices) :]:
        axes.set_axis_off()
    for axes, (title, image) in zip(grid.flat, slices.items(), strict=False):
        axes.imshow(np.rot90(image), cmap="gray")
        axes.set_title(figures.literal(title))
    _without_ticks(grid)
    return figure


def write_png(path, figure):
    """Write a figure; without the creator's name the bytes depend on the pixels alone."""
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _without_ticks(grid):
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
