"""Whether a config fits the data and the devices."""

import tensorflow as tf

from ixi_tfds.system.errors import UserError
from trainer import models
from trainer.config import TrainConfig
from trainer.data import TrainingData


def check_fits(config: TrainConfig, replicas: int, data: TrainingData) -> None:
    """Check that a run can be done with these data on so many replicas.

    Raises:
      UserError: it cannot.
    """
    shards = data.train
    if config.batch_size % replicas:
        raise UserError(
            f"--batch_size={config.batch_size}: must be divisible by the {replicas} replicas"
        )
    if config.task != "reconstruct" and data.place is None:
        raise UserError(
            f"--task={config.task}: --dataset={config.dataset} holds no brains; make a dataset of "
            "brains by python -m beam_preprocess --config=brain_2mm_axial"
        )
    stride = models.stride(config.model)
    if any(side % stride for side in shards.size):
        raise UserError(
            f"--dataset={config.dataset}: its slices are {shards.size[0]}x{shards.size[1]}; height "
            f"and width must be multiples of {stride} for --model={config.model.name}"
        )
    if shards.slices < config.batch_size:
        raise UserError(
            f"--batch_size={config.batch_size}: the train split has {shards.slices} slices only"
        )
    if config.jit_compile == "on" and replicas > 1 and not tf.config.list_physical_devices("GPU"):
        raise UserError("--jit_compile=on: without a GPU it works with one replica only")
