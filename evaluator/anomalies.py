"""Score how well residuals find lesions: `python -m evaluator anomalies --help`."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evaluator.options import (
    LENIENT,
    ONLY_WITH_ENSEMBLE,
    Dataset,
    ModelChecks,
    ScanChecks,
    check_folders,
    names_ensemble,
)
from ixi_tfds.cohorts import AS_NAMED, NameFlags
from ixi_tfds.cohorts.bids_filter import BidsFlags, Filter
from ixi_tfds.system import flags, folders, storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

if TYPE_CHECKING:
    from evaluator.lesions.pairs import Pair
    from evaluator.lesions.tallies import Found, Scorer
    from evaluator.models import Model
    from evaluator.report.page import Section
    from evaluator.scoring import Split
    from evaluator.volumes import Geometry

USAGE = """
python -m evaluator anomalies --saved_model=M[,M2] --data_dir=D --output_dir=O
  [--dataset=ixi_t1/thesis] [--source_dir=L]

Scores pixels by the residual, slice minus reconstruction, and by two baselines without a model: the
residual against the slice after a Gaussian blur, and the plain intensity. The dataset has healthy
people; its validation slices set the thresholds. Without --source_dir, synthetic lesions are put
into the test slices of the dataset. With it, the lesions are those of volumes with a mask of the
same name, such as a_T1.nii.gz and a_lesion.nii.gz, and the residuals are the maps that python -m
evaluator reconstruct writes. O/anomalies.csv and .json have the numbers; O/anomalies.html shows
them with pictures. O/anomaly_views has a page and a picture of each volume, with mask and map.

If M is the folder of an ensemble, made by python -m evaluator calibrate, whole brains are scored,
by its mark and by the percentile in its ensemble.json: the dataset is one of brains, such as
ixi_t1/brain_2mm_axial, synthetic lesions are 3-D, volumes with a skull need --brain_masks, and the
report has false alarms, too. Other models, named after the ensemble, are compared with it.
"""

VIEWS = "anomaly_views"
"""Folder of the views, in the output folder."""


@dataclasses.dataclass(frozen=True)
class LesionSettings:
    """How pixels are scored and judged; the fields are flags."""

    percentile: float = flag(
        "Pixels whose score is above this percentile of the scores of healthy validation pixels "
        "count as lesion. Not with an ensemble, which has its own.",
        99.0,
        above=0,
        below=100,
        unless=names_ensemble,
    )
    blur_sigma: float = flag(
        "Sigma of the blur baseline, as a share of the slice's height. Not with an ensemble.",
        0.02,
        above=0,
        most=1,
        unless=names_ensemble,
    )
    smooth_sigma: float = flag(
        "Sigma of a Gaussian over the scores of all methods, as a share of the slice's height; 0 "
        "for none. Not with an ensemble.",
        0.0,
        least=0,
        most=1,
        unless=names_ensemble,
    )
    region: str = flag(
        "Which pixels count: the whole head, or its inner upper part, where brain is expected in "
        "a scan with skull and face. Not with an ensemble.",
        "head",
        choices=("head", "inner"),
        unless=names_ensemble,
    )
    seed: int = flag("Seed of synthetic lesions and of the bootstrap.", 0, least=0)


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Volumes with lesion masks, to be scored on their own grids.

    Attributes:
      folder: that holds volumes and masks.
      asked: which volumes of a BIDS folder are asked for; None for all.
      names: who is the person in a file, and whether names are believed.
      views: folder for views of the volumes; None writes none.
      scans: what to do with volumes that may not be what a model knows.
    """

    folder: str
    asked: Filter | None = None
    names: NameFlags = AS_NAMED
    views: pathlib.Path | None = None
    scans: ScanChecks = LENIENT


