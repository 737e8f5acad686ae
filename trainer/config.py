"""What a training run is asked to do."""

import dataclasses
import math

from ixi_tfds.cohorts import DEFAULT_DATASET
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS
from ixi_tfds.system import flags
from ixi_tfds.system.flags import flag
from trainer.augmentation import AugmentationConfig
from trainer.losses import LOSSES
from trainer.models import ModelSpec

OPTIMIZERS = {"rmsprop": "RMSprop", "adam": "Adam"}
"""The class in `keras.optimizers` that a name stands for."""
SCHEDULES = ("plateau", "cosine", "constant")
JIT_COMPILE = ("auto", "on", "off")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    data_dir: str = flag("Root folder of the datasets.")
    dataset: str = flag(
        "Name and config within it; several with commas between, to learn from all of them.",
        DEFAULT_DATASET,
    )
    workdir: str = flag("Folder of this run: state, checkpoints, history, logs and export.")
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec, kw_only=True)
    loss: str = flag("Loss; mix is a weighted sum of mse and dssim.", "mse", choices=LOSSES)
    dssim_weight: float = flag(
        "Share of dssim in --loss=mix.", 0.5, above=0, below=1, only_with="loss=mix"
    )
    optimizer: str = flag("Optimizer.", "rmsprop", choices=OPTIMIZERS)
    learning_rate: float = flag("Learning rate at the start.", 1e-3, above=0)
    schedule: str = flag(
        "How the learning rate falls: after two epochs without a better loss (plateau), along half "
        "a cosine to almost 0 (cosine), or not at all (constant).",
        "plateau",
        choices=SCHEDULES,
    )
    epochs: int = flag("Epochs in all, those done before a resume included.", 100, least=1)
    batch_size: int = flag("Global batch, all replicas together.", 32, least=1)
    seed: int = flag("Seed of weights, order and augmentation.", 0, least=0, below=2**31)
    augment: bool = flag("Corrupt the training inputs.", True)
    augmentation: AugmentationConfig = dataclasses.field(
        default_factory=AugmentationConfig, kw_only=True
    )
    augment_validation: bool = flag(
        "Corrupt validation inputs too, and go by the loss on them, as the thesis seems to have "
        "done.",
        False,
    )
    mixed_precision: bool = flag("Compute in 16 bits, keep weights in 32.", False)
    jit_compile: str = flag(
        "Compile by XLA; auto does so on GPUs only.", "auto", choices=JIT_COMPILE
    )
    cache: bool = flag("Keep the training records in memory.", False)
    replicas: int = flag("Devices to use; 0 takes every GPU, or the CPU.", 0, least=0)
    profile_steps: int = flag(
        "Profile this many steps, for TensorBoard with the package tensorboard-plugin-profile.",
        0,
        least=0,
    )
    verify: str = flag(
        "What to check of the dataset before the first step: full reads every byte, quick compares "
        "names and sizes.",
        "full",
        choices=CHECKS,
    )

    def __post_init__(self) -> None:
        flags.check(self)
        if math.isinf(self.learning_rate):
            raise UserError(f"--learning_rate={self.learning_rate}: must be finite")
        if self.augment_validation and not self.augment:
            raise UserError("--augment_validation needs --augment")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`."""
        return tuple(self.dataset.split(","))

    @property
    def corruptions(self) -> AugmentationConfig | None:
        """What happens to training inputs; None where they stay clean."""
        return self.augmentation if self.augment else None

    @property
    def monitored(self) -> str:
        """The column of the history that decides about learning rate and best weights."""
        return "val_loss_augmented" if self.augment_validation else "val_loss"
