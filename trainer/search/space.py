"""The space of a search, and how a point of it becomes flags of the trainer.

The space covers what the thesis left open: learning rate, schedule, optimizer, batch size, filters
above 256, more blocks, loss, amount of augmentation, noise. Every point gives a model within the
limit of parameters: it has a shape and a share of the limit, and the filters follow from both.
Rejecting too large models instead would hide the space near the limit from Bayesian optimization,
and the best models are there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import OPTIMIZERS, SCHEDULES

OBJECTIVE = "val_psnr"
SHAPE = ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters")
"""Flags of the trainer that describe a `resnet_like` model."""

STAGES = (3,)
"""The numbers of stages to choose from, unless told otherwise."""
MOST_STAGES = 3
_LEAST_SHARE = 0.25
_STEP = 4
"""Filters are multiples of this."""


def space(
    batch_sizes: Sequence[int], task: str = "reconstruct", stages: Sequence[int] = STAGES
) -> Any:
    """The hyper-parameters and their ranges, as keras-tuner's `HyperParameters`.

    Loss and augmentation belong to the task of the thesis only. The number of stages is one of
    `stages`; blocks of stages that a model lacks change nothing.
    """
    import keras_tuner

    # None is conditional: keras-tuner prints a message when it sends one of these to a worker.
    hp = keras_tuner.HyperParameters()
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    hp.Choice("optimizer", list(OPTIMIZERS))
    # So that searches of earlier versions, and their seeds, give the same trials.
    hp.Choice("schedule", [name for name in SCHEDULES if name != "cosine_steps"])
    hp.Choice("batch_size", sorted(set(batch_sizes)))
    if task == "reconstruct":
        hp.Choice("dssim_weight", [0.0, 0.01, 0.03, 0.1, 0.3, 1.0])
        hp.Choice("augment_fraction", [0.0, 0.25, 0.5, 1.0], default=1.0)
        hp.Choice("gaussian_noise", [0.0, 0.01, 0.03])
    hp.Float("share", _LEAST_SHARE, 1.0, sampling="log", default=1.0)
    hp.Choice("growth", [1.5, 2.0, 3.0], default=2.0)
    hp.Int("blocks_1", 1, 3, default=2)
    hp.Int("blocks_2", 1, 3, default=2)
    hp.Int("blocks_3", 1, 4)
    hp.Choice("stem", [0.5, 1.0])
    hp.Choice("upsampling", [0.5, 1.0], default=1.0)
    # Searches of earlier versions had no such choice, and their seeds have to give the same trials.
    if set(stages) != set(STAGES):
        hp.Choice("stages", sorted(set(stages)))
    return hp


def flags_of(values: Mapping[str, Any], max_parameters: int) -> dict[str, Any]:
    """The flags of the trainer for a point of the space, by name.

    Args:
      values: the point. `share` is the part of `max_parameters` for the model; it gets the most
        filters that fit. `growth` is the ratio of a stage's filters to those of the stage before,
        `stem` that of the stem to the first stage, `upsampling` that of the decoder to the encoder.
        `dssim_weight` is 0 for mse, 1 for dssim, otherwise the weight of dssim in a sum of both.
        `augment_fraction` 0 means no augmentation. Points of tasks other than that of the thesis
        lack these two.
      max_parameters: highest number of parameters of a model.
    """
    # Rounding to three digits removes the errors of 32-bit messages from chief to worker.
    plain = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    filters = _STEP
    while count_parameters(**_shape(plain, filters + 1)) <= plain["share"] * max_parameters:
        filters += 1
    shape = _shape(plain, filters)
    steps = {name: plain[name] for name in ("optimizer", "learning_rate", "schedule", "batch_size")}
    if "dssim_weight" not in plain:
        return shape | steps
    loss = {0.0: "mse", 1.0: "dssim"}.get(plain["dssim_weight"], "mix")
    augment = plain["augment_fraction"] > 0
    return {
        **shape,
        "loss": loss,
        "dssim_weight": plain["dssim_weight"] if loss == "mix" else 0.5,
        **steps,
        "augment": augment,
        "augment_fraction": plain["augment_fraction"] if augment else 1.0,
        "gaussian_noise": plain["gaussian_noise"] if augment else 0.0,
    }


def count_parameters(
    *,
    stem_filters: int,
    stage_filters: Sequence[int],
    stage_blocks: Sequence[int],
    upsampling_filters: Sequence[int],
) -> int:
    """Number of parameters of a `ResNetLike` network, including moving statistics."""
    before = stem_filters
    total = 9 * before
    for filters, count in zip(stage_filters, stage_blocks, strict=True):
        # The shortcut of the first block, then two convolutions in each block.
        total += before * filters + 4 * filters
        total += 9 * before * filters + (2 * count - 1) * 9 * filters**2 + 2 * count * 4 * filters
        before = filters
    for filters in upsampling_filters:
        total += 9 * before * filters + 4 * filters
        before = filters
    return total + 9 * before


def least_limit() -> int:
    """The lowest `max_parameters` for which every shape of the space fits."""
    largest = {"growth": 3.0, "stem": 1.0, "upsampling": 1.0}
    largest |= {"blocks_1": 3, "blocks_2": 3, "blocks_3": 4}
    return round(count_parameters(**_shape(largest, _STEP)) / _LEAST_SHARE)


def _shape(values: Mapping[str, Any], filters: int) -> dict[str, Any]:
    """Arguments of `count_parameters` with about `filters` filters in the first stage."""
    count = values.get("stages", MOST_STAGES)
    stages = [filters * values["growth"] ** stage for stage in range(count)]
    stem = filters * values["stem"]
    upsampling = [width * values["upsampling"] for width in (*reversed(stages), stem)]
    return {
        "stem_filters": _rounded(stem),
        "stage_filters": tuple(map(_rounded, stages)),
        "stage_blocks": tuple(values[f"blocks_{stage + 1}"] for stage in range(count)),
        "upsampling_filters": tuple(map(_rounded, upsampling)),
    }


def _rounded(filters: float) -> int:
    return max(_STEP, _STEP * round(filters / _STEP))