@dataclasses.dataclass(frozen=True)
class AnomaliesConfig:
    """What to score and how; the fields are the flags."""

    saved_model: tuple[str, ...] = flag(
        "Folders of the SavedModels, separated by commas. The first may be the folder of an "
        "ensemble.json; others are then models of brains to compare.",
        path=True,
    )
    data: Dataset = dataclasses.field(kw_only=True)
    output_dir: str = flag("Folder for the results.", path=True)
    source_dir: str | None = flag(
        "Folder of NIfTI volumes and their lesion masks.", None, path=True
    )
    brain_masks: str | None = flag(
        "Folder of brain masks for an ensemble, by the volumes' names, where volumes have a skull.",
        None,
        path=True,
    )
    names: NameFlags = dataclasses.field(default_factory=NameFlags, kw_only=True)
    bids: BidsFlags = dataclasses.field(default_factory=BidsFlags, kw_only=True)
    batch_size: int = flag(
        "Slices in a batch. Not with an ensemble.", 32, least=1, unless=names_ensemble
    )
    view: bool = flag(
        "With --source_dir, write a page and a picture of each volume to look at.", True
    )
    settings: LesionSettings = dataclasses.field(default_factory=LesionSettings, kw_only=True)
    scans: ScanChecks = dataclasses.field(default_factory=ScanChecks, kw_only=True)
    checks: ModelChecks = dataclasses.field(default_factory=ModelChecks, kw_only=True)

    def __post_init__(self) -> None:
        flags.check(self)
        check_folders("saved_model", self.saved_model)
        if self.bids.bids_filter and self.source_dir is None:
            raise UserError("--bids_filter goes with --source_dir, a BIDS folder")


def main(config: AnomaliesConfig) -> None:
    """Score lesions, write the files and print the table.

    Raises:
      UserError: models, dataset, volumes or output folder do not exist or do not fit together.
    """
    from evaluator import scoring
    from evaluator.brains import ensemble
    from evaluator.report import lesions

    if any(ensemble.is_ensemble(storage.at(path)) for path in config.saved_model):
        _judge_brains(config)
        return
    if config.brain_masks:
        raise UserError(f"--brain_masks {ONLY_WITH_ENSEMBLE}")
    with folders.writing(config.output_dir, "output_dir"):
        data = config.data
        validation = scoring.open_split(
            storage.at(data.data_dir), data.dataset, "validation", "quick"
        )
        models = scoring.load_fitting(config.saved_model, validation, config.checks)
        output_dir = storage.at(config.output_dir)
        volumes = config.source_dir and Volumes(
            config.source_dir,
            config.bids.asked,
            config.names,
            output_dir / VIEWS if config.view else None,
            config.scans,
        )
        scored = score_lesions(
            models, data, config.settings, volumes=volumes or None, batch_size=config.batch_size
        )
        sections = lesions.sections(*scored)
        _publish(output_dir, "Do residuals find lesions?", scored[:3], sections)


def _judge_brains(config: AnomaliesConfig) -> None:
    from evaluator.brains import scoring
    from evaluator.report import brains, lesions

    with folders.writing(config.output_dir, "output_dir"):
        output_dir = storage.at(config.output_dir)
        views = output_dir / VIEWS if config.view and config.source_dir else None
        scored, pictures = scoring.score(config, views)
        table, *others = lesions.sections(*scored)
        sections = [table, *brains.sections(scored[0], scored[1], pictures), *others]
        _publish(output_dir, "Does the ensemble find lesions?", scored[:3], sections)


def _publish(
    output_dir: pathlib.Path,
    title: str,
    scored: tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]],
    sections: Sequence[Section],
) -> None:
    """Write the files and print the tables; `scored` are facts, rows and comparisons."""
    from evaluator.lesions import detection
    from evaluator.report import lesions, page

    facts, rows, comparisons = scored
    texts = detection.result_files(rows, comparisons, facts)
    texts["anomalies.html"] = page.render(title, lesions.lead(facts, rows), sections)
    folders.write_files(output_dir, texts)
    if not facts.get("views"):
        storage.remove_tree(output_dir / VIEWS)
    detection.print_lesions(facts, rows, comparisons)
    print(f"\nReport: {output_dir / 'anomalies.html'}")


