"""The config of a training run."""

import dataclasses
import math

from ixi_tfds.cohorts import DEFAULT_DATASET
from ixi_tfds.integrity import CHECKS
from ixi_tfds.system import flags
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag
from trainer.augmentation import ONLY_WITH, AugmentationConfig
from trainer.losses import LOSSES
from trainer.models import ModelSpec
from trainer.tasks import TASKS

OPTIMIZERS = {"rmsprop": "RMSprop", "adam": "Adam"}
"""Names for `--optimizer`, and their classes in `keras.optimizers`."""
SCHEDULES = ("plateau", "cosine", "cosine_steps", "constant")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The flags of a training run."""

    data_dir: str = flag("Root folder of the datasets.", path=True)
    dataset: str = flag(
        "Dataset and its config; to train on several together, separate them by commas.",
        DEFAULT_DATASET,
    )
    workdir: str = flag(
        "Folder for state, checkpoints, history, logs and export of this run.", path=True
    )
    task: str = flag(
        "What the network learns: to reconstruct slices, or, on slices of brains only, to remove "
        "coarse noise (denoise) or to repair and mark damage (repair). These two have losses and "
        "corruptions of their own, so they go with no --loss and no --augment.",
        "reconstruct",
        choices=TASKS,
    )
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec, kw_only=True)
    loss: str = flag(
        "Loss; mix is a weighted sum of mse and dssim.",
        "mse",
        choices=LOSSES,
        only_with=ONLY_WITH,
    )
    dssim_weight: float = flag(
        "Share of dssim in --loss=mix.", 0.5, above=0, below=1, only_with="loss=mix"
    )
    optimizer: str = flag("Optimizer.", "rmsprop", choices=OPTIMIZERS)
    learning_rate: float = flag("Learning rate at the start.", 1e-3, above=0)
    schedule: str = flag(
        "When the learning rate falls: after two epochs without a lower loss (plateau), along half "
        "a cosine to almost 0, after each epoch (cosine) or each step (cosine_steps), or never "
        "(constant).",
        "plateau",
        choices=SCHEDULES,
    )
    warmup_steps: int = flag(
        "Steps at the start of a run in which the learning rate rises from 0.", 0, least=0
    )
    clip_norm: float = flag(
        "Shorten the gradient of a step, over all weights, to this length; 0 leaves it.",
        0.0,
        least=0,
    )
    epochs: int = flag("Epochs in total, including those before a resume.", 100, least=1)
    steps_per_epoch: int = flag(
        "Steps of an epoch, after which the validation loss is taken, whatever the number of "
        "slices; 0 for once through the data.",
        0,
        least=0,
    )
    batch_size: int = flag("Size of the global batch, over all replicas.", 32, least=1)
    seed: int = flag(
        "Seed of the weights, the order of slices and the augmentation.", 0, least=0, below=2**31
    )
    augment: bool = flag("Corrupt the training inputs.", True, only_with=ONLY_WITH)
    augmentation: AugmentationConfig = dataclasses.field(
        default_factory=AugmentationConfig, kw_only=True
    )
    augment_validation: bool = flag(
        "Also corrupt validation inputs; their loss then decides on the learning rate and the best "
        "weights, as the thesis probably did.",
        False,
        only_with=ONLY_WITH,
    )
    mixed_precision: bool = flag("Compute in 16 bits, with weights in 32 bits.", False)
    jit_compile: str = flag(
        "Compile with XLA; auto compiles on one GPU only.", "auto", choices=("auto", "on", "off")
    )
    cache: bool = flag("Keep the training slices in memory.", False)
    replicas: int = flag(
        "Number of devices; 0 uses every GPU, or the CPU if there is none.", 0, least=0
    )
    export_half: bool = flag("Store the weights of the exported model in 16 bits.", False)
    profile_steps: int = flag(
        "Number of steps to profile for TensorBoard; needs the package tensorboard-plugin-profile.",
        0,
        least=0,
    )
    verify: str = flag(
        "Check of the dataset before training: full reads every byte, quick compares names and "
        "sizes.",
        "full",
        choices=CHECKS,
    )

    def __post_init__(self) -> None:
        flags.check(self)
        if math.isinf(self.learning_rate):
            raise UserError(f"--learning_rate={self.learning_rate}: must be finite")
        if self.augment_validation and not self.augment:
            raise UserError("--augment_validation needs --augment")
        if self.augment_validation and self.task != "reconstruct":
            raise UserError(f"--augment_validation goes with --{ONLY_WITH} only")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `--dataset`."""
        return tuple(self.dataset.split(","))

    @property
    def falls_by_cosine(self) -> bool:
        """Whether the number of epochs decides on the learning rate."""
        return self.schedule.startswith("cosine")

    @property
    def corruptions(self) -> AugmentationConfig | None:
        """The corruptions of training inputs; None if they stay clean, or the task damages them."""
        return self.augmentation if self.augment and self.task == "reconstruct" else None

    @property
    def monitored(self) -> str:
        """The loss in the history that decides on the learning rate and the best weights."""
        return "val_loss_augmented" if self.augment_validation else "val_loss"
