"""Pretrained weights for ResNet50 encoders."""

import pathlib

import numpy as np
from tensorflow import keras

from ixi_tfds.system.errors import UserError

Weights = dict[str, list[np.ndarray]]
"""The arrays of each layer, by the layer's name in keras.applications."""


def read_resnet50(source: str) -> Weights:
    """The weights of keras.applications' ResNet50 without its top.

    Args:
      source: "imagenet", which Keras downloads into its cache, or Keras's own HDF5 file of weights
        for three input channels.

    Raises:
      UserError: the download fails, or the file is missing or holds other weights.
    """
    path = pathlib.Path(source)
    if source != "imagenet" and not path.is_file():
        raise UserError(f"--weights={source}: give none, imagenet, or an existing file")
    try:
        model = keras.applications.ResNet50(
            include_top=False, weights=source, input_shape=(None, None, 3)
        )
    # Keras raises a bare Exception if the download fails.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"--weights={source}: cannot be downloaded ({reason}); get Keras's file "
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 elsewhere and give its path"
            if source == "imagenet"
            else f"--weights={source}: holds no weights of ResNet50 without its top ({reason})"
        ) from error
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def start_with(encoder: keras.Model, weights: Weights) -> None:
    """Set all weights of an encoder made of the first layers of ResNet50, or of all layers."""
    for layer in encoder.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
