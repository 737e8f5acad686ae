"""From shards to 8-bit batches: one function for training, one for evaluation.

Raw records are parsed a batch at a time, which is what keeps up with a GPU. uint8 leaves here;
the cast to [0, 1] happens on the device.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ixi_tfds import datasets, features, storage
from ixi_tfds.errors import DatasetError

_BLOCK = 2048
_MOST_EPOCHS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's shards.

    Attributes:
      paths: the TFRecord files.
      slices: how many slices they hold together.
      size: (height, width) of a slice.
    """

    paths: tuple[str, ...]
    slices: int
    size: tuple[int, int]


def find_split(folder: pathlib.Path, split: str) -> Split:
    """The shards of `split` in a dataset's folder.

    Raises:
      DatasetError: the dataset has no such split, a shard is missing, or these are no slices.
    """
    info = datasets.open_builder(folder).info
    if split not in info.splits:
        raise DatasetError(f"{folder}: the dataset has no {split} split")
    paths = tuple(str(path) for path in info.splits[split].filepaths)
    for path in paths:
        if not storage.at(path).is_file():
            raise DatasetError(f"{path}: this shard is missing; make the dataset again")
    shape = tuple(info.features["image"].shape) if "image" in info.features else ()
    if len(shape) != 3 or shape[2] != 1:
        raise DatasetError(f"{folder}: the dataset holds no grey slices [H, W, 1]")
    return Split(paths, info.splits[split].num_examples, (shape[0], shape[1]))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Number of full batches in an epoch."""
    return split.slices // batch_size


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    epochs: Sequence[int],
    cache: bool = False,
    field: str = "image",
) -> tf.data.Dataset:
    """Shuffled full batches of the given epochs, one after the other.

    The order is a function of seed and epoch, so a run resumed at an epoch sees what an
    undisturbed one would. In an epoch no slice comes twice; the rest that fills no batch is left
    out, another one each epoch.

    Args:
      split: what to read.
      batch_size: of the global batch.
      seed: of the order.
      epochs: numbers of the epochs from 0, consecutive.
      cache: hold all slices in memory and permute all of them, rather than read the files in an
        order of their own each epoch and permute blocks of 2,048 slices.
      field: which field of the slices to give, as `features.decode_slices` names them.

    Returns:
      Batches of `image` uint8 [batch_size, H, W, 1], or another field, and `index` int64
      [batch_size], the row's number in the order of all epochs.
    """
    steps = steps_per_epoch(split, batch_size)

    # Not tf.data's shuffle: under a global seed of 0 its seed cannot be a tensor.
    def shuffled(values: tf.Tensor, epoch: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
        key = tf.stack([tf.cast(seed, tf.int64) * _MOST_EPOCHS + epoch, tf.cast(block, tf.int64)])
        return tf.random.experimental.stateless_shuffle(values, key)

    def places(epoch: tf.Tensor) -> tf.data.Dataset:
        order = shuffled(tf.range(split.slices), epoch, 0)
        return tf.data.Dataset.from_tensor_slices(order).take(steps * batch_size)

    def blocks(epoch: tf.Tensor) -> tf.data.Dataset:
        paths = shuffled(tf.constant(split.paths), epoch, 0)
        numbered = tf.data.TFRecordDataset(paths).batch(_BLOCK).enumerate(start=1)
        return numbered.map(lambda block, values: (epoch, block, values))

    def mixed(epoch: tf.Tensor, block: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        order = shuffled(tf.range(tf.size(values, out_type=tf.int64)), epoch, block)
        return tf.gather(values, order[: steps * batch_size - (block - 1) * _BLOCK])

    numbers = tf.data.Dataset.range(epochs[0], epochs[-1] + 1)
    first = epochs[0] * steps
    if not cache:
        decode = _decoder(split, field)
        # While one block is used up, the next is made ready, be it of the next epoch.
        records = numbers.flat_map(blocks).map(mixed).prefetch(1).unbatch()
        return _batches(records, decode, field, batch_size, first)
    whole = evaluation_batches(split, batch_size=batch_size, field=field).as_numpy_iterator()
    values = tf.constant(np.concatenate([batch[field] for batch in whole]))
    gather = functools.partial(tf.gather, values)
    return _batches(numbers.flat_map(places), gather, field, batch_size, first)


def evaluation_batches(split: Split, *, batch_size: int, field: str = "image") -> tf.data.Dataset:
    """All slices in the order of the shards; the last batch may be smaller.

    Returns:
      Batches of `image` uint8 [B, H, W, 1], or another field, and `index` int64 [B], the slice's
      number in the split.
    """
    records = tf.data.TFRecordDataset(list(split.paths))
    return _batches(records, _decoder(split, field), field, batch_size)


def share(
    batches: tf.data.Dataset, *, batch_size: int, pieces: int, mine: range
) -> tf.data.Dataset:
    """Cut global batches into equal pieces, one a replica, and take some of them.

    Args:
      batches: as the functions above give them.
      batch_size: of the global batch.
      pieces: number of all replicas; divides `batch_size`.
      mine: numbers of the pieces to take.

    Returns:
      Batches of `image` uint8 [batch_size / pieces, H, W, 1] and `index` int64 [batch_size /
      pieces], all of this shape: piece `mine[0]` of the first batch, and so on. Where a batch was
      smaller, it is filled up with black images of index -1, so that every replica has as many
      steps and rows as every other.
    """
    rows = batch_size // pieces

    def cut(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        lacking = batch_size - tf.size(batch["index"])
        image = tf.pad(batch["image"], [[0, lacking], [0, 0], [0, 0], [0, 0]])
        index = tf.pad(batch["index"], [[0, lacking]], constant_values=-1)
        image = tf.reshape(image, (pieces, rows, *image.shape[1:]))
        index = tf.reshape(index, (pieces, rows))
        return {"image": image[mine.start : mine.stop], "index": index[mine.start : mine.stop]}

    cuts = batches.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    return cuts.unbatch().prefetch(2 * len(mine))


def _decoder(split: Split, field: str) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda serialized: features.decode_slices(serialized, split.size, (field,))[field]


def _batches(
    items: tf.data.Dataset,
    values_of: Callable[[tf.Tensor], tf.Tensor],
    field: str,
    batch_size: int,
    first_batch: int = 0,
) -> tf.data.Dataset:
    def batch_of(number: tf.Tensor, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.range(tf.size(batch, out_type=tf.int64), dtype=tf.int64)
        return {field: values_of(batch), "index": number * batch_size + rows}

    batches = items.batch(batch_size).enumerate(start=first_batch)
    return batches.map(batch_of, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
