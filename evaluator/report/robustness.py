"""The report's section on corrupted inputs: curves, the thesis's set, collages."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from evaluator import bootstrap, robustness
from evaluator.models import Model
from evaluator.report import figures
from evaluator.report.page import Figure, Section
from evaluator.report.sections import reconstruct
from ixi_tfds.images.corruptions import CORRUPTIONS
from ixi_tfds.images.metrics import METRICS


def collage_slices(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the collages: the thesis's set's first slice of each corruption.

    `frame` is what `robustness.score_corrupted` gives.
    """
    chosen = robustness.thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    return chosen.drop_duplicates("corruption")


def robustness_section(
    frame: pd.DataFrame,
    curves: pd.DataFrame,
    models: Sequence[Model],
    originals: Mapping[str, np.ndarray],
) -> Section:
    """Curves of every corruption, the thesis's set as a table, and collages of its slices.

    Args:
      frame: what `robustness.score_corrupted` gives.
      curves: what `robustness.curves` gives for it.
      models: the scored models.
      originals: the slices of `collage_slices`, float32 [H, W] by key.
    """
    collages = [
        _collage(row["corruption"], row["severity"], row["key"], originals[row["key"]], models)
        for row in collage_slices(frame).to_dict("records")
    ]
    text = [
        "The models get corrupted slices and are scored against the clean ones. Grey is the "
        "corrupted slice itself: above it, a model improves the slice; below it, a model makes it "
        "worse. Lines are means over people, shaded areas their 95% bootstrap intervals.",
        *filter(None, [bootstrap.caution(int(curves["subjects"].max()))]),
    ]
    table = _set_table(robustness.score_thesis_set(frame))
    return Section(
        "Robustness",
        text=text,
        tables={"The thesis's set: PSNR in dB / SSIM, mean over its slices": table},
        figures=[*_plots(curves), *collages],
        notes=_notes(),
    )


def _plots(curves: pd.DataFrame) -> list[Figure]:
    """A figure for each metric, with a panel for each corruption."""
    return [
        Figure(
            f"{METRICS[metric].title} of reconstructions of corrupted slices",
            {
                f"{METRICS[metric].title}, {name}": figures.robustness_curve(
                    curves, name, metric, corruption.unit
                )
                for name, corruption in CORRUPTIONS.items()
            },
        )
        for metric in robustness.METRICS
    ]


def _notes() -> list[str]:
    severities = "; ".join(
        f"{name} {', '.join(f'{amount:g}' for amount in each.severities)} ({each.unit})"
        for name, each in CORRUPTIONS.items()
    )
    blur, lost = (
        robustness.amount(corruption, robustness.THESIS_SEVERITY)
        for corruption in ("blur", "pixel dropout")
    )
    return [
        f"Severities from 1 on: {severities}. Random draws depend on the slice alone, so every "
        "model gets the same corrupted slices, and each severity loses the pixels of the one "
        "before and more.",
        f"The thesis's set: two slices of each person, one blurred (sigma {blur:g}) or with "
        f"{lost:.0%} of its pixels lost, one with two zeroed patches.",
    ]


def _set_table(scores: pd.DataFrame) -> pd.DataFrame:
    """A row for each model, a column for each corruption."""
    shown = scores.assign(
        cell=[
            f"{METRICS['psnr'].shown(psnr)} / {METRICS['ssim'].shown(ssim)}"
            for psnr, ssim in zip(scores["psnr"], scores["ssim"], strict=True)
        ],
        title=[f"{row.corruption} ({row.slices} slices)" for row in scores.itertuples()],
    )
    table = {
        model: dict(zip(mine["title"], mine["cell"], strict=True))
        for model, mine in shown.groupby("model", observed=True, sort=False)
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("").reset_index()


def _collage(
    corruption: str, severity: int, key: str, original: np.ndarray, models: Sequence[Model]
) -> Figure:
    """The clean slice, the corrupted one, and each model's reconstruction."""
    corrupted = robustness.corrupt(original[None, ..., None], [key], corruption, severity)
    image = np.asarray(corrupted)[0, ..., 0]
    panels = {"clean": original, robustness.INPUT: image}
    panels |= {model.name: reconstruct(model, image) for model in models}
    caption = f"{key}, {corruption}: reconstructions"
    return Figure(
        caption, {name: figures.slice_png(panel) for name, panel in panels.items()}, slices=True
    )
