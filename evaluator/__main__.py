"""Score a SavedModel on a split of a dataset: `python -m evaluator --help`.

Other uses of a SavedModel are commands with flags of their own, each the module of its name.
"""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from ixi_tfds import cli
from ixi_tfds.errors import UserError

USAGE = """
python -m evaluator --saved_model=M --data_dir=D --output_dir=O [--dataset=ixi_t1/thesis]

Scores the reconstructions of a SavedModel on a split of a dataset: O/scores.csv has a row a slice,
O/summary.json the statistics, O/report.html both with pictures, for a person.

Commands with flags of their own (python -m evaluator COMMAND --help):
  reconstruct   a scan of yours: reconstruction and anomaly map as NIfTI
  anomalies     do residuals find lesions? synthetic ones, or volumes with masks
"""

COMMANDS = ("reconstruct", "anomalies")
"""Modules of this package with a `run` as below."""

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "saved_model",
    None,
    "Folder of the SavedModel, such as W/export/small_resnet: a version folder, or the one above, "
    "of which the highest version is taken.",
    flag_values=FLAGS,
)
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string(
    "dataset", "ixi_t1/thesis", "Dataset and config under --data_dir.", flag_values=FLAGS
)
flags.DEFINE_string("split", "test", "Split to score.", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "Folder for the results.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Slices at a time.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to score and where to put the result; the fields are the flags."""

    saved_model: pathlib.Path
    data_dir: pathlib.Path
    dataset: str
    split: str
    output_dir: pathlib.Path
    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size}: must be at least 1")
        for flag in ("saved_model", "data_dir"):
            folder = getattr(self, flag)
            if not folder.is_dir():
                raise UserError(f"--{flag}={folder}: no such folder")


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
        saved_model=pathlib.Path(FLAGS.saved_model),
        data_dir=pathlib.Path(FLAGS.data_dir),
        dataset=FLAGS.dataset,
        split=FLAGS.split,
        output_dir=pathlib.Path(FLAGS.output_dir),
        batch_size=FLAGS.batch_size,
    )


def evaluate(config: Config) -> None:
    """Score, write the three files and print the statistics.

    Raises:
      UserError: model, dataset, split or output folder is not there or not fit for the others.
    """
    from evaluator import report, results, scoring

    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={config.output_dir}: {error.strerror}") from error
    split = scoring.open_split(config.data_dir, config.dataset, config.split)
    model = scoring.load_model(config.saved_model)
    scores = scoring.score_split(model, split, batch_size=config.batch_size)
    chosen = results.gallery(scores)
    examples = scoring.read_examples(
        model, split, list(chosen.values()), batch_size=config.batch_size
    )
    facts = results.summary(model, split, scores)
    page = report.render(model, facts, scores, dict(zip(chosen, examples, strict=True)))
    results.write_results(config.output_dir, scores, facts, page)

    print(f"\n{model.name} on {split.dataset}, {split.name}: {facts['slices']} slices", end=" ")
    print(f"of {facts['subjects']} subjects\n")
    table = results.statistics(results.as_frame(scores))
    print(table.to_string(float_format="{:.6f}".format))
    print(f"\nReport: {config.output_dir / 'report.html'}")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, the process's own by default; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in COMMANDS:
        command = importlib.import_module(f"evaluator.{args[0]}")
        return command.run(args[1:])
    return cli.run(lambda rest: evaluate(_config(rest)), FLAGS, args, usage=USAGE)


if __name__ == "__main__":
    sys.exit(run())
