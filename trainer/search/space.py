"""What a search may try, and how a point of that space becomes flags of the trainer.

The space holds the questions that the thesis left open: learning rate, its schedule and optimizer,
batch size, filters beyond 256, more blocks, the loss, more or less augmentation, noise. Every point
is a model within the limit of parameters: a point says how large a share of the limit the model
takes and what shape it has, and the filters follow. If models that are too large were rejected
instead, a search that models its results would know nothing beyond that border, where the best
models lie.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import OPTIMIZERS, SCHEDULES

OBJECTIVE = "val_psnr"
SHAPE = ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters")
"""Flags of the trainer that make a `resnet_like` model."""

_LEAST_SHARE = 0.25
_STEP = 4
"""Filters are multiples of this."""


def space(batch_sizes: Sequence[int]) -> Any:
    """The hyper-parameters and their ranges, as keras-tuner's `HyperParameters`."""
    import keras_tuner

    # No conditional ones: keras-tuner prints something each time it sends one to a worker.
    hp = keras_tuner.HyperParameters()
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    hp.Choice("optimizer", list(OPTIMIZERS))
    hp.Choice("schedule", list(SCHEDULES))
    hp.Choice("batch_size", sorted(set(batch_sizes)))
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
    return hp


def flags_of(values: Mapping[str, Any], max_parameters: int) -> dict[str, Any]:
    """The flags of the trainer, by name, that a point in the space sets beside the model's name.

    Args:
      values: the point. `share` is the part of `max_parameters` that the model may take, `growth`
        the ratio of the filters of a stage to those of the stage before, `stem` that of the stem to
        the first stage, `upsampling` that of the decoder to the encoder. The filters are the most
        with which the model stays within its share. `dssim_weight` is 0 for mse, 1 for dssim, else
        the weight of dssim in a sum of both; `augment_fraction` is 0 for no augmentation.
      max_parameters: of a model.
    """
    # Three digits say enough, and remove what 32-bit messages from chief to worker do to a float.
    plain = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    loss = {0.0: "mse", 1.0: "dssim"}.get(plain["dssim_weight"], "mix")
    augment = plain["augment_fraction"] > 0
    return {
        **_widest(plain, plain["share"] * max_parameters),
        "loss": loss,
        "dssim_weight": plain["dssim_weight"] if loss == "mix" else 0.5,
        **{name: plain[name] for name in ("optimizer", "learning_rate", "schedule", "batch_size")},
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
    """Parameters of a `models.ResNetLike`, moving statistics included, without building it."""
    before = stem_filters
    total = 9 * before
    for filters, count in zip(stage_filters, stage_blocks, strict=True):
        # The first block's shortcut, then two convolutions a block, the very first one apart.
        total += before * filters + 4 * filters
        total += 9 * before * filters + (2 * count - 1) * 9 * filters**2 + 2 * count * 4 * filters
        before = filters
    for filters in upsampling_filters:
        total += 9 * before * filters + 4 * filters
        before = filters
    return total + 9 * before


def least_limit() -> int:
    """The lowest `max_parameters` in which all shapes of the space find room."""
    largest = {"growth": 3.0, "stem": 1.0, "upsampling": 1.0}
    largest |= {"blocks_1": 3, "blocks_2": 3, "blocks_3": 4}
    return round(count_parameters(**_shape(largest, _STEP)) / _LEAST_SHARE)


def _widest(values: Mapping[str, Any], limit: float) -> dict[str, Any]:
    filters = _STEP
    while count_parameters(**_shape(values, filters + 1)) <= limit:
        filters += 1
    return _shape(values, filters)


def _shape(values: Mapping[str, Any], filters: int) -> dict[str, Any]:
    """Arguments of `count_parameters`, for about so many filters in the first stage."""
    stages = [filters * values["growth"] ** stage for stage in range(3)]
    stem = filters * values["stem"]
    upsampling = [width * values["upsampling"] for width in (*reversed(stages), stem)]
    return {
        "stem_filters": _rounded(stem),
        "stage_filters": tuple(map(_rounded, stages)),
        "stage_blocks": tuple(values[f"blocks_{stage}"] for stage in (1, 2, 3)),
        "upsampling_filters": tuple(map(_rounded, upsampling)),
    }


def _rounded(filters: float) -> int:
    return max(_STEP, _STEP * round(filters / _STEP))
