"""The page on lesions: one HTML file with tables and pictures in it."""

import base64
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from evaluator import anomaly_figures, curves
from evaluator.tallies import Found


def render(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    found: Found,
) -> str:
    """The page as HTML that needs no other file and no network.

    Args:
      facts: what was scored.
      rows: what `detection.measure` gives.
      comparisons: likewise.
      found: histograms and examples.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    template = importlib.resources.files("evaluator").joinpath("anomalies.html")
    figures = {"Precision against recall": anomaly_figures.precision_recall(found.tallies)}
    if found.examples:
        figures["Lesions and residuals"] = anomaly_figures.overlays(found.examples)
    overall = [row for row in rows if not row["subject"] and not row["group"]]
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        facts=facts,
        overall=overall,
        best=max(overall, key=lambda row: row["auprc"]),
        comparisons=comparisons,
        groups=_by_name(rows, "group"),
        subjects=_by_name(rows, "subject"),
        methods=[(row["method"], row["looks_for"]) for row in overall],
        figures={name: base64.b64encode(png).decode() for name, png in figures.items()},
        tolerance=curves.TOLERANCE,
        resamples=curves.RESAMPLES,
    )


def _by_name(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each group or subject, methods in the order of the overall ones."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row[kind]:
            found.setdefault(row[kind], []).append(row)
    return found


def _number(value: float) -> str:
    return "none" if value != value else f"{value:.4f}"
