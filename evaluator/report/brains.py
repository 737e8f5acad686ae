"""The report's sections on lesions in brains: false alarms, sizes, quality, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator.brains import tally
from evaluator.brains.maps import ENSEMBLE
from evaluator.brains.pictures import Picture
from evaluator.lesions.maps import BASELINES
from evaluator.report import figures
from evaluator.report.page import Figure, Section


def sections(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]
) -> list[Section]:
    """Sections beside those of `report.lesions`; the arguments come from `brains.scoring.score`."""
    return [
        _false_alarms(facts),
        *([_by_size(facts["by_size"])] if facts["by_size"] else []),
        *([_quality(facts, rows)] if any(np.isfinite(row["auprc"]) for row in rows) else []),
        *([_pictures(pictures)] if pictures else []),
    ]


def _false_alarms(facts: Mapping[str, Any]) -> Section:
    lines = [
        {
            "Method": row["method"],
            "Share of the brain": f"{row['share']:.2%}",
            "ml a head": f"{row['ml']:.1f}",
        }
        for row in facts["false_alarms"]
        if row["looks_for"] == "either"
    ]
    text = (
        f"What lies above the threshold in healthy test brains ({facts['healthy_heads']}), which "
        "neither training nor the threshold has seen."
    )
    return Section("False alarms", [text], tables={"Looking for either": pd.DataFrame(lines)})


def _by_size(rows: Sequence[Mapping[str, Any]]) -> Section:
    frame = pd.DataFrame(rows)
    table = frame.pivot(index="method", columns="size", values="found")
    counts = frame.drop_duplicates("size").set_index("size")["lesions"]
    table = table.loc[frame["method"].unique(), frame["size"].unique()]
    shown = table.map(lambda share: f"{share:.0%}" if np.isfinite(share) else "none")
    shown.columns = [f"{size} ({counts[size]})" for size in table.columns]
    note = (
        f"A lesion counts as found if at least {tally.FOUND:.0%} of its voxels lie above the "
        "threshold. Numbers of lesions are in brackets. Looking for either."
    )
    table = shown.rename_axis("Method").reset_index()
    return Section("Lesions found, by size", tables={"": table}, notes=[note])


def _quality(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Section:
    area = {
        row["method"]: row["auprc"]
        for row in rows
        if row["looks_for"] == "either" and not row["subject"]
    }
    points = {
        name: (psnr, area.get(name, area[ENSEMBLE])) for name, psnr in facts["quality"].items()
    }
    best = max(area[name] for name in BASELINES)
    note = (
        "Each point is a model, or the models of a task. The thin line is the better baseline. The "
        "model that reconstructs healthy brains best need not find lesions best: one that copies "
        "its input copies lesions too."
    )
    picture = figures.quality(points, best)
    return Section(
        "Reconstruction against finding", figures=[Figure("", {"": picture})], notes=[note]
    )


def _pictures(pictures: Sequence[Picture]) -> Section:
    shown = []
    for each in pictures:
        panels = {
            "brain": figures.slice_png(each.slice),
            "lesion": figures.outlined_png(each.slice, each.lesion),
            "ensemble": figures.residual_png(each.scores[ENSEMBLE], 1.0),
        }
        panels |= {
            f"{name}: expected": figures.slice_png(values) for name, values in each.repaired.items()
        }
        shown.append(Figure(each.title, panels, slices=True))
    note = (
        "The axial slice with most lesion, its outline, the score of the ensemble (red brighter, "
        "blue darker than expected, full colour where it is sure), and what each task expects."
    )
    return Section("Brains with lesions", figures=shown, notes=[note])
