"""Scores and statistics as CSV and JSON files."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluator import bootstrap, statistics
from evaluator.models import Model
from evaluator.published import published_for
from evaluator.scoring import Split
from ixi_tfds.images.metrics import METRICS, PSNR_CAP, ms_ssim_scales

GALLERY = {"worst": 0.0, "median": 0.5, "best": 1.0}
"""Slices that the report shows: a name, and a rank by PSNR, from 0 (lowest) to 1."""


def gallery(scores: pd.DataFrame) -> dict[str, str]:
    """Keys of the slices to show by their names in `GALLERY`; a small split may have fewer.

    With several models, slices are ranked by the models' mean PSNR.
    """
    means = scores.groupby("key")["psnr"].mean()
    ranked = means.sort_index().sort_values(kind="stable").index
    chosen: dict[str, str] = {}
    for name in sorted(GALLERY, key=lambda name: GALLERY[name] == 0.5):
        key = ranked[round(GALLERY[name] * (len(ranked) - 1))]
        if key not in chosen.values():
            chosen[name] = key
    return {name: chosen[name] for name in GALLERY if name in chosen}


def scores_csv(scores: pd.DataFrame) -> str:
    """Scores as CSV: metrics with six decimals, unknown ages empty."""
    shown = {name: scores[name].map("{:.6f}".format) for name in METRICS}
    ages = ["" if math.isnan(age) else f"{age:.2f}" for age in scores["age"]]
    return scores.assign(age=ages, **shown).to_csv(index=False, lineterminator="\n")


def summary(models: Sequence[Model], split: Split, scores: pd.DataFrame) -> dict[str, Any]:
    """What was scored, and the statistics of each model, as plain JSON values.

    `scores` are the tables of `scoring.score_split` of all models.

    `models` has one entry for each model: `mean`, `std`, `min`, `max` of each metric over slices;
    `by_subject`, the mean over people with a bootstrap interval; `published`, the thesis's row for
    that kind of model or null. `paired_differences` compares the other models with the first.
    """
    entries = []
    for model in models:
        mine = scores[scores["model"] == model.name]
        by_subject = statistics.by_subject(mine).drop(columns="subjects")
        entries.append(
            {
                "model": model.name,
                "model_sha256": model.sha256,
                **statistics.by_slice(mine).to_dict("index"),
                "by_subject": by_subject.to_dict("index"),
                "slices_at_psnr_cap": int((mine["psnr"] >= PSNR_CAP).sum()),
                "published": published_for(model.card),
            }
        )
    differences = statistics.paired_differences(scores, models[0].name)
    facts = {
        "dataset": split.dataset,
        "dataset_version": split.version,
        "dataset_fingerprint": split.fingerprint,
        "split": split.name,
        "slice_size": list(split.size),
        "slices": scores["key"].nunique(),
        "subjects": scores["subject"].nunique(),
        "models": entries,
        "paired_differences": {
            "reference": models[0].name,
            "rows": differences.to_dict("records"),
        },
        "std": "population",
        "intervals": {
            "of": "means over subjects, by bootstrap over subjects",
            "confidence": bootstrap.CONFIDENCE,
            "draws": statistics.DRAWS,
            "caution": bootstrap.caution(scores["subject"].nunique()),
        },
        "psnr_cap_db": PSNR_CAP,
        "ms_ssim_scales": ms_ssim_scales(*split.size),
    }
    return plain(facts)


def plain(value: Any) -> Any:
    """Round numbers to six decimals; those that are not finite become None, as JSON has none."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def as_json(facts: Mapping[str, Any]) -> str:
    """Facts as the text of a JSON file."""
    return json.dumps(plain(facts), indent=2) + "\n"


def result_files(
    scores: pd.DataFrame, facts: dict[str, Any], curves: pd.DataFrame | None
) -> dict[str, str]:
    """`scores.csv` and `summary.json`; `robustness.csv` if there are curves."""
    texts = {"scores.csv": scores_csv(scores), "summary.json": as_json(facts)}
    if curves is not None:
        texts["robustness.csv"] = curves.to_csv(
            index=False, float_format="%.6f", lineterminator="\n"
        )
    return texts
