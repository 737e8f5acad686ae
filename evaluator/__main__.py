"""Score SavedModels on a split of a dataset: `python -m evaluator --help`.

Other uses of a SavedModel are commands with flags of their own, each the module of its name.
"""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from evaluator import bundle
from ixi_tfds import cli, folders, storage
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS

USAGE = """
python -m evaluator --saved_model=M[,M2,...] --data_dir=D --output_dir=O [--dataset=ixi_t1/thesis]

Scores the reconstructions of SavedModels on a split of a dataset: O/scores.csv has a row a slice
and model, O/summary.json the statistics, O/report.html both with pictures, for a person.

Commands with flags of their own (python -m evaluator COMMAND --help):
  reconstruct   a scan of yours: reconstruction and anomaly map as NIfTI
  anomalies     do residuals find lesions? synthetic ones, or volumes with masks
"""

COMMANDS = ("reconstruct", "anomalies")
"""Modules of this package with a `run` as below."""

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "saved_model",
    None,
    "Folder of the SavedModel, such as W/export/small_resnet: a version folder, or the one above, "
    "of which the highest version is taken. Several with commas between are shown side by side, "
    "and the others compared with the first. A SavedModel is code: use it only if you trust where "
    "it comes from.",
    flag_values=FLAGS,
)
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string(
    "dataset", "ixi_t1/thesis", "Dataset and config under --data_dir.", flag_values=FLAGS
)
flags.DEFINE_string("split", "test", "Split to score.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Folder for the results.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Slices at a time.", flag_values=FLAGS)
flags.DEFINE_boolean(
    "robustness",
    False,
    "Also score reconstructions of corrupted slices, six corruptions at five severities each, into "
    "O/robustness.csv and the report. Takes 31 times as long as scoring alone.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "lesions",
    False,
    "Also put synthetic lesions into the test slices and score how well residuals find them, into "
    "O/anomalies.csv and the report; python -m evaluator anomalies has more of this.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "workdir",
    [],
    "Working folder of the run that made each model, for the report's learning curves. Found "
    "without this where the model still lies in it.",
    flag_values=FLAGS,
)
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
    """What to score and where to put the result; the fields are the flags."""

    saved_model: tuple[pathlib.Path, ...]
    data_dir: pathlib.Path
    dataset: str
    split: str
    output_dir: pathlib.Path
    batch_size: int
    robustness: bool
    lesions: bool
    workdir: tuple[pathlib.Path, ...]
    verify: str
    allow_changed_model: bool
    allow_other_preprocessing: bool

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: must be at least 1")
        folders = [("saved_model", path) for path in self.saved_model]
        folders += [("data_dir", self.data_dir), *(("workdir", path) for path in self.workdir)]
        for flag, folder in folders:
            if not folder.is_dir():
                raise UserError(f"--{flag}={folder}: no such folder")
        if self.workdir and len(self.workdir) != len(self.saved_model):
            raise UserError(
                f"--workdir: give one for each of the {len(self.saved_model)} models, or none"
            )


def _config(positional: Sequence[str]) -> Config:
    if positional:
        raise UserError(
            f"unexpected argument {positional[0]!r}: a command ({', '.join(COMMANDS)}) stands "
            "first, and everything else is given by flags"
        )
    for flag in ("saved_model", "data_dir", "output_dir"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing")
    return Config(
        saved_model=tuple(map(storage.at, FLAGS.saved_model)),
        data_dir=storage.at(FLAGS.data_dir),
        dataset=FLAGS.dataset,
        split=FLAGS.split,
        output_dir=storage.at(FLAGS.output_dir),
        batch_size=FLAGS.batch_size,
        robustness=FLAGS.robustness,
        lesions=FLAGS.lesions,
        workdir=tuple(map(storage.at, FLAGS.workdir)),
        verify=FLAGS.verify,
        allow_changed_model=FLAGS.allow_changed_model,
        allow_other_preprocessing=FLAGS.allow_other_preprocessing,
    )


def evaluate(config: Config) -> None:
    """Score, write the files and print the statistics.

    Raises:
      UserError: a model, dataset, split or output folder is not there or not fit for the others.
    """
    from evaluator import evaluation

    with folders.writing(config.output_dir, "output_dir"):
        evaluation.evaluate(
            config.saved_model,
            config.output_dir,
            data_dir=config.data_dir,
            dataset=config.dataset,
            split=config.split,
            batch_size=config.batch_size,
            corrupted=config.robustness,
            lesions=config.lesions,
            workdirs=config.workdir,
            verify=config.verify,
            allow_changed_model=config.allow_changed_model,
            allow_other_preprocessing=config.allow_other_preprocessing,
        )


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, the process's own by default; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in COMMANDS:
        command = importlib.import_module(f"evaluator.{args[0]}")
        return command.run(args[1:])
    return cli.run(lambda rest: evaluate(_config(rest)), FLAGS, args, usage=USAGE)


if __name__ == "__main__":
    sys.exit(run())
