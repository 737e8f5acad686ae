"""How well an ensemble finds lesions: synthetic ones in test brains, or those of scans."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm
from scipy import ndimage

from evaluator.brains import ensemble, healthy, maps, scans, tally
from evaluator.brains.pictures import Picture, picture_of
from evaluator.lesions import detection, pairs
from evaluator.lesions.tallies import Found, Method, Tally
from evaluator.models import load_models
from evaluator.views import add_name
from ixi_tfds.cohorts.brain_masks import find_masks
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError

if TYPE_CHECKING:
    from evaluator.anomalies import AnomaliesConfig
    from evaluator.brains.ensemble import Ensemble
    from evaluator.brains.tally import Judge

WHERE = (
    "Voxels count inside the brain; in the rim of its mask, "
    f"{maps.RIM_MM:g} mm deep, all scores are 0. All methods are smoothed by a median of "
    f"{maps.MEDIAN}x{maps.MEDIAN}x{maps.MEDIAN} "
    "voxels of the models' grid"
)

Scored = tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], Found]


def score(config: AnomaliesConfig, views: pathlib.Path | None) -> tuple[Scored, list[Picture]]:
    """Score lesions by an ensemble, by other models and by baselines.

    Args:
      config: its first model is the folder of an ensemble.
      views: folder for views of scans; None writes none.

    Returns:
      Facts on what was scored, rows and comparisons of `detection.measure`, the histograms, and
      pictures.

    Raises:
      UserError: models, dataset or scans cannot be used or do not fit together.
    """
    joined, judge = _open(config)
    data, everyone = config.data, [*judge.models, *judge.others]
    made, (validation, test) = healthy.open_splits(
        data, config.checks, everyone, joined.slices, ("validation", "test")
    )
    brains = functools.partial(healthy.shown_brains, config=made.config)
    limits = detection.thresholds(
        tally.of_healthy(judge, brains(validation, "healthy"))[0], joined.percentile
    )
    held_out, quality = tally.of_healthy(judge, brains(test, "held out"))
    facts: dict[str, Any] = {
        "settings": _settings(joined, config.settings.seed),
        "where": WHERE,
        "models": {model.name: model.sha256 for model in everyone},
        "dataset": data.dataset,
        "dataset_fingerprint": made.fingerprint,
        "false_alarms": tally.false_alarms(held_out, limits, made.config),
        "healthy_heads": len(next(iter(held_out.values())).subjects),
        "quality": quality,
    }
    if config.source_dir is None:
        facts["lesions"] = f"synthetic, {tally.ROUNDS} times in each test brain of {data.dataset}"
        tallies, sizes, pictures = _synthetic(judge, brains(test, "lesions"), limits, config)
    else:
        tallies, sizes, pictures = _scans(judge, joined, limits, config, facts, views)
    facts["by_size"] = tally.by_size(sizes)
    facts["counts"] = {"lesions": len({(row["subject"], row["lesion"]) for row in sizes})}
    rows, comparisons = detection.measure(tallies, limits, seed=config.settings.seed)
    found = Found(tallies, facts["counts"], [])
    return (facts, rows, comparisons, found), pictures


def _open(config: AnomaliesConfig) -> tuple[Ensemble, Judge]:
    """The ensemble, its models, and those that are compared with it."""
    first, *others = map(storage.at, config.saved_model)
    if not ensemble.is_ensemble(first) or any(map(ensemble.is_ensemble, others)):
        raise UserError("--saved_model: name one ensemble, and that first; others are models")
    joined, models = ensemble.read(first, config.checks)
    allowed = config.checks.allow_changed_model
    beside = [
        dataclasses.replace(model, name=f"{model.name} alone")
        for model in load_models(others, allow_changed_model=allowed)
    ]
    ensemble.check_same_space([*models, *beside])
    return joined, tally.Judge(tuple(models), tuple(beside), joined.mean)


def _settings(joined: Ensemble, seed: int) -> dict[str, Any]:
    return {
        "mark_of_the_ensemble": ensemble.marking_task(each.task for each in joined.members),
        "mean_over_planes": joined.mean,
        "percentile": joined.percentile,
        "threshold_of_the_ensemble": joined.threshold,
        "blur_sigma_mm": maps.BLUR_MM,
        "rim_mm": maps.RIM_MM,
        "seed": seed,
    }


def _synthetic(
    judge: Judge, brains: Any, limits: Mapping[Method, int], config: AnomaliesConfig
) -> tuple[dict[Method, Tally], list[dict[str, Any]], list[Picture]]:
    pictures: list[Picture] = []

    def show(title: str, found: tally.Judged) -> None:
        if len(pictures) < tally.PICTURES and title.endswith(" 0"):
            pictures.append(picture_of(title, found))

    tallies, sizes = tally.of_synthetic(judge, brains, limits, seed=config.settings.seed, show=show)
    return tallies, sizes, pictures


def _scans(
    judge: Judge,
    joined: Ensemble,
    limits: Mapping[Method, int],
    config: AnomaliesConfig,
    facts: dict[str, Any],
    views: pathlib.Path | None,
) -> tuple[dict[Method, Tally], list[dict[str, Any]], list[Picture]]:
    assert config.source_dir
    chosen, alone = pairs.find_pairs(config.source_dir, config.bids.asked, config.names)
    masks = {}
    if config.brain_masks:
        paths = [pair.scan.path for pair in chosen]
        masks = find_masks(config.brain_masks, config.source_dir, paths)
    facts["lesions"] = f"those of {len(chosen)} scans with a mask, on the scans' own grids"
    facts["volumes_without_mask"] = len(alone)
    tallies: dict[Method, Tally] = {}
    sizes: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for pair in tqdm.tqdm(chosen, unit="scan", disable=None):
        subject, path = pair.scan.subject, pair.scan.path
        allowed = config.scans.allow_unknown_orientation
        scan = scans.open_scan(path, masks.get(path), joined, config.scans)
        if scan.warnings:
            facts.setdefault("warnings", {})[subject] = scan.warnings
        for warning in scan.warnings:
            print(f"warning: {subject}: {warning}", file=sys.stderr)
        lesion = pairs.read_mask(pair, scan.volume, allow_unknown_orientation=allowed)
        found = judge.judge(scan.brain, subject)
        scores = {name: scans.score_on_scan(scan, each) for name, each in found.scores.items()}
        inside = scan.inside & scans.seen(scan)
        _tell_unseen(subject, lesion, inside, facts)
        tally.add(tallies, subject, scores, inside, lesion)
        voxel = math.prod(scan.volume.zooms) / 1000
        sizes += tally.by_lesion(subject, scores, ndimage.label(lesion)[0], limits, voxel)
        if len(pictures) < tally.PICTURES:
            on_grid = scans.on_grid(scan, lesion)
            pictures.append(picture_of(subject, found.with_lesion(on_grid)))
        if views is not None:
            name = add_name(views, subject, facts)
            mark = scores[maps.ENSEMBLE]
            scans.write_view(views, name, scan, mark, joined, lesion=lesion)
    return tallies, sizes, pictures


def _tell_unseen(
    subject: str, lesion: np.ndarray, inside: np.ndarray, facts: dict[str, Any]
) -> None:
    """Say how much of a lesion no method can find."""
    unseen, voxels = int((lesion & ~inside).sum()), int(lesion.sum())
    if unseen:
        facts.setdefault("lesion_voxels_unseen", {})[subject] = unseen
        print(
            f"warning: {subject}: {unseen} of {voxels} lesion voxels ({unseen / voxels:.1%}) lie "
            "outside the brain mask or the models' box; they count as missed by every method",
            file=sys.stderr,
        )
