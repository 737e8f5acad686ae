"""Scores into statistics, and both into the files that other programs read."""

import csv
import io
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from evaluator.scoring import Model, Score, Split

METRICS = ("psnr", "ssim", "mae")
GALLERY = {"worst": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "best": 1.0}
"""Which slices are shown: a name, and its place in the order of PSNR, from 0 to 1."""


def as_frame(scores: Sequence[Score]) -> pd.DataFrame:
    """Scores as a table, a row a slice, a column a field of `Score`."""
    return pd.DataFrame([vars(score) for score in scores])


def statistics(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, std (population), min and max over the slices: a row a metric."""
    values = frame[list(METRICS)]
    return pd.DataFrame(
        {"mean": values.mean(), "std": values.std(ddof=0), "min": values.min(), "max": values.max()}
    )


def by_group(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Numbers of subjects and slices and mean metrics of each group, lowest mean PSNR first."""
    groups = frame.groupby(list(columns), dropna=False)
    counts = groups.agg(subjects=("subject", "nunique"), slices=("key", "size"))
    table = counts.join(groups[list(METRICS)].mean()).reset_index()
    return table.sort_values(["psnr", *columns], ignore_index=True)


def gallery(scores: Sequence[Score]) -> dict[str, Score]:
    """The slices to show, each under its name in `GALLERY`; fewer where the split is small."""
    ranked = sorted(scores, key=lambda score: (score.psnr, score.key))
    chosen: dict[str, Score] = {}
    for name in sorted(GALLERY, key=lambda name: GALLERY[name] not in (0.0, 0.5, 1.0)):
        score = ranked[round(GALLERY[name] * (len(ranked) - 1))]
        if score not in chosen.values():
            chosen[name] = score
    return {name: chosen[name] for name in GALLERY if name in chosen}


def scores_csv(scores: Sequence[Score]) -> str:
    """The scores as CSV, metrics with six decimals, an unknown age empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Score.__dataclass_fields__)
    for score in scores:
        age = "" if math.isnan(score.age) else f"{score.age:.2f}"
        values = (f"{getattr(score, name):.6f}" for name in METRICS)
        writer.writerow(
            [score.key, score.subject, score.site, score.sex, age, score.slice_index, *values]
        )
    return text.getvalue()


def summary(model: Model, split: Split, scores: Sequence[Score]) -> dict[str, Any]:
    """What was scored and the statistics over its slices, six decimals; plain JSON values."""
    from evaluator.metrics import PSNR_CAP

    frame = as_frame(scores)
    table = statistics(frame).round(6)
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "dataset": split.dataset,
        "dataset_version": split.version,
        "dataset_fingerprint": split.fingerprint,
        "split": split.name,
        "slice_size": list(split.size),
        "slices": len(frame),
        "subjects": frame["subject"].nunique(),
        **{name: table.loc[name].to_dict() for name in METRICS},
        "std": "population",
        "psnr_cap_db": PSNR_CAP,
        "slices_at_psnr_cap": int((frame["psnr"] >= PSNR_CAP).sum()),
    }


def write_results(
    output_dir: pathlib.Path, scores: Sequence[Score], facts: dict[str, Any], report: str
) -> None:
    """Write `scores.csv`, `summary.json` and `report.html`, each whole or not at all."""
    _write(output_dir / "scores.csv", scores_csv(scores))
    _write(output_dir / "summary.json", json.dumps(facts, indent=2) + "\n")
    _write(output_dir / "report.html", report)


def _write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
