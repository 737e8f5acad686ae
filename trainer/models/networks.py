"""The autoencoders of the thesis: ResNet-like ones, and those with ResNet50 as encoder.

Every network takes grey slices [B, H, W, 1] in [0, 1] and returns float32, not clipped. Networks
for ImageNet weights repeat the slice as RGB and return three channels; all others return one.
`to_grey` turns the result into slices for display and scores, as in the exported model.
"""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from trainer.models import blocks
from trainer.models.normalization import Normalization


class ResNetLike(keras.Model):
    """Stem, stages of residual blocks, decoder.

    Each stage begins with a block of stride 2.

    Args:
      stem_filters: filters of the first convolution, which has stride 2.
      stage_filters: filters of the blocks of each stage.
      stage_blocks: number of blocks of each stage.
      upsampling_filters: filters of each up-sampling block, one more number than stages; by default
        those of the stages in reverse, then those of the stem.
      marks: whether a last channel has logits of damage.
    """

    def __init__(
        self,
        *,
        stem_filters: int,
        stage_filters: Sequence[int],
        stage_blocks: Sequence[int],
        upsampling_filters: Sequence[int] = (),
        marks: bool = False,
    ) -> None:
        super().__init__()
        self.stem = blocks.convolution(stem_filters, strides=2)
        self.blocks = []
        before = stem_filters
        for filters, count in zip(stage_filters, stage_blocks, strict=True):
            for number in range(count):
                self.blocks.append(blocks.ResidualBlock(filters, 1 if number else 2, before))
                before = filters
        mirrored = (*reversed(stage_filters), stem_filters)
        self.decoder = blocks.Decoder(upsampling_filters or mirrored, channels=1 + marks)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Slices [B, H, W, 1] in [0, 1] to float32 of the same shape, not clipped."""
        values = self.stem(inputs)
        for block in self.blocks:
            values = block(values, training=training)
        return self.decoder(values, training=training)


class UNet(keras.Model):
    """U-Net with skips, group normalization and bilinear up-sampling.

    The last layer starts at zero and gives what is subtracted from the slice, so an untrained
    network returns its input. Group normalization, because damaged slices, of which batch
    normalization would learn the statistics, come in training only.

    Args:
      filters: of each resolution, multiples of 8; each is half of the one before.
      marks: whether a last channel has logits of the damage.
    """

    def __init__(self, *, filters: Sequence[int], marks: bool) -> None:
        # What is subtracted is small, so the slices are not rounded to 16 bits.
        super().__init__(autocast=False)
        self.down = [blocks.NormalizedPair(number) for number in filters]
        self.up = [blocks.NormalizedPair(number) for number in reversed(filters[:-1])]
        self.last = keras.layers.Conv2D(1 + marks, 1, kernel_initializer="zeros")

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Slices [B, H, W, 1] in [0, 1] to float32 [B, H, W, 1 or 2], not clipped."""
        values = self.down[0](inputs)
        skips = []
        for pair in self.down[1:]:
            skips.append(values)
            values = pair(tf.nn.max_pool2d(values, 2, 2, "VALID"))
        for pair, skip in zip(self.up, reversed(skips), strict=True):
            values = tf.cast(tf.image.resize(values, skip.shape[1:3]), skip.dtype)
            values = pair(tf.concat([values, skip], axis=-1))
        change = tf.cast(self.last(values), tf.float32)
        repaired = tf.cast(inputs, tf.float32) - change[..., :1]
        return tf.concat([repaired, change[..., 1:]], axis=-1)


def _resnet50(until: str, channels: int) -> keras.Model:
    """keras.applications' ResNet50 up to the layer `until`, with random weights."""
    shape = (None, None, channels)
    whole = keras.applications.ResNet50(include_top=False, weights=None, input_shape=shape)
    encoder = keras.Model(whole.input, whole.get_layer(until).output, name="resnet50")

    # Keras's own batch normalization takes the statistics of one replica only.
    def synchronize(layer: keras.layers.Layer) -> keras.layers.Layer:
        normalizes = isinstance(layer, keras.layers.BatchNormalization)
        return (Normalization if normalizes else type(layer)).from_config(layer.get_config())

    return keras.models.clone_model(encoder, clone_function=synchronize)


class ResNet50Autoencoder(keras.Model):
    """The first layers of keras.applications' ResNet50, or all of them, and the decoder.

    Args:
      until: name of the encoder's last layer.
      upsampling_filters: filters of each up-sampling block; one for each halving in the encoder.
      rgb: whether the network has three channels, which ImageNet weights need, or one.
      marks: whether a further channel has logits of damage.
    """

    def __init__(
        self, *, until: str, upsampling_filters: Sequence[int], rgb: bool, marks: bool = False
    ) -> None:
        super().__init__()
        self.channels = 3 if rgb else 1
        self.encoder = _resnet50(until, self.channels)
        self.decoder = blocks.Decoder(upsampling_filters, self.channels + marks)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Slices [B, H, W, 1] in [0, 1] to float32 [B, H, W, channels], not clipped."""
        values = self.encoder(repeat_grey(inputs, self.channels), training=training)
        return self.decoder(values, training=training)


def repeat_grey(slices: tf.Tensor, channels: int) -> tf.Tensor:
    """[B, H, W, 1] to [B, H, W, channels] with equal channels."""
    return slices if channels == 1 else tf.tile(slices, (1, 1, 1, channels))


def to_grey(reconstruction: tf.Tensor) -> tf.Tensor:
    """A network's result, float32 [B, H, W, C], as slices, float32 [B, H, W, 1].

    They are the mean of the channels, clipped to [0, 1].
    """
    if reconstruction.shape[-1] != 1:
        reconstruction = tf.reduce_mean(reconstruction, axis=-1, keepdims=True)
    return tf.clip_by_value(reconstruction, 0.0, 1.0)
