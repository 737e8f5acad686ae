"""The maps of a scan by an ensemble, as files."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluator import map_files, viewer
from evaluator.brains import maps, scans
from evaluator.brains.ensemble import Ensemble, task_of
from evaluator.brains.tally import Judge
from evaluator.models import Model
from ixi_tfds.images.tissue import WHITE_MATTER
from ixi_tfds.system import folders

_TISSUES = ("fluid", "grey matter", "white matter")


def write_maps(
    models: Sequence[Model],
    joined: Ensemble,
    scan: scans.BrainScan,
    folder: pathlib.Path,
    name: str,
    *,
    view: bool,
) -> dict[str, Any]:
    """Write the maps of a scan by the models that make the mark, and give what its JSON file says.

    Raises:
      ScanError: a model's values are not finite.
      OSError: a file cannot be written.
    """
    task = task_of(models[0])
    judge = Judge(tuple(models), mean=joined.mean, baselines=False)
    found = judge.judge(scan.brain, scan.path)
    score = scans.score_on_scan(scan, found.scores[maps.ENSEMBLE])
    residual = scans.on_scan(scan, found.residuals[task], np.nan)
    repaired = scans.on_scan(scan, scan.brain.values - found.residuals[task], np.nan)
    marked = np.abs(score) > joined.threshold
    shown = scan.inside & scans.seen(scan)
    judged = scans.on_scan(scan, maps.inner(scan.brain).astype(np.float32)) > 0
    written = {
        "reconstruction": repaired,
        "anomaly": residual,
        "mark": np.where(shown, score, np.float32(np.nan)),
        "lesions": marked.astype(np.uint8),
        "seen": np.where(shown, np.uint8(1) + judged, np.uint8(0)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    viewer.remove_view(folder, name)
    for kind, values in written.items():
        map_files.write_map(folder / f"{name}_{kind}.nii.gz", values, scan.volume)
    facts = _facts(models, joined, scan, marked)
    if view:
        scans.write_view(folder, name, scan, score, joined)
    text = json.dumps(facts, indent=1) + "\n"
    folders.write_files(folder, {f"{name}_reconstruction.json": text})
    return facts


def summary(facts: dict[str, Any]) -> str:
    """The facts of a scan in a line."""
    return (
        f"{facts['brain_ml']:.0f} ml of brain, {facts['above_threshold_ml']:.1f} ml "
        f"({facts['above_threshold']:.2%}) above the threshold; {facts['in_healthy']}"
    )


def _facts(
    models: Sequence[Model], joined: Ensemble, scan: scans.BrainScan, marked: np.ndarray
) -> dict[str, Any]:
    brain, above = scans.ml(scan, scan.inside), scans.ml(scan, marked)
    return {
        "input": pathlib.PurePath(scan.path).name,
        "models": {model.name: model.sha256 for model in models},
        "mark": scans.MEANING,
        "anomaly": "brain minus what the models expect, where white matter is at "
        f"{WHITE_MATTER:g}, after the bias field was divided out",
        "brain_mask": scan.mask and pathlib.PurePath(scan.mask).name,
        "tissues": dict(zip(_TISSUES, (round(mean, 4) for mean in scan.tissues), strict=True)),
        "tissues_of_training": dict(zip(_TISSUES, joined.tissues, strict=True)),
        "threshold": joined.threshold,
        "brain_ml": round(brain, 1),
        "brain_outside_box": scan.brain.outside,
        "in_healthy": scans.in_healthy(joined),
        "above_threshold_ml": round(above, 2),
        "above_threshold": round(above / brain, 6),
        "healthy_ml": round(joined.healthy.ml, 2),
        "healthy": joined.healthy.share,
        "warnings": scan.warnings,
    }
