"""Layers of all models: residual block, up-sampling block, decoder.

These layers have no bias. Table 4.1 of the thesis counts 288 parameters for the first and for the
last convolution, so no batch normalization follows them. The thesis does not state whether an
activation follows; here none does. So the first convolution loses nothing of the slice, and the
last reaches every grey value, without the vanishing gradients of a sigmoid or the dead pixels of a
ReLU.
"""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from trainer.models.normalization import Normalization

_FEWEST = 16
"""Fewest input channels with which a CPU's kernel takes a 1x1 convolution that has a stride.

For the filter gradient oneDNN's AVX-512 kernel reads and writes blocks of 16 channels. With fewer
it writes beyond its buffer, in float32 and bfloat16, and the process dies.
"""


def convolution(filters: int, size: int = 3, strides: int = 1) -> keras.layers.Layer:
    """A convolution without bias, with "same" padding."""
    return keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)


class ResidualBlock(keras.layers.Layer):
    """Conv3x3-BN-ReLU-Conv3x3-BN plus a shortcut, then ReLU.

    The shortcut is the identity, or Conv1x1-BN if the stride is not 1 or the channels change from
    `input_filters` to `filters`. The first convolution and the shortcut have the stride.
    """

    def __init__(self, filters: int, stride: int, input_filters: int) -> None:
        super().__init__()
        self.convolution_1 = convolution(filters, strides=stride)
        self.normalization_1 = Normalization()
        self.convolution_2 = convolution(filters)
        self.normalization_2 = Normalization()
        self.projects = stride != 1 or input_filters != filters
        if self.projects:
            self.thinning = stride if input_filters < _FEWEST else 1
            self.shortcut_convolution = convolution(filters, 1, stride // self.thinning)
            self.shortcut_normalization = Normalization()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[B, H, W, input_filters] to [B, H / stride, W / stride, filters]."""
        values = self.normalization_1(self.convolution_1(inputs), training=training)
        values = self.convolution_2(tf.nn.relu(values))
        values = self.normalization_2(values, training=training)
        if self.projects:
            if self.thinning != 1:
                # The values that the stride would take; wider networks keep their graph and speed.
                inputs = inputs[:, :: self.thinning, :: self.thinning]
            inputs = self.shortcut_convolution(inputs)
            inputs = self.shortcut_normalization(inputs, training=training)
        return tf.nn.relu(values + inputs)


class GroupNormalization(keras.layers.Layer):
    """Group normalization over height, width and the channels of a group (Wu and He, ECCV 2018).

    Keras's own gives the same and takes much longer: it multiplies by a mask of ones and goes over
    the values five times. Here means of channels are taken in 32 bits, and values are multiplied
    and shifted once.
    """

    def __init__(self, groups: int, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon

    def build(self, shape: tf.TensorShape) -> None:
        """Make the weights for [B, H, W, C]."""
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:], initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape[-1:], initializer="zeros")
        super().build(shape)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] to the same; C is a multiple of the groups."""
        exact = tf.cast(values, tf.float32)
        channels = values.shape[-1]

        def of_groups(each: tf.Tensor) -> tf.Tensor:
            """Means over the channels of a group, for each channel, from [B, C]."""
            grouped = tf.reshape(each, (-1, self.groups, channels // self.groups))
            means = tf.reduce_mean(grouped, axis=2)
            return tf.repeat(means, channels // self.groups, axis=1)

        mean = of_groups(tf.reduce_mean(exact, axis=(1, 2)))
        square = of_groups(tf.reduce_mean(tf.square(exact), axis=(1, 2)))
        spread = tf.maximum(square - tf.square(mean), 0.0)
        scale = tf.math.rsqrt(spread + self.epsilon) * tf.cast(self.gamma, tf.float32)
        shift = tf.cast(self.beta, tf.float32) - mean * scale
        scale, shift = (tf.cast(each, values.dtype)[:, None, None] for each in (scale, shift))
        return values * scale + shift


class NormalizedPair(keras.layers.Layer):
    """Two times Conv3x3, group normalization with 8 groups, ReLU."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.convolutions = [convolution(filters) for _ in range(2)]
        self.normalizations = [GroupNormalization(8) for _ in range(2)]

    def call(self, values: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] to [B, H, W, filters]."""
        for convolve, normalize in zip(self.convolutions, self.normalizations, strict=True):
            values = tf.nn.relu(normalize(convolve(values)))
        return values


class UpsamplingBlock(keras.layers.Layer):
    """Conv2DTranspose3x3 of stride 2, BN, ReLU."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.convolution = keras.layers.Conv2DTranspose(
            filters, 3, strides=2, padding="same", use_bias=False
        )
        self.normalization = Normalization()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[B, H, W, C] to [B, 2 H, 2 W, filters]."""
        return tf.nn.relu(self.normalization(self.convolution(inputs), training=training))


class Decoder(keras.layers.Layer):
    """Up-sampling blocks with these filters, then Conv3x3 to the image's channels.

    The result is float32 under every precision policy. The last convolution follows the policy:
    bfloat16 rounds grey values by 0.002 at most, and float32 needs a tenth of the step's time.
    """

    def __init__(self, filters: Sequence[int], channels: int) -> None:
        super().__init__()
        self.blocks = [UpsamplingBlock(number) for number in filters]
        self.convolution = convolution(channels)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[B, h, w, C] to float32 [B, h * 2^n, w * 2^n, channels]."""
        for block in self.blocks:
            inputs = block(inputs, training=training)
        return tf.cast(self.convolution(inputs), tf.float32)
