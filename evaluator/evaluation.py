"""The work of `python -m evaluator`: scores models on a split and writes the results."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator import anomalies, results, robustness, scoring
from evaluator.anomalies import LesionSettings
from evaluator.lesions import detection
from evaluator.models import Model
from evaluator.report import lesions, page, sections
from evaluator.report import robustness as robustness_report
from evaluator.score import ScoreConfig
from evaluator.scoring import Split
from ixi_tfds.images.metrics import METRICS
from ixi_tfds.system import folders, storage


def evaluate(config: ScoreConfig) -> None:
    """Score models, write the results and print the statistics.

    Writes `scores.csv`, `summary.json` and `report.html` to the output folder, which must exist;
    also `robustness.csv` with `robustness`, `anomalies.csv` and `anomalies.json` with `lesions`.

    Raises:
      UserError: a model, dataset or split does not exist or does not fit the others.
    """
    data = config.data
    split = scoring.open_split(storage.at(data.data_dir), data.dataset, config.split, data.verify)
    models = scoring.load_fitting(config.saved_model, split, config.checks)
    tables = [scoring.score_split(model, split, batch_size=config.batch_size) for model in models]
    scores = pd.concat(tables, ignore_index=True)
    facts = results.summary(models, split, scores)
    keys = list(results.gallery(scores).values())
    corrupted = curves = None
    if config.robustness:
        corrupted = robustness.score_corrupted(models, split, batch_size=config.batch_size)
        keys += list(robustness_report.collage_slices(corrupted)["key"])
    slices = scoring.read_slices(split, dict.fromkeys(keys), batch_size=config.batch_size)
    parts = _sections(models, facts, scores, slices, [storage.at(path) for path in config.workdir])
    if corrupted is not None:
        curves = robustness.curves(corrupted)
        parts.insert(-2, robustness_report.robustness_section(corrupted, curves, models, slices))
    texts = results.result_files(scores, facts, curves)
    if config.lesions:
        scored = anomalies.score_lesions(
            models, config.data, LesionSettings(), batch_size=config.batch_size
        )
        parts[-2:-2] = lesions.short_sections(*scored)
        texts |= detection.result_files(scored[1], scored[2], scored[0])
    texts["report.html"] = page.render(*_head(models, split, facts), parts)
    output_dir = storage.at(config.output_dir)
    folders.write_files(output_dir, texts)
    _print(facts)
    if config.lesions:
        detection.print_lesions(*scored[:3])
    print(f"\nReport: {output_dir / 'report.html'}")


def _sections(
    models: Sequence[Model],
    facts: dict[str, Any],
    scores: pd.DataFrame,
    slices: dict[str, np.ndarray],
    workdirs: Sequence[pathlib.Path],
) -> list[page.Section]:
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
    """The report's title and its first paragraph."""
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
