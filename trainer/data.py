"""The training data of a run: one or several datasets, read as 8-bit batches.

Records are decoded a whole batch at a time, because single records are too slow for a GPU. Batches
are uint8; the cast to [0, 1] happens on the device.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ixi_tfds import datasets, features, integrity
from ixi_tfds.config import PLANES, SliceConfig, in_words
from ixi_tfds.documents import manifest
from ixi_tfds.documents.manifest import Counts, Manifest
from ixi_tfds.documents.model_card import DatasetFacts
from ixi_tfds.splits import SPLIT_HINT, SPLITS
from ixi_tfds.system import storage
from ixi_tfds.system.errors import DatasetError, UserError
from trainer.tasks import Place

_BLOCK = 2048
_MOST_PASSES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of a split.

    Attributes:
      paths: the TFRecord files.
      slices: number of slices in all of them.
      size: (height, width) of a slice.
    """

    paths: tuple[str, ...]
    slices: int
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """One dataset, or several whose slices have the same size and preprocessing.

    Attributes:
      train: shards of all train splits.
      validation: shards of all validation splits.
      scaling: `scaling` of their `SliceConfig`.
      version: version of their preprocessing, `configs.VERSION` when they were made.
      fingerprint: digest of their contents.
      facts: entry of each dataset in the model card, by the dataset's name.
      place: side of the pixels and plane of slices of brains; None for others.
    """

    train: Shards
    validation: Shards
    scaling: str
    version: str
    fingerprint: str
    facts: dict[str, DatasetFacts]
    place: Place | None = None


def open_data(data_dir: str, names: Sequence[str], verify: str = "full") -> TrainingData:
    """Open the named datasets, such as `ixi_t1/thesis`, for training on all of them.

    `verify`, one of `integrity.CHECKS`, applies to the train and validation splits.

    Raises:
      UserError: a dataset is missing, unfinished or damaged, is named twice, or differs from the
        first in the size, scaling or preprocessing of its slices.
    """
    folders = [datasets.find_dataset(data_dir, name) for name in names]
    manifests = [manifest.read(folder) for folder in folders]
    for folder, made in zip(folders, manifests, strict=True):
        integrity.check_dataset(folder, made, ("train", "validation"), verify)
    train, validation = (
        [find_shards(folder, split) for folder in folders] for split in ("train", "validation")
    )
    _check_alike(names, train, manifests)
    prints = [made.fingerprint for made in manifests]
    together = hashlib.sha256("\n".join(prints).encode()).hexdigest()
    pairs = zip(folders, manifests, strict=True)
    return TrainingData(
        train=_join(train),
        validation=_join(validation),
        scaling=manifests[0].config.scaling,
        version=manifests[0].version,
        fingerprint=prints[0] if len(prints) == 1 else together,
        facts={name: _facts(*pair) for name, pair in zip(names, pairs, strict=True)},
        place=_place(manifests[0].config),
    )


def _place(config: SliceConfig) -> Place | None:
    if config.scaling != "tissue" or config.spacing is None:
        return None
    return Place(max(config.spacing), config.plane or PLANES[0])


def _check_alike(names: Sequence[str], train: list[Shards], manifests: list[Manifest]) -> None:
    kinds = [
        f"{shards.size[0]}x{shards.size[1]}, scaled by {made.config.scaling}{_cut(made.config)}, "
        f"of preprocessing {made.version}"
        for shards, made in zip(train, manifests, strict=True)
    ]
    for number, name in enumerate(names):
        if kinds[number] != kinds[0]:
            raise UserError(
                f"--dataset={','.join(names)}: slices of {names[0]} are {kinds[0]}, those of "
                f"{name} are {kinds[number]}; they must be the same"
            )
        if name in names[:number]:
            raise UserError(f"--dataset={','.join(names)}: {name} is named twice")


def _cut(config: SliceConfig) -> str:
    """How slices of brains are cut, for a model of brains knows one plane and voxel size."""
    if config.scaling != "tissue":
        return ""
    return f" and {config.plane or PLANES[0]} of {in_words(config.spacing or ())} mm"


