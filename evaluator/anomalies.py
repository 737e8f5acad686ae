"""Do the residuals of a model find lesions? `python -m evaluator anomalies --help`."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from evaluator import bundle
from ixi_tfds import cli, folders, storage
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS

if TYPE_CHECKING:
    from evaluator.scoring import Model
    from evaluator.tallies import Found

USAGE = """
python -m evaluator anomalies --saved_model=M[,M2] --data_dir=D --output_dir=O
  [--dataset=ixi_t1/thesis] [--source_dir=L]

Scores pixels by the residual of slice and reconstruction, beside two baselines that know no model:
residual against a Gaussian-blurred slice, and plain intensity. Without --source_dir, on synthetic
lesions in the dataset's test slices; with it, on volumes whose lesions a mask of the same name
marks, such as a_T1.nii.gz and a_lesion.nii.gz. O/anomalies.csv and O/anomalies.json have the
numbers, O/anomalies.html those and pictures, for a person.
"""

PERCENTILE, BLUR_SIGMA = 99.0, 0.02

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "saved_model", None, "Folders of the SavedModels, parted by commas.", flag_values=FLAGS
)
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string(
    "dataset",
    "ixi_t1/thesis",
    "Dataset and config under --data_dir: healthy people, whose validation slices set the "
    "thresholds.",
    flag_values=FLAGS,
)
flags.DEFINE_string("output_dir", None, "Folder for the results.", flag_values=FLAGS)
flags.DEFINE_string(
    "source_dir", None, "Folder of NIfTI volumes and their lesion masks.", flag_values=FLAGS
)
flags.DEFINE_integer("batch_size", 32, "Slices at a time.", flag_values=FLAGS)
flags.DEFINE_float(
    "percentile",
    PERCENTILE,
    "Percentage of healthy validation pixels that may not count as lesion.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "blur_sigma",
    BLUR_SIGMA,
    "Sigma of the blurred baseline, as a share of the slice's height.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "smooth_sigma",
    0.0,
    "Sigma of a Gaussian over the scores of all methods, as a share of the slice's height; 0 for "
    "none.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "region",
    "head",
    ["head", "inner"],
    "Which pixels count: the whole head, or the inner upper part of it, where brain is to be "
    "expected in a scan with skull and face.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "Of synthetic lesions and of the bootstrap.", flag_values=FLAGS)
flags.DEFINE_enum(
    "verify",
    "full",
    CHECKS,
    "What to check of the dataset first: every byte, or names and sizes.",
    flag_values=FLAGS,
)
bundle.define_flags(FLAGS)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to score and how; the fields are the flags."""

    saved_model: tuple[pathlib.Path, ...]
    data_dir: pathlib.Path
    dataset: str
    output_dir: pathlib.Path
    source_dir: pathlib.Path | None
    batch_size: int
    percentile: float
    blur_sigma: float
    smooth_sigma: float
    region: str
    seed: int
    verify: str
    allow_changed_model: bool
    allow_other_preprocessing: bool

    def __post_init__(self) -> None:
        for path in self.saved_model:
            if not path.is_dir():
                raise UserError(f"--saved_model={path}: no such folder")
        if not self.data_dir.is_dir():
            raise UserError(f"--data_dir={self.data_dir}: no such folder")
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed={self.seed}: must not be negative")
        if not 0 < self.percentile < 100:
            raise UserError(f"--percentile={self.percentile}: must lie between 0 and 100")
        if not 0 < self.blur_sigma <= 1:
            raise UserError(f"--blur_sigma={self.blur_sigma}: must be above 0, and at most 1")
        if not 0 <= self.smooth_sigma <= 1:
            raise UserError(f"--smooth_sigma={self.smooth_sigma}: must be between 0 and 1")


