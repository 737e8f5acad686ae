"""Exported models that took no training: their weights are those that the layers start with."""

import dataclasses
import pathlib

from tensorflow import keras

from ixi_tfds import config as configs
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import DatasetFacts
from trainer import models, tasks
from trainer.config import TrainConfig
from trainer.data import Shards, TrainingData
from trainer.export import card, saved_model

SIZE = (32, 32)


def export_untrained(
    folder: pathlib.Path,
    name: str = "small_resnet",
    scaling: str = "slice",
    *,
    size: tuple[int, int] = SIZE,
) -> pathlib.Path:
    """Export a model by its name to `folder`."""
    keras.utils.set_random_seed(0)
    keras.backend.reset_uids()
    network = models.build(models.ModelSpec(name=name), size)
    # As they start, the outputs are all but zero; these fill a good part of [0, 1].
    network.trainable_variables[-1].assign(100 * network.trainable_variables[-1])
    return export_network(network, folder, name, scaling, size)


def export_brains(
    folder: pathlib.Path, plane: str = "sagittal", *, task: str = "repair", name: str = "unet"
) -> tuple[keras.Model, configs.SliceConfig]:
    """Export a model of brains to `folder`; returns its network and the config of its slices."""
    keras.utils.set_random_seed(0)
    keras.backend.reset_uids()
    box = {"posterior": 48, "superior": 32, "right": 16}
    across = {"sagittal": "right", "axial": "superior", "coronal": "posterior"}[plane]
    height, width = (n for axis, n in box.items() if axis != across)
    slices = configs.SliceConfig(
        f"tiny_{plane}",
        in_plane=None,
        size=(height, width),
        window=(0, box[across]),
        scaling="tissue",
        spacing=(4.0, 4.0, 4.0),
        plane=None if plane == "sagittal" else plane,
    )
    marks = tasks.TASKS[task].marks
    network = models.build(models.ModelSpec(name=name), slices.size, marks=marks)
    # A U-Net that was not trained gives what it gets.
    for variable in network.trainable_variables[-2:]:
        variable.assign(keras.initializers.RandomNormal(0, 0.3, seed=1)(variable.shape))
    export_network(network, folder, name, brains=slices, task=task)
    return network, slices


def export_network(
    network,
    folder,
    name="small_resnet",
    scaling="slice",
    size=SIZE,
    known=(),
    *,
    brains=None,
    task="reconstruct",
):
    """Export a network to `folder`, with a card that makes up the run, but for `known` facts.

    `brains` is the config of the slices of brains, whose scaling and size then count.
    """
    slices = brains or configs.SliceConfig("tiny", size=size, window=(0, 4), scaling=scaling)
    size, scaling = slices.size, slices.scaling
    config = TrainConfig(data_dir="D", workdir="W", model=models.ModelSpec(name=name), task=task)
    split = Shards((), 24, size)
    facts = {
        "fingerprint": "abc",
        "version": configs.VERSION,
        "description": slices.description,
        "splits": {"train": {"volumes": 6, "slices": 24}},
        **({"slices": dataclasses.asdict(brains)} if brains else {}),
        **dict(known),
    }
    told = codec.from_plain(DatasetFacts, facts)
    place = tasks.Place(max(slices.spacing), slices.plane or "sagittal") if brains else None
    made = card.make_card(
        config,
        TrainingData(split, split, scaling, configs.VERSION, "abc", {"ixi_t1/tiny": told}, place),
        None,
        parameters=network.count_params(),
        best={"epoch": 2, "val_loss": 0.25, "val_psnr": 20.0, "val_ssim": 0.5},
        epochs_trained=3,
    )
    saved_model.export(
        network,
        folder,
        size=size,
        scaling=scaling,
        card=made,
        plane=slices.plane,
        marks=tasks.TASKS[task].marks,
    )
    return folder
