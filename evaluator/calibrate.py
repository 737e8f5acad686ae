"""Join models of brains to an ensemble: `python -m evaluator calibrate --help`."""

import dataclasses

from evaluator.options import Dataset, ModelChecks, check_folders
from ixi_tfds.system import flags, folders, storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.flags import flag

USAGE = """
python -m evaluator calibrate --saved_model=M1,M2[,...] --data_dir=D --output_dir=O
  --dataset=ixi_t1/brain_2mm_axial

Joins models of brains, such as two planes and two tasks, to an ensemble: writes O/ensemble.json,
which names the models and holds the threshold above which a voxel counts as lesion. The threshold
comes from the validation brains of the dataset, which are healthy, and no lesion is used for it.
The dataset may be of any plane; spacing and box have to be those of the models. The models are not
changed; O/ensemble.json has their paths seen from O, so move them together.
"""


@dataclasses.dataclass(frozen=True)
class CalibrateConfig:
    """The models and the healthy brains; the fields are the flags."""

    saved_model: tuple[str, ...] = flag(
        "Folders of the SavedModels, separated by commas.", path=True
    )
    data: Dataset = dataclasses.field(kw_only=True)
    output_dir: str = flag("Folder for ensemble.json.", path=True)
    percentile: float = flag(
        "Percentile of the scores of healthy voxels that becomes the threshold.",
        99.9,
        above=0,
        below=100,
    )
    checks: ModelChecks = dataclasses.field(default_factory=ModelChecks, kw_only=True)

    def __post_init__(self) -> None:
        flags.check(self)
        storage.check_local(self.output_dir, "output_dir")
        check_folders("saved_model", self.saved_model)


def main(config: CalibrateConfig) -> None:
    """Write `ensemble.json` and print what it says.

    Raises:
      UserError: models or dataset cannot be used, or do not fit together.
    """
    from evaluator.brains import calibration, ensemble, scans

    with folders.writing(config.output_dir, "output_dir"):
        made = calibration.calibrate(config)
        folder = storage.at(config.output_dir)
        ensemble.write(folder, made)
    healthy = made.healthy
    print(
        f"threshold {made.threshold:.4f}: {made.percentile:g}% of the voxels of {healthy.heads} "
        f"healthy brains of {healthy.dataset} lie at or below it; in another healthy brain "
        f"{healthy.ml:.1f} ml ({healthy.share:.2%}) are to be expected above it"
    )
    if healthy.heads < scans.FEW:
        print(
            f"note: {healthy.heads} healthy brains are few for a threshold: with others, false "
            "alarms may be several times as many"
        )
    print(f"ensemble: {folder / ensemble.NAME}")


COMMAND = Command(CalibrateConfig, main, "join models of brains, with a threshold", USAGE)