def _config(positional: Sequence[str]) -> Config:
    if positional:
        raise UserError(f"unexpected argument {positional[0]!r}: everything is given by flags")
    for flag in ("saved_model", "data_dir", "output_dir"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing")
    return Config(
        saved_model=tuple(map(storage.at, FLAGS.saved_model)),
        data_dir=storage.at(FLAGS.data_dir),
        dataset=FLAGS.dataset,
        output_dir=storage.at(FLAGS.output_dir),
        source_dir=storage.at(FLAGS.source_dir) if FLAGS.source_dir else None,
        batch_size=FLAGS.batch_size,
        percentile=FLAGS.percentile,
        blur_sigma=FLAGS.blur_sigma,
        smooth_sigma=FLAGS.smooth_sigma,
        region=FLAGS.region,
        seed=FLAGS.seed,
        verify=FLAGS.verify,
        allow_changed_model=FLAGS.allow_changed_model,
        allow_other_preprocessing=FLAGS.allow_other_preprocessing,
    )


def find_lesions(config: Config) -> None:
    """Score, write the files and print the table.

    Raises:
      UserError: models, dataset, volumes or output folder are not there or not fit for the others.
    """
    with folders.writing(config.output_dir, "output_dir"):
        _find_lesions(config)


def _find_lesions(config: Config) -> None:
    from evaluator import anomaly_report, detection, report, scoring

    validation = scoring.open_split(config.data_dir, config.dataset, "validation", "quick")
    models = scoring.load_models(config.saved_model, allow_changed_model=config.allow_changed_model)
    for model in models:
        scoring.check_fit(
            model, validation, allow_other_preprocessing=config.allow_other_preprocessing
        )
    facts, rows, comparisons, found = score_lesions(
        models,
        data_dir=config.data_dir,
        dataset=config.dataset,
        source_dir=config.source_dir,
        batch_size=config.batch_size,
        verify=config.verify,
        percentile=config.percentile,
        blur_sigma=config.blur_sigma,
        smooth_sigma=config.smooth_sigma,
        region=config.region,
        seed=config.seed,
    )
    texts = detection.result_files(rows, comparisons, facts)
    sections = anomaly_report.sections(facts, rows, comparisons, found)
    lead = anomaly_report.lead(facts, rows)
    page = report.render("Do residuals find lesions?", lead, sections)
    folders.write_files(config.output_dir, texts | {"anomalies.html": page})
    print_lesions(facts, rows, comparisons)
    print(f"\nReport: {config.output_dir / 'anomalies.html'}")


def score_lesions(
    models: "Sequence[Model]",
    *,
    data_dir: pathlib.Path,
    dataset: str,
    source_dir: pathlib.Path | None,
    batch_size: int,
    verify: str = "full",
    percentile: float = PERCENTILE,
    blur_sigma: float = BLUR_SIGMA,
    smooth_sigma: float = 0.0,
    region: str = "head",
    seed: int = 0,
) -> "tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], Found]":
    """Score lesions by models and baselines; the arguments are the flags of the same names.

    Returns:
      What was scored, rows and comparisons as `detection.measure` gives them, and histograms with
      examples.

    Raises:
      UserError: dataset or volumes are not there or not fit.
    """
    from evaluator import detection, pairs, scoring, tallies

    validation = scoring.open_split(data_dir, dataset, "validation", verify)
    height = validation.size[0]
    scorer = tallies.Scorer(
        models=models,
        batch_size=batch_size,
        blur_sigma=blur_sigma * height,
        smooth_sigma=smooth_sigma * height,
        inner=region == "inner",
    )
    facts: dict[str, Any] = {
        "models": {model.name: model.sha256 for model in models},
        "dataset": validation.dataset,
        "dataset_fingerprint": validation.fingerprint,
        "settings": {
            "region": region,
            "percentile": percentile,
            "blur_sigma_pixels": scorer.blur_sigma,
            "smooth_sigma_pixels": scorer.smooth_sigma,
            "seed": seed,
        },
    }
    if source_dir is None:
        test = scoring.open_split(data_dir, dataset, "test", verify)
        facts["lesions"] = f"synthetic, in the test slices of {test.dataset}"
        found = tallies.tally_split(scorer, test, seed=seed)
    else:
        chosen, alone = pairs.find_pairs(str(source_dir))
        facts["lesions"] = (
            "1 volume with its mask, scored on its own grid"
            if len(chosen) == 1
            else f"{len(chosen)} volumes with masks, scored on their own grids"
        )
        facts["volumes_without_mask"] = len(alone)
        geometry = _geometry(data_dir, dataset)
        if geometry.zooms is None:
            print(
                "warning: the dataset does not tell the voxel size of its scans, so volumes are "
                "cropped or padded and never resampled; make it again with beam_preprocess",
                file=sys.stderr,
            )
        found = tallies.tally_volumes(scorer, chosen, geometry)
    healthy = tallies.tally_split(scorer, validation, seed=None)
    limits = detection.thresholds(healthy.tallies, percentile)
    rows, comparisons = detection.measure(found.tallies, limits, seed=seed)
    facts["counts"] = found.facts
    return facts, rows, comparisons, found


def _geometry(data_dir: pathlib.Path, dataset: str) -> Any:
    """The `volumes.Geometry` of a dataset, to which other scans are fitted.

    Raises:
      DatasetError: there is no such dataset.
    """
    from evaluator import volumes
    from ixi_tfds import datasets
    from ixi_tfds.documents import manifest

    made = manifest.read(datasets.find_dataset(data_dir, dataset))
    # Datasets made before it was recorded lack the geometry.
    if made.geometry is None:
        return volumes.Geometry(made.config)
    return volumes.Geometry(made.config, made.geometry.shape, made.geometry.zooms)


def print_lesions(
    facts: dict[str, Any], rows: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]
) -> None:
    """Print the overall rows and the comparisons."""
    import pandas as pd

    from evaluator.detection import STATISTICS

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


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, the process's own by default; returns the exit code."""
    return cli.run(lambda rest: find_lesions(_config(rest)), FLAGS, argv, usage=USAGE)