def _facts(folder: pathlib.Path, made: Manifest) -> DatasetFacts:
    splits = datasets.open_builder(folder).info.splits
    counts = {name: splits[name].num_examples for name in SPLITS if name in splits}
    return DatasetFacts(
        fingerprint=made.fingerprint,
        version=made.version,
        slices=made.config,
        geometry=made.geometry,
        look=made.look,
        description=made.config.description,
        splits={
            name: Counts(slices // made.config.slices_of_a_volume(name), slices)
            for name, slices in counts.items()
        },
    )


def _join(splits: Sequence[Shards]) -> Shards:
    return Shards(
        paths=tuple(path for split in splits for path in split.paths),
        slices=sum(split.slices for split in splits),
        size=splits[0].size,
    )


def find_shards(folder: pathlib.Path, split: str) -> Shards:
    """The shards of `split` in a dataset's folder.

    Raises:
      DatasetError: the split or a shard is missing, or the dataset does not hold grey slices.
    """
    info = datasets.open_builder(folder).info
    if split not in info.splits:
        raise DatasetError(f"{folder}: the dataset has no {split} split; {SPLIT_HINT}")
    paths = tuple(str(path) for path in info.splits[split].filepaths)
    for path in paths:
        if not storage.at(path).is_file():
            raise DatasetError(f"{path}: this shard is missing; make the dataset again")
    shape = tuple(info.features["image"].shape) if "image" in info.features else ()
    if len(shape) != 3 or shape[2] != 1:
        raise DatasetError(f"{folder}: the dataset holds no grey slices [H, W, 1]")
    return Shards(paths, info.splits[split].num_examples, (shape[0], shape[1]))


def train_batches(
    shards: Shards,
    *,
    batch_size: int,
    seed: int,
    epochs: Sequence[int],
    steps: int = 0,
    cache: bool = False,
    fields: Sequence[str] = ("image",),
) -> tf.data.Dataset:
    """Shuffled full batches of consecutive epochs.

    The order depends on seed and number of the pass through the data only, so a resumed run sees
    the same batches as one that was never stopped. With `steps` of 0 an epoch is a pass; the slices
    that do not fill a last batch are left out, and are others in each epoch. With a number of
    `steps` passes follow each other without a gap, whatever the epoch, and nothing is left out:
    each pass has every slice once, and a batch may hold the end of one and the beginning of the
    next.

    Args:
      shards: shards to read.
      batch_size: size of the global batch.
      seed: seed of the order.
      epochs: consecutive numbers of the epochs, from 0.
      steps: batches of an epoch; 0 for as many full ones as the slices make.
      cache: keep all slices in memory and permute all of them. Otherwise each pass reads the
        files in another order and permutes blocks of 2,048 slices.
      fields: fields of the slices to read, those of `features.decode_slices`.

    Returns:
      Batches of `fields`, such as `image` uint8 [batch_size, H, W, 1], and `index` int64
      [batch_size], the row's number in the order of all epochs.
    """
    rows = (steps or shards.slices // batch_size) * batch_size
    per_pass = shards.slices if steps else rows
    first, count = epochs[0] * rows, len(epochs) * rows
    passes = tf.data.Dataset.range(first // per_pass, -(-(first + count) // per_pass))
    shuffled = _shuffled_places if cache else _shuffled_records
    values_of = _kept(shards, fields, batch_size) if cache else _decoder(shards, fields)
    items = shuffled(shards, passes, seed, per_pass).skip(first % per_pass).take(count)
    return _batches(items, values_of, batch_size, first // batch_size)


def _shuffled_places(
    shards: Shards, passes: tf.data.Dataset, seed: int, per_pass: int
) -> tf.data.Dataset:
    """The first `per_pass` of the permuted numbers of all slices, for each pass."""

    def places(number: tf.Tensor) -> tf.data.Dataset:
        order = _shuffled(tf.range(shards.slices), seed, number, 0)
        return tf.data.Dataset.from_tensor_slices(order).take(per_pass)

    return passes.flat_map(places)


def _kept(
    shards: Shards, fields: Sequence[str], batch_size: int
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Gives fields of slices by their numbers, from memory."""
    whole = [*evaluation_batches(shards, batch_size=batch_size, fields=fields).as_numpy_iterator()]
    values = {n: tf.constant(np.concatenate([batch[n] for batch in whole])) for n in fields}
    return lambda places: {name: tf.gather(value, places) for name, value in values.items()}


def _shuffled_records(
    shards: Shards, passes: tf.data.Dataset, seed: int, per_pass: int
) -> tf.data.Dataset:
    """The first `per_pass` records of each pass; files and records in blocks are permuted."""

    def blocks(number: tf.Tensor) -> tf.data.Dataset:
        paths = _shuffled(tf.constant(shards.paths), seed, number, 0)
        numbered = tf.data.TFRecordDataset(paths).batch(_BLOCK).enumerate(start=1)
        return numbered.map(lambda block, values: (number, block, values))

    def mixed(number: tf.Tensor, block: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        order = _shuffled(tf.range(tf.size(values, out_type=tf.int64)), seed, number, block)
        return tf.gather(values, order[: per_pass - (block - 1) * _BLOCK])

    # The next block, perhaps of the next pass, is prepared while one is used.
    return passes.flat_map(blocks).map(mixed).prefetch(1).unbatch()


def _shuffled(values: tf.Tensor, seed: int, number: tf.Tensor, block: tf.Tensor | int) -> tf.Tensor:
    # tf.data's shuffle is not used: with a global seed of 0 its seed cannot be a tensor.
    key = tf.stack([tf.cast(seed, tf.int64) * _MOST_PASSES + number, tf.cast(block, tf.int64)])
    return tf.random.experimental.stateless_shuffle(values, key)


def evaluation_batches(
    shards: Shards, *, batch_size: int, fields: Sequence[str] = ("image",)
) -> tf.data.Dataset:
    """All slices in the order of the shards; the last batch may be smaller.

    Returns:
      Batches of `fields`, such as `image` uint8 [B, H, W, 1], and `index` int64 [B], the slice's
      number in the split.
    """
    records = tf.data.TFRecordDataset(list(shards.paths))
    return _batches(records, _decoder(shards, fields), batch_size)


def share(
    batches: tf.data.Dataset, *, batch_size: int, pieces: int, mine: range
) -> tf.data.Dataset:
    """Cut global batches into equal pieces, one for each replica, and take some of them.

    Args:
      batches: result of `train_batches` or `evaluation_batches`.
      batch_size: size of the global batch.
      pieces: number of all replicas; divides `batch_size`.
      mine: numbers of the pieces to take.

    Returns:
      Batches of the same fields, such as `image` uint8 [batch_size / pieces, H, W, 1], and `index`
      int64 [batch_size / pieces]: the pieces `mine` of the first batch, then of the second, and so
      on. A smaller batch is completed with black images of index -1, so that all replicas have
      equally many rows.
    """
    rows = batch_size // pieces

    def cut(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        lacking = batch_size - tf.size(batch["index"])

        def dealt(name: str, values: tf.Tensor) -> tf.Tensor:
            paddings = [[0, lacking]] + [[0, 0]] * (values.shape.rank - 1)
            whole = tf.pad(values, paddings, constant_values=-1 if name == "index" else 0)
            return tf.reshape(whole, (pieces, rows, *values.shape[1:]))[mine.start : mine.stop]

        return {name: dealt(name, values) for name, values in batch.items()}

    cuts = batches.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    return cuts.unbatch().prefetch(2 * len(mine))


def _decoder(shards: Shards, fields: Sequence[str]) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    return lambda serialized: features.decode_slices(serialized, shards.size, fields)


def _batches(
    items: tf.data.Dataset,
    values_of: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    batch_size: int,
    first_batch: int = 0,
) -> tf.data.Dataset:
    def batch_of(number: tf.Tensor, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.range(tf.size(batch, out_type=tf.int64), dtype=tf.int64)
        return values_of(batch) | {"index": number * batch_size + rows}

    batches = items.batch(batch_size).enumerate(start=first_batch)
    return batches.map(batch_of, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
