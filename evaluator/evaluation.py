"""Scoring models on a split, from the folders of the SavedModels to the files of results."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator import (
    anomalies,
    anomaly_report,
    detection,
    report,
    results,
    robustness,
    robustness_report,
    scoring,
    sections,
)
from evaluator.scoring import Model, Split
from ixi_tfds import folders
from ixi_tfds.images.metrics import METRICS


def evaluate(
    saved_models: Sequence[pathlib.Path],
    output_dir: pathlib.Path,
    *,
    data_dir: pathlib.Path,
    dataset: str,
    split: str,
    batch_size: int,
    corrupted: bool,
    lesions: bool,
    workdirs: Sequence[pathlib.Path],
    verify: str,
    allow_changed_model: bool,
    allow_other_preprocessing: bool,
) -> None:
    """Score models, write the results and print the statistics.

    Args:
      saved_models: folder of each; the others are compared with the first.
      output_dir: existing folder for `scores.csv`, `summary.json`, `report.html`.
      data_dir: root of the datasets.
      dataset: name and config within it.
      split: name of the split to score.
      batch_size: slices at a time.
      corrupted: score corrupted inputs, too, into `robustness.csv`.
      lesions: score synthetic lesions in the test split, too, into `anomalies.csv`.
      workdirs: of the run of each model, or none to look where the trainer leaves them.
      verify: as `scoring.open_split` takes it.
      allow_changed_model: as `scoring.load_model` takes it.
      allow_other_preprocessing: as `scoring.check_fit` takes it.

    Raises:
      UserError: a model, dataset or split is not there or not fit for the others.
    """
    opened = scoring.open_split(data_dir, dataset, split, verify)
    models = scoring.load_models(saved_models, allow_changed_model=allow_changed_model)
    for model in models:
        scoring.check_fit(model, opened, allow_other_preprocessing=allow_other_preprocessing)
    tables = [scoring.score_split(model, opened, batch_size=batch_size) for model in models]
    scores = pd.concat(tables, ignore_index=True)
    frame = robustness.score_corrupted(models, opened, batch_size=batch_size) if corrupted else None
    curves = None if frame is None else robustness.curves(frame)
    facts = results.summary(models, opened, scores)
    keys = list(results.gallery(scores).values())
    if frame is not None:
        keys += list(robustness_report.collage_slices(frame)["key"])
    slices = scoring.read_slices(opened, dict.fromkeys(keys), batch_size=batch_size)
    parts = _sections(models, facts, scores, slices, workdirs)
    texts = results.result_files(scores, facts, curves)
    if frame is not None and curves is not None:
        section = robustness_report.robustness_section(frame, curves, models, slices)
        parts.insert(-2, section)
    if lesions:
        scored = anomalies.score_lesions(
            models,
            data_dir=data_dir,
            dataset=dataset,
            source_dir=None,
            batch_size=batch_size,
            verify=verify,
        )
        parts[-2:-2] = anomaly_report.short_sections(*scored)
        texts |= detection.result_files(scored[1], scored[2], scored[0])
    page = report.render(*_head(models, opened, facts), parts)
    folders.write_files(output_dir, texts | {"report.html": page})
    _print(facts)
    if lesions:
        anomalies.print_lesions(*scored[:3])
    print(f"\nReport: {output_dir / 'report.html'}")


def _sections(
    models: Sequence[Model],
    facts: dict[str, Any],
    scores: pd.DataFrame,
    slices: dict[str, np.ndarray],
    workdirs: Sequence[pathlib.Path],
) -> list[report.Section]:
    chosen = results.gallery(scores)
    histories = sections.find_histories(models, workdirs)
    parts = [
        sections.scores_section(facts),
        sections.subjects_section(facts),
        sections.groups_section(scores),
        sections.gallery_section(chosen, slices, models, scores),
        sections.spread_section(scores),
    ]
    if histories:
        cards = {model.name: model.card for model in models}
        parts.append(sections.learning_section(histories, cards))
    parts += [sections.people_section(scores), sections.origin_section(facts, models)]
    return [part for part in parts if part.tables or part.figures]


def _head(models: Sequence[Model], split: Split, facts: dict[str, Any]) -> tuple[str, list[str]]:
    """The report's title, and what stands below it."""
    who = models[0].name if len(models) == 1 else f"{len(models)} models"
    title = f"How well {who} reconstruct{'s' if len(models) == 1 else ''} {split.dataset}"
    best = max(facts["models"], key=lambda entry: entry["psnr"]["mean"])
    lead = (
        f"{facts['slices']} slices of {facts['subjects']} people, the {split.name} split: "
        + (f"highest on average is {best['model']} with " if len(models) > 1 else "on average ")
        + f"PSNR {best['psnr']['mean']:.2f} dB, SSIM {best['ssim']['mean']:.4f} and a mean "
        f"absolute error of {best['mae']['mean']:.4f}."
    )
    return title, [lead]


def _print(facts: dict[str, Any]) -> None:
    print(f"\n{facts['dataset']}, {facts['split']}: {facts['slices']} slices", end=" ")
    print(f"of {facts['subjects']} subjects")
    for entry in facts["models"]:
        table = pd.DataFrame({name: entry[name] for name in METRICS}).T
        print(f"\n{entry['model']}\n{table.to_string(float_format='{:.6f}'.format)}")
