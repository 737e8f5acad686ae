"""What a training run is asked to do, and whether a working folder is free for it."""

import dataclasses
import json
import pathlib
from typing import Any

from ixi_tfds.errors import UserError

MODELS = ("small_resnet", "big_resnet")
LOSSES = ("mse", "dssim")
OPTIMIZERS = ("rmsprop", "adam")
JIT_COMPILE = ("auto", "on", "off")

_FREE_TO_CHANGE = {"data_dir", "workdir", "epochs", "replicas", "jit_compile"}
"""Fields in which the runs of one working folder may differ: where and how, not what."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
      data_dir: root folder of the datasets.
      dataset: name and config within it, such as `ixi_t1/thesis`.
      workdir: folder of the run: state, checkpoints, history, logs and export.
      model: one of `MODELS`.
      loss: one of `LOSSES`.
      optimizer: one of `OPTIMIZERS`.
      learning_rate: at the start; it falls by the rule in `callbacks`.
      epochs: in all, those done before a resume included.
      batch_size: of the global batch, all replicas together.
      seed: of weights, order and augmentation.
      augment: corrupt the training inputs.
      augment_validation: corrupt validation inputs too, and go by the loss on them.
      mixed_precision: compute in 16 bits, keep weights in 32.
      jit_compile: "on", "off" or "auto", which is on for GPUs only.
      cache: keep the training records in memory.
      replicas: how many devices to use; 0 takes every GPU, or the CPU where there is none.
    """

    data_dir: str
    dataset: str
    workdir: str
    model: str
    loss: str
    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    seed: int
    augment: bool
    augment_validation: bool
    mixed_precision: bool
    jit_compile: str
    cache: bool
    replicas: int

    def __post_init__(self) -> None:
        for name, choices in (
            ("model", MODELS),
            ("loss", LOSSES),
            ("optimizer", OPTIMIZERS),
            ("jit_compile", JIT_COMPILE),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"--{name}={value}: choose one of {', '.join(choices)}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("replicas", 0)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"--{name}={value}: must be at least {least}")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"--learning_rate={self.learning_rate}: must be above 0")
        if self.augment_validation and not self.augment:
            raise UserError("--augment_validation needs --augment")

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

    Its `config.json` holds the flags and the dataset's fingerprint. A run may come back to it with
    another place, device or number of epochs (not fewer), and with nothing else changed.

    Args:
      config: of the run.
      fingerprint: of the dataset.
      write: leave the flags there; among several workers only one does.

    Raises:
      UserError: the folder belongs to another run, or cannot be made.
    """
    workdir = pathlib.Path(config.workdir)
    asked: dict[str, Any] = {**dataclasses.asdict(config), "dataset_fingerprint": fingerprint}
    path = workdir / "config.json"
    try:
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.exists() else asked
    except (OSError, ValueError) as error:
        raise UserError(f"--workdir={workdir}: {error}") from error
    differing = [
        "--dataset (other contents)" if name == "dataset_fingerprint" else f"--{name}={there[name]}"
        for name in asked
        if name not in _FREE_TO_CHANGE and name in there and there[name] != asked[name]
    ]
    if differing:
        raise UserError(
            f"--workdir={workdir}: belongs to a run with {', '.join(differing)}; give the same "
            "flags to go on with it, or another --workdir"
        )
    if there["epochs"] > config.epochs:
        raise UserError(
            f"--workdir={workdir}: its run has --epochs={there['epochs']}; give as many or more"
        )
    if write:
        write_atomically(path, json.dumps(asked, indent=2) + "\n")
