"""The model card: what the model is, its training data, how to call it, its intended use."""

import dataclasses
import importlib.metadata
import importlib.resources
from collections.abc import Mapping

import jinja2

from ixi_tfds import lanes
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images.brain import slice_axis, steps
from ixi_tfds.images.tissue import HIGHEST, WHITE_MATTER
from ixi_tfds.system import flags
from trainer.augmentation import AugmentationConfig
from trainer.config import TrainConfig
from trainer.data import TrainingData
from trainer.tasks import TASKS

_PACKAGES = ("ixi-autoencoders", *lanes.PACKAGES, "tensorflow-datasets", "numpy")

_INTENDED_USE = (
    "Research on the reconstruction of healthy T1 slices of the head, and on anomaly maps as the "
    "difference of slice and reconstruction."
)
_FOR_BRAINS = "Research on lesions, as what a model of healthy brains does not expect in a T1 scan."
_AXES = ("posterior", "superior", "right")
_NOT_FOR = (
    "It is not a medical device. It has not been tested on patients for any medical purpose, and "
    "nothing that it shows is a finding about a person."
)
_LICENCE = (
    "Slices of IXI are under CC BY-SA 3.0 (https://brain-development.org/ixi-dataset); slices of "
    "other cohorts are under the terms of their owners."
)


def make_card(
    config: TrainConfig,
    data: TrainingData,
    augmentation: AugmentationConfig | None,
    *,
    parameters: int,
    best: Mapping[str, float],
    epochs_trained: int,
) -> ModelCard:
    """The card of a model, still without the digest of the model's files.

    `parameters` is the number of the network's parameters, `best` the history's row of the epoch of
    the exported weights, `epochs_trained` the number of finished epochs.
    """
    # They describe the machine and not the model.
    left_out = ("data_dir", "workdir", "verify")
    given = flags.as_flags(config) if config.task == "reconstruct" else flags.in_force(config)
    values = {k: v for k, v in given.items() if k not in left_out}
    return ModelCard(
        name=config.model.name,
        intended_use=_FOR_BRAINS if _of_brains(data) else _INTENDED_USE,
        not_for=_NOT_FOR,
        data_licence=_LICENCE,
        size=data.train.size,
        signatures=describe_signatures(
            data.train.size,
            data.scaling,
            by_background=_pad_with_background(data),
            brains=_of_brains(data),
            marks=TASKS[config.task].marks,
        ),
        preprocessing_version=data.version,
        data_fingerprint=data.fingerprint,
        datasets=data.facts,
        parameters=parameters,
        flags=values,
        augmentation=dataclasses.asdict(augmentation) if augmentation else None,
        best=dict(best),
        epochs_trained=epochs_trained,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
    )


def _pad_with_background(data: TrainingData) -> bool:
    """Whether pixels outside the volumes of a dataset are background rather than scanner zeros."""
    configs = [facts.slices for facts in data.facts.values() if facts.slices]
    return any(config.padding is not None or config.spacing is not None for config in configs)


def _of_brains(data: TrainingData) -> SliceConfig | None:
    """The config of the slices of brains in the data."""
    configs = [facts.slices for facts in data.facts.values() if facts.slices]
    return next((config for config in configs if config.scaling == "tissue"), None)


def describe_signatures(
    size: tuple[int, int],
    scaling: str,
    *,
    by_background: bool = False,
    brains: SliceConfig | None = None,
    marks: bool = False,
) -> dict[str, dict[str, dict[str, str]]]:
    """Inputs and outputs of each signature of `saved_model.signatures`, in words.

    Args:
      size: (H, W) of the slices.
      scaling: scaling of the dataset.
      by_background: whether the training slices are padded with the background of their scan.
      brains: config of training slices of brains; the steps that make its volumes of scans are
        then told, too.
      marks: whether the network marks damage.
    """
    padded = "the background of the scan" if by_background else "scanner zeros"
    plane = f"{size[0]}, {size[1]}"
    unit, scanner = f"float32 [B, {plane}, 1] in [0, 1]", f"float32 [B, {plane}] in scanner units"
    limits = {
        "low": "float32 [B], the 0.5th percentile of the volume that the slice is of",
        "high": "float32 [B], the 99.5th percentile of that volume",
    }
    default = {"takes": {"slices": unit}, "gives": {"reconstruction": unit}}
    if scaling == "tissue":
        default["takes"]["slices"] += f": values of brains divided by {HIGHEST}, 0 outside"
        return {"serving_default": default, "volume": _volumes(size, brains, marks=marks)}
    return {
        "serving_default": default,
        "raw": {
            "takes": {"slices": f"{scanner}, padded with {padded}"}
            | (limits if scaling == "volume" else {}),
            "gives": {"reconstruction": scanner, "residual": f"{scanner}, slices less these"},
        },
    }


def _volumes(
    size: tuple[int, int], brains: SliceConfig | None, *, marks: bool
) -> dict[str, dict[str, str]]:
    """The signature `volume` in words."""
    axis = slice_axis(brains.plane if brains else None)
    sides: list[str] = [str(side) for side in size]
    sides.insert(axis, "any number")
    box = "float32 [" + ", ".join(f"{n}: {s}" for n, s in zip(_AXES, sides, strict=True)) + "]"
    values = f"{box}, white matter at {WHITE_MATTER}, at most {HIGHEST}, 0 outside the mask"
    mark = {"mark": f"{box}, how sure it is of damage, from 0 to 1, 0 outside the mask"}
    network = (
        f"each slice across {_AXES[axis]}, divided by {HIGHEST}, goes through the network; its "
        f"result, clipped to 0 to 1 and times {HIGHEST}, is `repaired`"
    )
    return {
        "prepare": (steps(brains) if brains else {}) | {"network": network},
        "takes": {"volume": values, "mask": f"{box}, 1 in the brain and 0 elsewhere"},
        "gives": {
            "repaired": values,
            "residual": f"{box}, volume less repaired, 0 outside the mask",
            **(mark if marks else {}),
        },
    }


def markdown(card: ModelCard) -> str:
    """The card as a Markdown page; the card must have a digest."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = importlib.resources.files("trainer").joinpath("model_card.md")
    page = environment.from_string(template.read_text(encoding="utf-8"))
    configs = [facts.slices for facts in card.datasets.values() if facts.slices]
    across = slice_axis(configs[0].plane if configs else None)
    rows, columns = (name for axis, name in enumerate(_AXES) if axis != across)
    return page.render(codec.to_plain(card), rows=rows, columns=columns)
