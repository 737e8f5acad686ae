"""The thesis's ResNet-like autoencoders, from one residual block, one up-sampling block.

Layers of ours have no bias. Table 4.1 of the thesis counts 288 parameters for the first and for
the last convolution, so neither is followed by batch normalization; whether an activation follows
is not stated, and here none does: the first then keeps all that the slice holds, and the last can
reach every grey value, 0 and 1 among them, without the vanishing gradients of a sigmoid or the
dead pixels of a ReLU. Whoever shows or scores a reconstruction clips it to [0, 1], as the exported
model does.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow import keras

from trainer.normalization import Normalization

STRIDE = 16
"""Height and width of a slice must be multiples of this."""


def _convolution(filters: int, size: int = 3, strides: int = 1) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)


class ResidualBlock(keras.layers.Layer):
    """Conv3x3-BN-ReLU-Conv3x3-BN plus a shortcut, then ReLU.

    The shortcut is the identity, or Conv1x1-BN where the block changes stride or filters.

    Args:
      filters: output channels.
      stride: of the first convolution and of the shortcut.
      input_filters: input channels.
    """

    def __init__(self, filters: int, stride: int, input_filters: int) -> None:
        super().__init__()
        self.convolution_1 = _convolution(filters, strides=stride)
        self.normalization_1 = Normalization()
        self.convolution_2 = _convolution(filters)
        self.normalization_2 = Normalization()
        self.projects = stride != 1 or input_filters != filters
        if self.projects:
            self.shortcut_convolution = _convolution(filters, 1, stride)
            self.shortcut_normalization = Normalization()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[B, H, W, input_filters] to [B, H / stride, W / stride, filters]."""
        values = self.normalization_1(self.convolution_1(inputs), training=training)
        values = self.convolution_2(tf.nn.relu(values))
        values = self.normalization_2(values, training=training)
        if self.projects:
            inputs = self.shortcut_convolution(inputs)
            inputs = self.shortcut_normalization(inputs, training=training)
        return tf.nn.relu(values + inputs)


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
    """Up-sampling blocks of the given filters, then Conv3x3 to the image's channels.

    The last convolution gives float32 under every precision policy.
    """

    def __init__(self, filters: Sequence[int], channels: int) -> None:
        super().__init__()
        self.blocks = [UpsamplingBlock(number) for number in filters]
        self.convolution = keras.layers.Conv2D(
            channels, 3, padding="same", use_bias=False, dtype="float32"
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """[B, h, w, C] to float32 [B, h * 2^n, w * 2^n, channels]."""
        for block in self.blocks:
            inputs = block(inputs, training=training)
        return self.convolution(inputs)


class ResNetLike(keras.Model):
    """Stem, residual blocks, decoder.

    Takes slices [B, H, W, 1] in [0, 1] and gives float32 of the same shape, not clipped.

    Args:
      stem: filters of the first convolution, which has stride 2.
      blocks: (filters, stride) of each residual block.
      upsampling: filters of each up-sampling block; one for each halving in the encoder.
    """

    def __init__(
        self, *, stem: int, blocks: Sequence[tuple[int, int]], upsampling: Sequence[int]
    ) -> None:
        super().__init__()
        self.stem = _convolution(stem, strides=2)
        inputs = [stem, *(filters for filters, _ in blocks)]
        self.blocks = [
            ResidualBlock(filters, stride, before)
            for (filters, stride), before in zip(blocks, inputs, strict=False)
        ]
        self.decoder = Decoder(upsampling, channels=1)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Reconstructions of the slices."""
        values = self.stem(inputs)
        for block in self.blocks:
            values = block(values, training=training)
        return self.decoder(values, training=training)


def small_resnet() -> keras.Model:
    """The thesis's Small ResNet-like model, 2,263,232 parameters."""
    return ResNetLike(
        stem=32,
        blocks=((64, 2), (64, 1), (128, 2), (256, 2)),
        upsampling=(256, 128, 64, 32),
    )


def big_resnet() -> keras.Model:
    """The thesis's Big ResNet-like model, 6,104,256 parameters.

    The thesis gives the number of parameters, not the blocks; these give that number.
    """
    return ResNetLike(
        stem=32,
        blocks=(
            *((64, 2), (64, 1), (128, 2), (128, 1)),
            *((256, 2), (256, 1), (256, 1), (256, 1)),
        ),
        upsampling=(256, 128, 64, 32),
    )


MODELS: dict[str, Callable[[], keras.Model]] = {
    "small_resnet": small_resnet,
    "big_resnet": big_resnet,
}
"""What `--model` takes."""


def build(name: str, size: tuple[int, int]) -> keras.Model:
    """The model `name` with its variables made for slices of `size` = (height, width)."""
    network = MODELS[name]()
    network(tf.zeros((1, *size, 1)), training=False)
    return network
