"""The config of a search for hyper-parameters."""

import dataclasses

from ixi_tfds.system import flags, storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag, like
from trainer.config import TrainConfig
from trainer.search import space

BIG_PARAMETERS = 6_104_256
"""Number of parameters of `big_resnet`."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The flags of a search; those of a training run as well apply to every trial."""

    data_dir: str = like(TrainConfig, "data_dir")
    dataset: str = like(TrainConfig, "dataset")
    task: str = like(TrainConfig, "task", help="What the networks learn; see python -m trainer.")
    tuning_dir: str = flag(
        "Folder of this search: its state, a folder for each trial, trials.csv and best.flags.",
        path=True,
    )
    tuner: str = flag("Search method.", "hyperband", choices=("hyperband", "bayesian"))
    epochs: int = flag("Epochs of the longest trials.", 30, least=1)
    steps_per_epoch: int = like(TrainConfig, "steps_per_epoch")
    max_trials: int = flag("Highest number of trials; Hyperband may plan fewer.", 50, least=1)
    factor: int = flag(
        "Hyperband keeps the best of this many trials, and trains it this many times as long.",
        3,
        least=2,
    )
    random_trials: int = flag(
        "Number of random trials before Bayesian optimization models the results.", 10, least=1
    )
    max_parameters: int = flag(
        "Highest number of parameters of a model; by default that of big_resnet.",
        BIG_PARAMETERS,
        least=space.least_limit(),
    )
    stages: tuple[int, ...] = flag(
        "Numbers of encoder stages to choose from, such as 1,2,3. The stem halves height and "
        "width, and each stage halves them again.",
        space.STAGES,
        least=1,
        most=space.MOST_STAGES,
    )
    batch_sizes: tuple[int, ...] = flag("Batch sizes to choose from.", (8, 16, 32, 64), least=1)
    seed: int = like(TrainConfig, "seed", help="Seed of the search and of its trials.")
    mixed_precision: bool = like(TrainConfig, "mixed_precision")
    jit_compile: str = like(TrainConfig, "jit_compile")
    cache: bool = like(TrainConfig, "cache")
    replicas: int = like(TrainConfig, "replicas")
    verify: str = like(TrainConfig, "verify", help="Check of the dataset, done once.")

    def __post_init__(self) -> None:
        flags.check(self)
        # keras-tuner writes to local files only, and Hyperband's next trial renames a folder.
        storage.check_local(self.tuning_dir, "tuning_dir")
        for name in ("batch_sizes", "stages"):
            if not getattr(self, name):
                raise UserError(f"--{name}=: give numbers with commas between them")
