"""A network with weights of 16 bits, half as large on disk; it computes in 32 bits."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow import keras


class _Half(keras.mixed_precision.Policy):
    """Weights in 16 bits, which layers read as 32 bits."""

    def __init__(self) -> None:
        super().__init__("float32")

    @property
    def variable_dtype(self) -> str:
        """Of new weights."""
        return "float16"


def in_half(network: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
    """A copy of a float32 network whose weights have 16 bits; `build` makes such a network anew.

    Batch normalization keeps 32 bits.
    """
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_Half())
    try:
        copy = build()
    finally:
        keras.mixed_precision.set_global_policy(before)
    for half, whole in zip(copy.variables, network.variables, strict=True):
        half.assign(tf.cast(tf.convert_to_tensor(whole), half.dtype))
    return copy