def score_lesions(
    models: Sequence[Model],
    data: Dataset,
    settings: LesionSettings,
    *,
    volumes: Volumes | None = None,
    batch_size: int = 32,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], Found]:
    """Score lesions by models and baselines.

    Args:
      models: models to compare.
      data: dataset of healthy people.
      settings: how pixels are scored.
      volumes: volumes with masks; None puts synthetic lesions into the test slices.
      batch_size: slices in a batch.

    Returns:
      Facts on what was scored, rows and comparisons of `detection.measure`, and histograms with
      examples.

    Raises:
      UserError: dataset or volumes do not exist or do not fit the models.
    """
    from evaluator import looks, scoring
    from evaluator.lesions import detection, tallies

    root = storage.at(data.data_dir)
    validation = scoring.open_split(root, data.dataset, "validation", data.verify)
    scorer = _scorer(models, settings, validation.size[0], batch_size)
    facts = _facts(scorer, validation, settings)
    if volumes is None:
        test = scoring.open_split(root, data.dataset, "test", data.verify)
        facts["lesions"] = f"synthetic, in the test slices of {test.dataset}"
        found = tallies.tally_split(scorer, test, seed=settings.seed)
    else:
        pairs, geometry = _find_volumes(volumes, data, facts)
        strict = volumes.scans.strict
        looks.check_known(geometry, "the dataset", strict=strict, heads=tallies.HEADS)
        found = _tally_volumes(scorer, pairs, geometry, volumes, facts)
    healthy = tallies.tally_split(scorer, validation, seed=None)
    limits = detection.thresholds(healthy.tallies, settings.percentile)
    rows, comparisons = detection.measure(found.tallies, limits, seed=settings.seed)
    facts["counts"] = found.facts
    return facts, rows, comparisons, found


def _scorer(
    models: Sequence[Model], settings: LesionSettings, height: int, batch_size: int
) -> Scorer:
    from evaluator.lesions import tallies

    return tallies.Scorer(
        models=models,
        batch_size=batch_size,
        blur_sigma=settings.blur_sigma * height,
        smooth_sigma=settings.smooth_sigma * height,
        inner=settings.region == "inner",
    )


def _facts(scorer: Scorer, validation: Split, settings: LesionSettings) -> dict[str, Any]:
    return {
        "models": {model.name: model.sha256 for model in scorer.models},
        "dataset": validation.dataset,
        "dataset_fingerprint": validation.fingerprint,
        "settings": {
            "region": settings.region,
            "percentile": settings.percentile,
            "blur_sigma_pixels": scorer.blur_sigma,
            "smooth_sigma_pixels": scorer.smooth_sigma,
            "seed": settings.seed,
        },
    }


def _find_volumes(
    asked: Volumes, data: Dataset, facts: dict[str, Any]
) -> tuple[list[Pair], Geometry]:
    """The volumes with masks and the dataset's geometry; describes the volumes in `facts`."""
    from evaluator import volumes
    from evaluator.lesions import pairs
    from ixi_tfds import datasets
    from ixi_tfds.documents import manifest

    chosen, alone = pairs.find_pairs(asked.folder, asked.asked, asked.names)
    facts["lesions"] = (
        "1 volume with its mask, scored on its own grid"
        if len(chosen) == 1
        else f"{len(chosen)} volumes with masks, scored on their own grids"
    )
    facts["volumes_without_mask"] = len(alone)
    made = manifest.read(datasets.find_dataset(storage.at(data.data_dir), data.dataset))
    if made.geometry is None and made.config.spacing is None:
        print(
            "warning: the dataset does not tell the voxel size of its scans, so volumes are "
            "cropped or padded and never resampled; make the dataset again with beam_preprocess",
            file=sys.stderr,
        )
    return chosen, volumes.geometry_of(made.config, made.geometry, [made.look])


def _tally_volumes(
    scorer: Scorer,
    pairs: Sequence[Pair],
    geometry: Geometry,
    asked: Volumes,
    facts: dict[str, Any],
) -> Found:
    """Score volumes and write their views; tells in `facts` and on standard error what is odd."""
    from evaluator import views
    from evaluator.lesions import tallies

    view = None if asked.views is None else views.views_into(asked.views, facts)
    found = tallies.tally_volumes(scorer, pairs, geometry, asked.scans, view=view)
    facts["unlike_training"] = {name: said["unlike_training"] for name, said in found.scans.items()}
    facts["warnings"] = {n: said["warnings"] for n, said in found.scans.items() if said["warnings"]}
    for subject, warnings in facts["warnings"].items():
        for warning in warnings:
            print(f"warning: {subject}: {warning}", file=sys.stderr)
    unseen, lesions = found.facts["lesion_voxels_unseen"], found.facts["lesion_voxels"]
    if unseen:
        print(
            f"warning: {unseen} of {lesions} lesion voxels ({unseen / lesions:.1%}) lie outside "
            "the model's field of view; they count as missed by every method",
            file=sys.stderr,
        )
    return found


COMMAND = Command(AnomaliesConfig, main, "score how well residuals find lesions", USAGE)
