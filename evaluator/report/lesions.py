"""The report's sections on lesions: tables, plots, pictures, and what was scored."""

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator import bootstrap
from evaluator.lesions import histograms
from evaluator.lesions.examples import Example
from evaluator.lesions.maps import BASELINES, DIRECTIONS
from evaluator.lesions.tallies import Found
from evaluator.report import figures
from evaluator.report.page import Figure, Section

_WARNED = 10
"""Number of volumes whose warnings are listed."""

_TITLES = {
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "dice": "Dice at the threshold",
    "best_dice": "Best possible Dice",
}


def lead(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outcome in a few sentences."""
    overall = [row for row in rows if not row["subject"] and not row["group"]]
    best = max(overall, key=lambda row: row["auprc"])
    kind = "a baseline without any model" if best["method"] in BASELINES else "a model"
    warned = facts.get("warnings") or {}
    listed = [f"{name}: {'; '.join(said)}." for name, said in list(warned.items())[:_WARNED]]
    if len(warned) > _WARNED:
        listed.append(f"{len(warned) - _WARNED} more are in anomalies.json.")
    many = f"{len(warned)} volumes have" if len(warned) > 1 else "1 volume has"
    odd = [f"Warning: {many} something odd. {' '.join(listed)}"] if warned else []
    outcome = (
        f"Lesions: {facts['lesions']}. {overall[0]['prevalence']:.3%} of {overall[0]['pixels']} "
        "pixels are lesion, which is the AUPRC of random scores. The method with the highest "
        f"AUPRC, {best['auprc']:.4f}, is {best['method']}, looking for {best['looks_for']}: {kind}."
    )
    return [outcome, *odd]


def sections(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    found: Found,
) -> list[Section]:
    """All sections of the report on lesions, from what `anomalies.score_lesions` returns."""
    parts = [
        *_tables(facts, rows, comparisons),
        _precision_recall(found),
        *_by_name("AUPRC by group", [row for row in rows if row["group"]], "group"),
        *_by_name("AUPRC by person", [row for row in rows if row["subject"]], "subject"),
    ]
    if found.examples:
        parts.append(_pictures(found.examples))
    if facts.get("views"):
        what = "mark" if "mark_of_the_ensemble" in facts["settings"] else "anomaly map"
        parts.append(_views(facts["views"], what))
    return [*parts, _origin(facts)]


def short_sections(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    found: Found,
) -> list[Section]:
    """Its sections for a report that is not on lesions alone; the arguments are the same."""
    parts = _tables(facts, rows, comparisons)
    return [*parts, _pictures(found.examples)] if found.examples else parts


def _tables(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> list[Section]:
    overall = [row for row in rows if not row["subject"] and not row["group"]]
    caution = bootstrap.caution(len({row["subject"] for row in rows if row["subject"]}))
    return [_overall(facts, overall, caution), _compared(facts, comparisons, caution)]


def _overall(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], caution: str) -> Section:
    lines = [
        {
            "Method": row["method"],
            "Looks for": row["looks_for"],
            **{
                title: _with_interval(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))
                for name, title in _TITLES.items()
            },
            "Threshold": f"{row['threshold']:.4f}",
        }
        for row in rows
    ]
    where = facts.get("where") or (
        "Pixels count inside the head, the largest part of the slice brighter than a tenth of its "
        "range, holes filled"
    )
    if facts["settings"].get("region") == "inner":
        where += ", and only well inside its upper half, where brain is expected"
    notes = [
        f"The threshold is the {facts['settings']['percentile']:g}th percentile of healthy "
        "validation pixels; no lesion is used to set it. The threshold of the best possible Dice "
        f"is known from the masks alone. Intervals are 95%, from {histograms.RESAMPLES} bootstrap "
        "samples of people. All pixels of all people are pooled. Areas come from histograms and "
        f"differ from exact ones by less than {histograms.TOLERANCE:g}. {where}. {caution}".rstrip()
    ]
    return Section("Lesions: all pixels", tables={"": pd.DataFrame(lines)}, notes=notes)


def _compared(
    facts: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], caution: str
) -> Section:
    lines = [
        {
            "Model": row["model"],
            "Looks for": row["looks_for"],
            "Baseline": row["baseline"],
            "Difference of AUPRC": _with_interval(
                row["auprc_difference"], row["low"], row["high"], sign="+"
            ),
            "The model is": row["verdict"],
        }
        for row in comparisons
    ]
    settings = facts["settings"]
    if "blur_sigma_pixels" in settings:
        blurred = f"slice after a Gaussian of {settings['blur_sigma_pixels']:.2f} pixels"
        plain = (
            "the brightness for bright lesions, its opposite for dark ones, and its distance from "
            "the median of the head for either"
        )
    else:
        blurred = f"brain after a Gaussian of {settings['blur_sigma_mm']:g} mm"
        plain = "the difference from the median of the brain"
    note = (
        "Model and baseline look for the same. \u201cblurred input\u201d is the residual against "
        f"the {blurred}. \u201cintensity\u201d is {plain}. A model is better or worse if "
        f"the interval of the paired difference excludes 0. {caution}".rstrip()
    )
    return Section(
        "Lesions: models against baselines", tables={"": pd.DataFrame(lines)}, notes=[note]
    )


def _precision_recall(found: Found) -> Section:
    panels = {}
    for direction in DIRECTIONS:
        lines = {}
        for (name, looks_for), tally in found.tallies.items():
            if looks_for == direction:
                precision, recall = histograms.precision_recall(tally.overall)
                area = float(histograms.statistics(tally.overall, 0)["auprc"])
                lines[f"{name}, {area:.4f}"] = recall, precision
                chance = float(histograms.prevalence(tally.overall))
        title = f"looking for {direction}"
        panels[title] = figures.precision_recall(title, lines, chance)
    note = "Each name is followed by its AUPRC. The thin line is the precision of random scores."
    return Section("Precision and recall", figures=[Figure("", panels)], notes=[note])


def _by_name(title: str, rows: Sequence[Mapping[str, Any]], kind: str) -> list[Section]:
    """A table for each direction, with a row for each name and a column for each method."""
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    tables = {}
    for direction in DIRECTIONS:
        chosen = frame[frame["looks_for"] == direction]
        table = chosen.pivot(index=kind, columns="method", values="auprc")
        table = table[list(dict.fromkeys(chosen["method"]))]
        table["chance"] = chosen.drop_duplicates(kind).set_index(kind)["prevalence"]
        shown = table.map(_number).rename_axis("").reset_index()
        tables[f"Looking for {direction}"] = shown.rename_axis(None, axis=1)
    return [Section(title, tables=tables)]


def _pictures(examples: Sequence[Example]) -> Section:
    pairs = [(e.image, expected) for e in examples for expected in e.references.values()]
    limit = figures.residual_limit(pairs)
    shown = []
    for example in examples:
        panels = {
            "slice": figures.slice_png(example.image),
            "lesion": figures.outlined_png(example.image, example.lesion),
        }
        for name, expected in example.references.items():
            panels[name] = figures.slice_png(expected)
            panels[f"slice minus {name}"] = figures.residual_png(example.image - expected, limit)
        shown.append(Figure(example.title, panels, slices=True))
    note = (
        "Red where the slice is brighter than expected, blue where it is darker; colours are the "
        f"same in all pictures and saturate at \u00b1{limit:.3f}."
    )
    return Section("Lesions and residuals", figures=shown, notes=[note])


def _views(subjects: Sequence[str], what: str) -> Section:
    links = {name: f"anomaly_views/{urllib.parse.quote(name)}_view.html" for name in subjects}
    text = (
        f"Each volume with its lesion mask and the {what} of the first model, to move through in a "
        "browser. The pages are in the folder anomaly_views beside this page."
    )
    return Section("Volumes to look at", [text], links=links)


def _origin(facts: Mapping[str, Any]) -> Section:
    lines = {
        **{f"SHA-256 of {name}": sha for name, sha in facts["models"].items()},
        "Dataset": facts["dataset"],
        "Dataset's fingerprint": facts["dataset_fingerprint"] or "none recorded",
    }
    for table in (facts["counts"], facts["settings"]):
        lines |= {name.replace("_", " ").capitalize(): value for name, value in table.items()}
    table = pd.DataFrame({"": list(lines), " ": [str(value) for value in lines.values()]})
    return Section("What was scored, and with what", tables={"": table})


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "none"


def _with_interval(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None or not np.isfinite(low):
        return f"{value:{sign}.4f}"
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
