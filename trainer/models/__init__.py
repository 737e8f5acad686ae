"""The models that can be trained: a table from name to record.

The table is there without TensorFlow, which is imported where a network is built. A model with
settings of its own, or with a network of its own, is one more entry in `MODELS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ixi_tfds.errors import UserError
from ixi_tfds.system import flags
from ixi_tfds.system.flags import flag

if TYPE_CHECKING:
    from tensorflow import keras


@dataclasses.dataclass(frozen=True)
class Model:
    """What there is to know of a model.

    Attributes:
      build: makes the network that a spec describes.
      stride: of a spec; height and width of the slices must be multiples of it.
      takes_weights: whether its encoder can start with weights of ImageNet.
    """

    build: Callable[[ModelSpec], keras.Model]
    stride: Callable[[ModelSpec], int]
    takes_weights: bool = False


def _resnet_like(**settings: Any) -> Model:
    """A `ResNetLike` with settings of its own; without any, with those of the flags."""

    def settings_of(spec: ModelSpec) -> dict[str, Any]:
        return settings or {name: getattr(spec, name) for name in SHAPE}

    def build_network(spec: ModelSpec) -> keras.Model:
        from trainer.models import networks

        return networks.ResNetLike(**settings_of(spec))

    return Model(build_network, lambda spec: 2 ** (1 + len(settings_of(spec)["stage_filters"])))


def _resnet50(until: str, *upsampling_filters: int) -> Model:
    """The layers of keras.applications' ResNet50 to the one named `until`, and a decoder."""

    def build_network(spec: ModelSpec) -> keras.Model:
        from trainer.models import networks

        return networks.ResNet50Autoencoder(
            until=until, upsampling_filters=upsampling_filters, rgb=spec.rgb
        )

    stride = 2 ** len(upsampling_filters)
    return Model(build_network, lambda spec: stride, takes_weights=True)


MODELS = {
    "small_resnet": _resnet_like(
        stem_filters=32, stage_filters=(64, 128, 256), stage_blocks=(2, 1, 1)
    ),
    # The thesis gives the number of parameters, not the blocks; these give that number.
    "big_resnet": _resnet_like(
        stem_filters=32, stage_filters=(64, 128, 256), stage_blocks=(2, 2, 4)
    ),
    "resnet_like": _resnet_like(),
    "resnet50": _resnet50("conv5_block3_out", 512, 256, 128, 64, 32),
    "resnet50_add13": _resnet50("conv4_block6_add", 256, 128, 64, 32),
    "resnet50_act40": _resnet50("conv4_block6_out", 256, 128, 64, 32),
}

_OWN = "model=resnet_like"
SHAPE = ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters")
"""Flags that only `resnet_like` has."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which model to build."""

    name: str = flag("Model.", "small_resnet", name="model", choices=MODELS)
    weights: str = flag(
        "What the encoder of a resnet50 model starts with: none (random numbers), imagenet "
        "(downloaded by Keras), or a file, Keras's "
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5.",
        "none",
    )
    stem_filters: int = flag(
        "Filters of the first convolution of resnet_like.", 32, least=1, only_with=_OWN
    )
    stage_filters: tuple[int, ...] = flag(
        "Filters of each stage of resnet_like.", (64, 128, 256), least=1, only_with=_OWN
    )
    stage_blocks: tuple[int, ...] = flag(
        "Residual blocks of each stage of resnet_like.", (2, 1, 1), least=1, only_with=_OWN
    )
    upsampling_filters: tuple[int, ...] = flag(
        "Filters of each up-sampling block of resnet_like, one more than there are stages; by "
        "default those of the encoder in reverse.",
        (),
        least=1,
        only_with=_OWN,
    )

    def __post_init__(self) -> None:
        flags.check(self)
        if self.rgb and not MODELS[self.name].takes_weights:
            able = ", ".join(name for name, model in MODELS.items() if model.takes_weights)
            raise UserError(
                f"--weights={self.weights}: --model={self.name} has none; only {able} have"
            )
        stages = len(self.stage_filters)
        wanted = {"stage_filters": max(stages, 1), "stage_blocks": stages}
        if self.upsampling_filters:
            wanted["upsampling_filters"] = stages + 1
        for name, count in wanted.items():
            numbers = getattr(self, name)
            if len(numbers) != count:
                raise UserError(
                    f"--{name}={','.join(map(str, numbers))}: give {count} number(s), for "
                    f"--stage_filters has {stages} stage(s)"
                )

    @property
    def rgb(self) -> bool:
        """Whether the network has three channels inside, as ImageNet weights want them."""
        return self.weights != "none"


def stride(spec: ModelSpec) -> int:
    """Height and width of the slices that a model takes must be multiples of this."""
    return MODELS[spec.name].stride(spec)


def build(spec: ModelSpec, size: tuple[int, int]) -> keras.Model:
    """A network with its variables made.

    Args:
      spec: which.
      size: (height, width) of the slices, multiples of the model's `stride`.

    Returns:
      A model from slices [B, H, W, 1] in [0, 1] to float32 [B, H, W, C], C being 3 for RGB, else 1.
    """
    import tensorflow as tf

    network = MODELS[spec.name].build(spec)
    network(tf.zeros((1, *size, 1)), training=False)
    return network
