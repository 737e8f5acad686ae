"""The model card: what the model is, its training data, how to call it, its intended use."""

import dataclasses
import importlib.metadata
import importlib.resources
from collections.abc import Mapping

import jinja2

from ixi_tfds import lanes
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import ModelCard
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
    values = {k: v for k, v in flags.as_flags(config).items() if k not in left_out}
    return ModelCard(
        name=config.model.name,
        intended_use=_INTENDED_USE,
        not_for=_NOT_FOR,
        data_licence=_LICENCE,
        size=data.train.size,
        signatures=describe_signatures(
            data.train.size,
            data.scaling,
            by_background=_pad_with_background(data),
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


def describe_signatures(
    size: tuple[int, int], scaling: str, *, by_background: bool = False, marks: bool = False
) -> dict[str, dict[str, dict[str, str]]]:
    """Inputs and outputs of each signature of `saved_model.signatures`, in words.

    `by_background` tells that the training slices are padded with the background of their scan,
    `marks` that the network marks damage.
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
        box = "float32 [posterior, superior, right]"
        values = f"{box}, white matter at 0.8, 0 outside the mask"
        return {
            "serving_default": default,
            "volume": {
                "takes": {"volume": values, "mask": f"{box}, 1 in the brain"},
                "gives": {"repaired": values, "residual": f"{box}, volume less repaired"}
                | ({"mark": f"{box}, probability of damage"} if marks else {}),
            },
        }
    return {
        "serving_default": default,
        "raw": {
            "takes": {"slices": f"{scanner}, padded with {padded}"}
            | (limits if scaling == "volume" else {}),
            "gives": {"reconstruction": scanner, "residual": f"{scanner}, slices less these"},
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
    return page.render(codec.to_plain(card))
