"""How well each method finds lesions: statistics, intervals and comparisons from histograms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator import bootstrap, results
from evaluator.lesions import histograms
from evaluator.lesions.maps import BASELINES
from evaluator.lesions.tallies import Method, Tally

STATISTICS = ("auprc", "auroc", "dice", "best_dice")


def thresholds(healthy: Mapping[Method, Tally], percentile: float) -> dict[Method, int]:
    """The bin above which each method counts a pixel as lesion, from healthy slices alone."""
    return {
        method: histograms.percentile_bin(tally.overall, percentile)
        for method, tally in healthy.items()
    }


def measure(
    tallies: Mapping[Method, Tally], limits: Mapping[Method, int], *, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of statistics, and comparisons of the models with both baselines.

    A row has `method`, `looks_for`, `subject` and `group` (empty for all), pixels, prevalence,
    `threshold` and `STATISTICS`. Rows over all subjects and groups also have `<statistic>_low` and
    `_high`, a bootstrap interval over subjects. All pixels of a row are pooled.

    A comparison has the difference of AUPRC between a model and a baseline for the same direction,
    its interval over the same bootstrap samples, and a `verdict`.

    Args:
      tallies: histograms of each method, all with the same subjects and groups.
      limits: the result of `thresholds`.
      seed: seed of the bootstrap.
    """
    subjects = sorted(next(iter(tallies.values())).subjects)
    weights = None
    if len(subjects) > 1:
        weights = bootstrap.draw(len(subjects), draws=histograms.RESAMPLES, seed=seed)
    rows, samples = [], {}
    for method, tally in tallies.items():
        row = _row(method, tally.overall, limits[method])
        if weights is not None:
            counts = np.stack([tally.subjects[subject] for subject in subjects])
            drawn = histograms.resampled(counts, limits[method], weights)
            for name in STATISTICS:
                row[f"{name}_low"], row[f"{name}_high"] = bootstrap.interval(drawn[name])
            samples[method] = drawn["auprc"]
        rows.append(row)
    for kind in ("group", "subject"):
        for method, tally in tallies.items():
            table = tally.groups if kind == "group" else tally.subjects
            rows += [
                _row(method, table[name], limits[method], kind, name) for name in sorted(table)
            ]
    return rows, _comparisons(rows[: len(tallies)], samples)


def _row(
    method: Method, counts: np.ndarray, limit: int, kind: str = "", name: str = ""
) -> dict[str, Any]:
    values = histograms.statistics(counts, limit)
    return {
        "method": method[0],
        "looks_for": method[1],
        "subject": "",
        "group": "",
        **({kind: name} if kind else {}),
        "pixels": int(counts.sum()),
        "lesion_pixels": int(counts[1].sum()),
        "prevalence": float(histograms.prevalence(counts)),
        "threshold": histograms.upper_edge(limit),
        **{name: float(values[name]) for name in STATISTICS},
    }


def _comparisons(
    overall: list[dict[str, Any]], samples: Mapping[Method, np.ndarray]
) -> list[dict[str, Any]]:
    auprc = {(row["method"], row["looks_for"]): row["auprc"] for row in overall}
    compared = []
    for model, direction in auprc:
        for baseline in BASELINES if model not in BASELINES else ():
            one, other = (model, direction), (baseline, direction)
            low, high = math.nan, math.nan
            if samples:
                low, high = map(float, bootstrap.interval(samples[one] - samples[other]))
            compared.append(
                {
                    "model": model,
                    "looks_for": direction,
                    "baseline": baseline,
                    "auprc_difference": auprc[one] - auprc[other],
                    "low": low,
                    "high": high,
                    "verdict": _verdict(low, high),
                }
            )
    return compared


def _verdict(low: float, high: float) -> str:
    if math.isnan(low):
        return "no interval"
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def result_files(
    rows: list[dict[str, Any]], comparisons: list[dict[str, Any]], facts: Mapping[str, Any]
) -> dict[str, str]:
    """The texts of `anomalies.csv`, which has all rows, and of `anomalies.json`."""
    frame = pd.DataFrame(rows)
    overall = [row for row in rows if not row["subject"] and not row["group"]]
    people = len({row["subject"] for row in rows if row["subject"]})
    content = {**facts, "overall": overall, "comparisons": comparisons}
    content["intervals"] = {"caution": bootstrap.caution(people)}
    return {
        "anomalies.csv": frame.to_csv(index=False, float_format="%.6f"),
        "anomalies.json": results.as_json(content),
    }


def print_lesions(
    facts: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    comparisons: Sequence[dict[str, Any]],
) -> None:
    """Print the overall rows and the comparisons."""
    overall = pd.DataFrame([row for row in rows if not row["subject"] and not row["group"]])
    print(f"\nLesions: {facts['lesions']}; ", end="")
    print(f"{overall['prevalence'][0]:.3%} of {overall['pixels'][0]} pixels\n")
    columns = ["method", "looks_for", *STATISTICS]
    print(overall[columns].to_string(index=False, float_format="{:.4f}".format))
    print()
    for row in comparisons:
        interval = "" if row["low"] != row["low"] else f" ({row['low']:+.4f} to {row['high']:+.4f})"
        print(
            f"{row['model']}, {row['looks_for']}, against {row['baseline']}: {row['verdict']}, "
            f"AUPRC {row['auprc_difference']:+.4f}{interval}"
        )
    if caution := bootstrap.caution(len({row["subject"] for row in rows if row["subject"]})):
        print(f"Intervals: {caution[0].lower()}{caution[1:]}")
    alarms = [row for row in facts.get("false_alarms", ()) if row["looks_for"] == "either"]
    if alarms:
        print(f"\nAbove the threshold in healthy test brains ({facts['healthy_heads']}):")
    for row in alarms:
        print(f"{row['method']}: {row['share']:.2%} of the brain, {row['ml']:.1f} ml a head")
