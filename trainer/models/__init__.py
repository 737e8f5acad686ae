"""The table of models. A new model is one entry in `MODELS`.

TensorFlow is imported only when a network is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ixi_tfds.system import flags
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

if TYPE_CHECKING:
    from tensorflow import keras


@dataclasses.dataclass(frozen=True)
class Model:
    """An entry of the table.

    Attributes:
      build: builds the network of a spec, with a last channel for marks if asked.
      stride: number that height and width of the slices must be multiples of, for a spec.
      takes_weights: whether its encoder can start with ImageNet weights.
    """

    build: Callable[[ModelSpec, bool], keras.Model]
    stride: Callable[[ModelSpec], int]
    takes_weights: bool = False


def _resnet_like(**settings: Any) -> Model:
    """A `ResNetLike` with these settings; without any, with those of the spec."""

    def settings_of(spec: ModelSpec) -> dict[str, Any]:
        return settings or {name: getattr(spec, name) for name in SHAPE}

    def build_network(spec: ModelSpec, marks: bool) -> keras.Model:
        from trainer.models import networks

        return networks.ResNetLike(**settings_of(spec), marks=marks)

    return Model(build_network, lambda spec: 2 ** (1 + len(settings_of(spec)["stage_filters"])))


def _resnet50(until: str, *upsampling_filters: int) -> Model:
    """The layers of keras.applications' ResNet50 up to the layer `until`, and a decoder."""

    def build_network(spec: ModelSpec, marks: bool) -> keras.Model:
        from trainer.models import networks

        return networks.ResNet50Autoencoder(
            until=until, upsampling_filters=upsampling_filters, rgb=spec.rgb, marks=marks
        )

    return Model(build_network, lambda _: 2 ** len(upsampling_filters), takes_weights=True)


def _unet(*filters: int) -> Model:
    """A `UNet` with these filters, from the finest resolution to the coarsest."""

    def build_network(_: ModelSpec, marks: bool) -> keras.Model:
        from trainer.models import networks

        return networks.UNet(filters=filters, marks=marks)

    return Model(build_network, lambda _: 2 ** (len(filters) - 1))


MODELS = {
    "small_resnet": _resnet_like(
        stem_filters=32, stage_filters=(64, 128, 256), stage_blocks=(2, 1, 1)
    ),
    # The thesis states the number of parameters only; these blocks have that number.
    "big_resnet": _resnet_like(
        stem_filters=32, stage_filters=(64, 128, 256), stage_blocks=(2, 2, 4)
    ),
    "resnet_like": _resnet_like(),
    "resnet50": _resnet50("conv5_block3_out", 512, 256, 128, 64, 32),
    "resnet50_add13": _resnet50("conv4_block6_add", 256, 128, 64, 32),
    "resnet50_act40": _resnet50("conv4_block6_out", 256, 128, 64, 32),
    "unet": _unet(16, 32, 64, 128),
}

_OWN = "model=resnet_like"
SHAPE = ("stem_filters", "stage_filters", "stage_blocks", "upsampling_filters")
"""Flags of `resnet_like`."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The flags that describe a model."""

    name: str = flag("Model.", "small_resnet", name="model", choices=MODELS)
    weights: str = flag(
        "First weights of the encoder of a resnet50 model: none (random), imagenet (downloaded by "
        "Keras), or Keras's file resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5.",
        "none",
        path=True,
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
        "Filters of each up-sampling block of resnet_like, one more number than stages; by default "
        "those of the encoder in reverse.",
        (),
        least=1,
        only_with=_OWN,
    )

    def __post_init__(self) -> None:
        flags.check(self)
        if self.rgb and not MODELS[self.name].takes_weights:
            able = ", ".join(name for name, model in MODELS.items() if model.takes_weights)
            raise UserError(
                f"--weights={self.weights}: --model={self.name} takes none; only {able} do"
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
        """Whether the network has three channels, which ImageNet weights need."""
        return self.weights != "none"


def stride(spec: ModelSpec) -> int:
    """Number that height and width of a model's slices must be multiples of."""
    return MODELS[spec.name].stride(spec)


def build(spec: ModelSpec, size: tuple[int, int], *, marks: bool = False) -> keras.Model:
    """Build a network from slices [B, H, W, 1] in [0, 1] to float32 [B, H, W, C].

    C is 3 if `spec.rgb`, else 1, and one more with `marks`. Its variables are for slices of `size`,
    (height, width), which must be multiples of the model's `stride`.
    """
    import tensorflow as tf

    network = MODELS[spec.name].build(spec, marks)
    network(tf.zeros((1, *size, 1)), training=False)
    return network
