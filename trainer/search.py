"""What a search for hyper-parameters may try, and how a point of that space becomes a run.

The space holds the questions that the thesis left open: learning rate, its schedule and optimizer,
batch size, filters beyond 256, more blocks, the loss, more or less augmentation, noise. Every point
of it is a model within the limit of parameters: a trial says how large a share of the limit it
takes and what shape it has, and its filters follow. Rejecting what is too large instead would leave
a search that models its results blind along the very border where the best models lie.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ixi_tfds import storage
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS
from ixi_tfds.system import flags
from trainer.config import JIT_COMPILE, TrainConfig

TUNERS = ("hyperband", "bayesian")
BIG_PARAMETERS = 6_104_256
OBJECTIVE = "val_psnr"

SHAPE = ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters")
"""Flags of the trainer that make a `resnet_like` model."""

_LEAST_SHARE = 0.25
_STEP = 4
"""Filters are multiples of this."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A search.

    Attributes:
      data_dir: root folder of the datasets.
      dataset: as in `TrainConfig`.
      tuning_dir: folder of the search: its state, a folder a trial, table, flags of the best.
      tuner: one of `TUNERS`.
      epochs: of a trial; of one that Hyperband lets go on to the end.
      max_trials: at most so many; Hyperband may plan fewer.
      factor: Hyperband trains one in so many further, so many times as long.
      random_trials: so many before Bayesian optimization begins to model the results.
      max_parameters: no model has more.
      batch_sizes: to choose from, of the global batch.
      seed: of the search and of each trial.
      mixed_precision: as in `TrainConfig`.
      jit_compile: as in `TrainConfig`.
      cache: as in `TrainConfig`.
      replicas: as in `TrainConfig`.
      verify: as in `TrainConfig`, once for all trials.
    """

    data_dir: str
    dataset: str
    tuning_dir: str
    tuner: str
    epochs: int
    max_trials: int
    factor: int
    random_trials: int
    max_parameters: int
    batch_sizes: tuple[int, ...]
    seed: int
    mixed_precision: bool
    jit_compile: str
    cache: bool
    replicas: int
    verify: str

    def __post_init__(self) -> None:
        # keras-tuner leaves its state in place, and trials are told apart by renaming folders.
        storage.check_local(self.tuning_dir, "tuning_dir")
        for name, choices in (
            *(("tuner", TUNERS), ("jit_compile", JIT_COMPILE), ("verify", CHECKS)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"--{name}={value}: choose one of {', '.join(choices)}")
        for name, least in (
            *(("epochs", 1), ("max_trials", 1), ("factor", 2), ("random_trials", 1)),
            *(("seed", 0), ("replicas", 0), ("max_parameters", least_limit())),
        ):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"--{name}={value}: must be at least {least}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            shown = ",".join(map(str, self.batch_sizes))
            raise UserError(f"--batch_sizes={shown}: give numbers from 1 up")


def space(batch_sizes: Sequence[int]) -> Any:
    """The hyper-parameters and their ranges, as keras-tuner's `HyperParameters`."""
    import keras_tuner

    # No conditional ones: keras-tuner prints something each time it sends one to a worker.
    hp = keras_tuner.HyperParameters()
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    hp.Choice("optimizer", ["rmsprop", "adam"])
    hp.Choice("schedule", ["plateau", "cosine", "constant"])
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
    """The trainer's flags, by name, of a point in the space.

    `share` is the part of `max_parameters` that the model may take and `growth` the ratio of the
    filters of a stage to those of the stage before; `stem` and `upsampling` are ratios, too: of the
    stem to the first stage, and of the decoder to the encoder. The filters are the most with which
    the model stays within its share. `dssim_weight` is 0 for mse, 1 for dssim, else the share of
    dssim in a sum of both; `augment_fraction` is 0 for no augmentation.
    """
    # Three digits say enough, and remove what 32-bit messages from chief to worker do to a float.
    plain = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    loss = {0.0: "mse", 1.0: "dssim"}.get(plain["dssim_weight"], "mix")
    augment = plain["augment_fraction"] > 0
    return {
        **{name: plain[name] for name in ("learning_rate", "optimizer", "schedule", "batch_size")},
        "loss": loss,
        "dssim_weight": plain["dssim_weight"] if loss == "mix" else 0.5,
        "augment": augment,
        "augment_fraction": plain["augment_fraction"] if augment else 1.0,
        "gaussian_noise": plain["gaussian_noise"] if augment else 0.0,
        "model": "resnet_like",
        **_widest(plain, plain["share"] * max_parameters),
    }


def train_config(config: SearchConfig, values: Mapping[str, Any], workdir: str) -> TrainConfig:
    """The run that tries a point of the space, to be done in the folder `workdir`."""
    shared = {field.name for field in dataclasses.fields(SearchConfig)}
    names = flags.flags_of(TrainConfig)
    given = {name: getattr(config, name) for name in names if name in shared}
    given |= {"workdir": workdir, "verify": "quick"}
    given |= flags_of(values, config.max_parameters)
    return flags.from_flags(TrainConfig, given)


def flagfile(config: TrainConfig) -> str:
    """The run as a file for `python -m trainer --flagfile=`, wherever that is called."""
    lines = []
    for name, value in flags.as_flags(config).items():
        if name in ("data_dir", "workdir"):
            value = pathlib.Path(value).resolve()
        if name == "verify" or (name == "dssim_weight" and config.loss != "mix"):
            continue
        if isinstance(value, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        elif isinstance(value, list | tuple):
            lines.append(f"--{name}={','.join(map(str, value))}")
        else:
            lines.append(f"--{name}={value}")
    return "\n".join(lines) + "\n"


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
