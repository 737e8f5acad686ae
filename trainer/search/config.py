"""What a search for hyper-parameters is asked to do."""

import dataclasses

from ixi_tfds import storage
from ixi_tfds.errors import UserError
from ixi_tfds.system import flags
from ixi_tfds.system.flags import flag, like
from trainer.config import TrainConfig
from trainer.search import space

TUNERS = ("hyperband", "bayesian")
BIG_PARAMETERS = 6_104_256
"""Parameters of `big_resnet`."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A search; the flags that it shares with a run mean the same there, for every trial."""

    data_dir: str = like(TrainConfig, "data_dir")
    dataset: str = like(TrainConfig, "dataset")
    tuning_dir: str = flag(
        "Folder of this search: its state, a folder a trial, trials.csv and best.flags."
    )
    tuner: str = flag("Method of the search.", "hyperband", choices=TUNERS)
    epochs: int = flag("Epochs of the longest trials.", 30, least=1)
    max_trials: int = flag("Trials at most; Hyperband may plan fewer.", 50, least=1)
    factor: int = flag(
        "Hyperband keeps the best one of this many trials, and trains it this many times as long.",
        3,
        least=2,
    )
    random_trials: int = flag(
        "Trials at random points before Bayesian optimization models the results.", 10, least=1
    )
    max_parameters: int = flag(
        "Most parameters that a model may have; by default those of big_resnet.",
        BIG_PARAMETERS,
        least=space.least_limit(),
    )
    batch_sizes: tuple[int, ...] = flag("Batch sizes to choose from.", (8, 16, 32, 64), least=1)
    seed: int = like(TrainConfig, "seed", help="Seed of the search and of its trials.")
    mixed_precision: bool = like(TrainConfig, "mixed_precision")
    jit_compile: str = like(TrainConfig, "jit_compile")
    cache: bool = like(TrainConfig, "cache")
    replicas: int = like(TrainConfig, "replicas")
    verify: str = like(TrainConfig, "verify", help="What to check of the dataset, once.")

    def __post_init__(self) -> None:
        flags.check(self)
        # keras-tuner leaves its state in place, and trials are told apart by renaming folders.
        storage.check_local(self.tuning_dir, "tuning_dir")
        if not self.batch_sizes:
            raise UserError("--batch_sizes=: give numbers with commas between them")
