"""Pictures of lesions: what a model makes of them, and precision against recall."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from evaluator import curves, figures
from evaluator.anomaly import BASELINES, BLURRED, DIRECTIONS
from evaluator.tallies import Example, Method, Tally

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STYLES = ("-", "--", ":", "-.")


def overlays(examples: Sequence[Example]) -> bytes:
    """Each slice, its lesion outlined, what the models expect, and the residuals; a row a slice."""
    names = list(examples[0].references)
    models = [name for name in names if name not in BASELINES]
    pairs = [(e.image, expected) for e in examples for expected in e.references.values()]
    limit = figures.residual_limit(pairs)
    titles = ["slice", "lesion", *(t for m in models for t in (m, "residual")), f"minus {BLURRED}"]
    figure = Figure(figsize=(2.4 * len(titles), 2.55 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    for axes, example in zip(grid, examples, strict=True):
        grey = [example.image, example.image, *(example.references[name] for name in models)]
        places = [0, 1, *range(2, 2 + 2 * len(models), 2)]
        for place, image in zip(places, grey, strict=True):
            axes[place].imshow(np.rot90(image), cmap="gray", vmin=0, vmax=1)
        if example.lesion.any():
            axes[1].contour(np.rot90(example.lesion), [0.5], colors=_COLOURS[1], linewidths=1)
        for place, name in zip(
            [*range(3, 3 + 2 * len(models), 2), -1], [*models, BLURRED], strict=True
        ):
            residual = np.rot90(example.image - example.references[name])
            shown = axes[place].imshow(
                residual, cmap=figures.RESIDUAL_COLOURS, vmin=-limit, vmax=limit
            )
        axes[0].set_ylabel(example.title, fontsize=8)
        figure.colorbar(shown, ax=axes[-1], extend="both", fraction=0.05)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8, wrap=True)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    return figures._png(figure)


def precision_recall(tallies: Mapping[Method, Tally]) -> bytes:
    """Precision against recall of every method, a panel for each direction it may look in."""
    names = list(dict.fromkeys(name for name, _ in tallies))
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(DIRECTIONS), sharey=True)
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        for place, name in enumerate(names):
            counts = tallies[name, direction].overall
            area = float(curves.statistics(counts, 0)["auprc"])
            precision, recall = curves.precision_recall(counts)
            axes.step(
                recall,
                precision,
                where="post",
                color=_COLOURS[place % len(_COLOURS)],
                linestyle=_STYLES[place % len(_STYLES)],
                label=f"{name}: {area:.3f}",
            )
        chance = float(curves.prevalence(counts))
        axes.axhline(chance, color="grey", linewidth=0.8, label=f"chance: {chance:.3f}")
        axes.set_title(f"looks for {direction}")
        axes.set_xlabel("recall")
        axes.legend(frameon=False, fontsize=8, title="AUPRC", title_fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("precision")
    return figures._png(figure)
