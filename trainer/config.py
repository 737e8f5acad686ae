"""What a training run is asked to do, and whether a working folder is free for it."""

import dataclasses
import json
import pathlib
from collections.abc import Set
from typing import Any

from ixi_tfds import storage
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS

RESNET50_MODELS = ("resnet50", "resnet50_add13", "resnet50_act40")
MODELS = ("small_resnet", "big_resnet", "resnet_like", *RESNET50_MODELS)
LOSSES = ("mse", "dssim", "mix")
OPTIMIZERS = ("rmsprop", "adam")
SCHEDULES = ("plateau", "cosine", "constant")
JIT_COMPILE = ("auto", "on", "off")

_FREE_TO_CHANGE = {
    "data_dir",
    "workdir",
    "epochs",
    "replicas",
    "jit_compile",
    "profile_steps",
    "verify",
}
"""Fields in which the runs of one working folder may differ: where and how, not what."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      data_dir: root folder of the datasets.
      dataset: name and config within it, such as `ixi_t1/thesis`; several with commas between.
      workdir: folder of the run: state, checkpoints, history, logs and export.
      model: one of `MODELS`.
      weights: what the encoder of a ResNet50 starts with: "none" (random numbers), "imagenet", or
        a file as Keras has it for ResNet50 without top.
      stem_filters: of `resnet_like`, as are the following: filters of the first convolution.
      stage_filters: filters of each stage.
      stage_blocks: residual blocks of each stage.
      upsampling_filters: filters of each up-sampling block, one more than there are stages; none
        means those of the encoder in reverse.
      loss: one of `LOSSES`.
      dssim_weight: share of dssim in the loss "mix"; the rest is mse.
      optimizer: one of `OPTIMIZERS`.
      learning_rate: at the start.
      schedule: one of `SCHEDULES`, the rule in `state` by which the learning rate falls.
      epochs: in all, those done before a resume included.
      batch_size: of the global batch, all replicas together.
      seed: of weights, order and augmentation.
      augment: corrupt the training inputs.
      augment_fraction: share of the training inputs that is corrupted at all.
      gaussian_noise: standard deviation of Gaussian noise in corrupted inputs; 0 is off.
      rician_noise: standard deviation in both channels of Rician noise; 0 is off.
      augment_validation: corrupt validation inputs too, and go by the loss on them.
      mixed_precision: compute in 16 bits, keep weights in 32.
      jit_compile: "on", "off" or "auto", which is on for GPUs only.
      cache: keep the training records in memory.
      replicas: how many devices to use; 0 takes every GPU, or the CPU where there is none.
      profile_steps: how many steps to profile for TensorBoard.
      verify: how much of the dataset to check before the first step, one of `CHECKS`.
    """

    data_dir: str
    dataset: str
    workdir: str
    model: str
    weights: str
    stem_filters: int
    stage_filters: tuple[int, ...]
    stage_blocks: tuple[int, ...]
    upsampling_filters: tuple[int, ...]
    loss: str
    dssim_weight: float
    optimizer: str
    learning_rate: float
    schedule: str
    epochs: int
    batch_size: int
    seed: int
    augment: bool
    augment_fraction: float
    gaussian_noise: float
    rician_noise: float
    augment_validation: bool
    mixed_precision: bool
    jit_compile: str
    cache: bool
    replicas: int
    profile_steps: int
    verify: str

    def __post_init__(self) -> None:
        for name, choices in (
            ("model", MODELS),
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("jit_compile", JIT_COMPILE),
            ("verify", CHECKS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"--{name}={value}: choose one of {', '.join(choices)}")
        for name, least in (
            *(("epochs", 1), ("batch_size", 1)),
            *(("seed", 0), ("replicas", 0), ("profile_steps", 0)),
        ):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"--{name}={value}: must be at least {least}")
        if self.seed >= 2**31:
            raise UserError(f"--seed={self.seed}: must be below {2**31}")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"--learning_rate={self.learning_rate}: must be above 0")
        if not 0 < self.dssim_weight < 1:
            raise UserError(f"--dssim_weight={self.dssim_weight}: must be between 0 and 1")
        for name in ("augment_fraction", "gaussian_noise", "rician_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name}={getattr(self, name)}: must be between 0 and 1")
        if self.augment_validation and not self.augment:
            raise UserError("--augment_validation needs --augment")
        if self.rgb and self.model not in RESNET50_MODELS:
            raise UserError(
                f"--weights={self.weights}: --model={self.model} has none; only "
                f"{', '.join(RESNET50_MODELS)} have"
            )
        self._check_stages()

    def _check_stages(self) -> None:
        stages = len(self.stage_filters)
        wanted = {
            "stem_filters": ((self.stem_filters,), 1),
            "stage_filters": (self.stage_filters, max(stages, 1)),
            "stage_blocks": (self.stage_blocks, stages),
            "upsampling_filters": (self.upsampling_filters, stages + 1),
        }
        for name, (numbers, count) in wanted.items():
            flag = f"--{name}={','.join(map(str, numbers))}"
            if len(numbers) != count and not (name == "upsampling_filters" and not numbers):
                raise UserError(
                    f"{flag}: give {count} number(s), for --stage_filters has {stages} stage(s)"
                )
            if min(numbers, default=1) < 1:
                raise UserError(f"{flag}: must be at least 1")

    @property
    def rgb(self) -> bool:
        """Whether the network has three channels inside, as ImageNet weights want them."""
        return self.weights != "none"

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`."""
        return tuple(self.dataset.split(","))

    @property
    def monitored(self) -> str:
        """The column of the history that decides about learning rate and best weights."""
        return "val_loss_augmented" if self.augment_validation else "val_loss"


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a file that is there whole or not at all, whenever the process is killed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def claim_workdir(config: TrainConfig, fingerprint: str, *, write: bool = True) -> None:
    """Make the working folder this run's, or see that it already is.

    A run may come back to it with another place, device or number of epochs (not fewer), and with
    nothing else changed. Under a schedule that ends with the last epoch their number stays, too.

    Args:
      config: of the run.
      fingerprint: of the dataset.
      write: leave the flags there; among several workers only one does.

    Raises:
      UserError: the folder belongs to another run, or cannot be made.
    """
    free = _FREE_TO_CHANGE - ({"epochs"} if config.schedule == "cosine" else set())
    flags = {**dataclasses.asdict(config), "dataset_fingerprint": fingerprint}
    # As read back from a file, where tuples are lists.
    asked: dict[str, Any] = json.loads(json.dumps(flags))
    there = read_claim(storage.at(config.workdir), "workdir", asked, free)
    if there.get("epochs", 0) > config.epochs:
        raise UserError(
            f"--workdir={config.workdir}: its run has --epochs={there['epochs']}; give as many or "
            "more"
        )
    if write:
        write_claim(storage.at(config.workdir), asked)


def read_claim(
    folder: pathlib.Path, flag: str, asked: dict[str, Any], free: Set[str]
) -> dict[str, Any]:
    """The flags that a folder's `config.json` holds, `asked` where there is none; makes the folder.

    Args:
      folder: where a run keeps what it makes.
      flag: the name of the flag that gave the folder.
      asked: the flags of this run, and the fingerprint of its dataset as `dataset_fingerprint`.
      free: names in `asked` that may differ from one start to the next.

    Raises:
      UserError: the folder belongs to a run with other flags, or cannot be made.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.exists() else asked
        if not isinstance(there, dict):
            raise ValueError(f"{path} is not that of a run")
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}={folder}: {error}") from error
    differing = [
        "--dataset (other contents)" if name == "dataset_fingerprint" else f"--{name}={there[name]}"
        for name in asked
        if name not in free and name in there and there[name] != asked[name]
    ]
    if differing:
        raise UserError(
            f"--{flag}={folder}: belongs to a run with {', '.join(differing)}; give the same "
            f"flags to go on with it, or another --{flag}"
        )
    return there


def write_claim(folder: pathlib.Path, asked: dict[str, Any]) -> None:
    """Write the flags of a run to its folder's `config.json`."""
    write_atomically(folder / "config.json", json.dumps(asked, indent=2) + "\n")
