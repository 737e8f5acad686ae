"""Score SavedModels on a split of a dataset: `python -m evaluator --help`."""

import dataclasses

from evaluator.options import Dataset, ModelChecks, check_folders
from ixi_tfds.images.corruptions import CORRUPTIONS, conditions
from ixi_tfds.system import flags, folders
from ixi_tfds.system.commands import Command
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

USAGE = """
python -m evaluator --saved_model=M[,M2,...] --data_dir=D --output_dir=O [--dataset=ixi_t1/thesis]

Scores the reconstructions of SavedModels on a split of a dataset. O/scores.csv has one row for each
slice and model, O/summary.json has the statistics, and O/report.html shows both with pictures.
"""


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """What to score and where to put the result; the fields are the flags."""

    saved_model: tuple[str, ...] = flag(
        "Folder of the SavedModel: a version folder, or the folder above it, such as "
        "W/export/small_resnet, for the highest version. Separate several by commas: the report "
        "shows them side by side and compares the others with the first. A SavedModel is code: "
        "use it only if you trust its source.",
        path=True,
    )
    data: Dataset = dataclasses.field(kw_only=True)
    split: str = flag("Split to score.", "test")
    output_dir: str = flag("Folder for the results.", path=True)
    batch_size: int = flag("Slices in a batch.", 32, least=1)
    robustness: bool = flag(
        f"Also score reconstructions of corrupted slices, {len(CORRUPTIONS)} corruptions "
        "at several severities each, for O/robustness.csv and the report. This takes "
        f"{len(conditions())} times as long as scoring alone.",
        False,
    )
    lesions: bool = flag(
        "Also put synthetic lesions into the test slices and score how well residuals find them, "
        "for O/anomalies.csv and the report; python -m evaluator anomalies has more options.",
        False,
    )
    workdir: tuple[str, ...] = flag(
        "Working folder of the run that made each model, for the report's learning curves. Not "
        "needed for a model that is still in its working folder.",
        (),
        path=True,
    )
    checks: ModelChecks = dataclasses.field(default_factory=ModelChecks, kw_only=True)

    def __post_init__(self) -> None:
        flags.check(self)
        check_folders("saved_model", self.saved_model)
        check_folders("workdir", self.workdir)
        if self.workdir and len(self.workdir) != len(self.saved_model):
            raise UserError(
                f"--workdir: give one for each of the {len(self.saved_model)} models, or none"
            )


def main(config: ScoreConfig) -> None:
    """Run the command; raises `UserError` as `evaluation.evaluate` does."""
    from evaluator import evaluation

    with folders.writing(config.output_dir, "output_dir"):
        evaluation.evaluate(config)


COMMAND = Command(ScoreConfig, main, "score the reconstructions of a split", USAGE)
