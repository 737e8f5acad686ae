"""Scores of a SavedModel on a split: one row for each slice; images are not kept in memory."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tqdm

from evaluator.models import Model, check_preprocessing, load_models
from evaluator.options import ModelChecks
from ixi_tfds import datasets, integrity
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.features import slice_key
from ixi_tfds.images.metrics import METRICS
from ixi_tfds.images.scaling import to_unit
from ixi_tfds.splits import SPLIT_HINT, SPLITS
from ixi_tfds.system import storage
from ixi_tfds.system.errors import DatasetError, UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a dataset on disk.

    Attributes:
      dataset: name under the data folder, such as `ixi_t1/thesis`.
      version: version of the dataset.
      name: name of the split.
      fingerprint: fingerprint of the whole dataset, from `manifest.json`.
      size: (height, width) of the slices.
      slices: number of slices.
      builder: the TFDS builder that reads the split.
    """

    dataset: str
    version: str
    name: str
    fingerprint: str
    size: tuple[int, int]
    slices: int
    builder: tfds.core.DatasetBuilder


def open_split(data_dir: pathlib.Path, dataset: str, name: str, verify: str = "full") -> Split:
    """Open a split of the highest version in `data_dir/dataset`.

    `verify` is one of `integrity.CHECKS`.

    Raises:
      DatasetError: the dataset or its split does not exist or is damaged.
    """
    folder = datasets.find_dataset(data_dir, dataset)
    manifest = manifests.read(folder)
    integrity.check_dataset(folder, manifest, (name,), verify)
    builder = datasets.open_builder(folder)
    splits = builder.info.splits
    if name not in splits:
        hint = f"; {SPLIT_HINT}" if name in SPLITS else ""
        raise DatasetError(f"--split={name}: {folder} has {', '.join(sorted(splits))}{hint}")
    height, width, _ = builder.info.features["image"].shape
    slices = splits[name].num_examples
    return Split(dataset, folder.name, name, manifest.fingerprint, (height, width), slices, builder)


def load_fitting(paths: Sequence[str], split: Split, checks: ModelChecks) -> list[Model]:
    """Load models that fit the slices of a split.

    Raises:
      UserError: as `load_models`; or a model takes slices of another size or was trained on slices
        of another preprocessing version.
    """
    folders = [storage.at(path) for path in paths]
    models = load_models(folders, allow_changed_model=checks.allow_changed_model)
    for model in models:
        check_preprocessing(
            model, split.dataset, split.version, allowed=checks.allow_other_preprocessing
        )
        for takes, has in zip(model.size, split.size, strict=True):
            if takes not in (None, has):
                raise UserError(
                    f"the model {model.name} takes slices of {model.size[0]}x{model.size[1]}, and "
                    f"those of {split.dataset} are {split.size[0]}x{split.size[1]}; choose the "
                    "dataset that it was trained on by --dataset"
                )
    return models


def score_split(model: Model, split: Split, *, batch_size: int) -> pd.DataFrame:
    """Score every slice of a split. Reconstructions are not clipped.

    Returns:
      One row for each slice, sorted by `key`, the name of the slice, such as `IXI002/052`. Other
      columns: `model`; `subject`; `site`, the hospital ("" if unknown); `sex` ("female", "male" or
      "unknown"); `age` in years (NaN if unknown); `slice_index` along the volume's right axis, from
      0; and one column for each of `METRICS`.

    Raises:
      UserError: the model gives values that are not finite, or slices of another size.
    """
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, *split.size, 1), tf.uint8)])
    def judge(images: tf.Tensor) -> tf.Tensor:
        slices = to_unit(images)
        reconstruction = tf.ensure_shape(model.reconstruct(slices), slices.shape)
        judged = [metric.function(slices, reconstruction) for metric in METRICS.values()]
        return tf.stack(judged)

    tables = []
    with tqdm.tqdm(
        total=split.slices, unit="slice", desc=f"scoring {model.name}", disable=None
    ) as progress:
        for batch in read_batches(split, batch_size):
            values = judge(batch["image"]).numpy()
            tables.append(_table(model, split, batch, values))
            progress.update(values.shape[1])
    return pd.concat(tables).sort_values("key", kind="stable", ignore_index=True)


def read_batches(split: Split, batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield the batches of a split as TFDS decodes them, always in the same order.

    Raises:
      DatasetError: a record is damaged.
    """
    import tensorflow_datasets as tfds

    dataset = split.builder.as_dataset(
        split=split.name,
        batch_size=batch_size,
        shuffle_files=False,
        # Without this, TFDS keeps a small split in memory.
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    with integrity.user_error_if_damaged(split.dataset):
        yield from dataset.prefetch(2)


def _table(model: Model, split: Split, batch: dict[str, Any], values: np.ndarray) -> pd.DataFrame:
    """The rows of a batch; `values` are its scores, float32 [metrics, slices]."""
    keys = batch_keys(batch)
    finite = np.isfinite(values).all(axis=0)
    if not finite.all():
        key = keys[int(np.argmin(finite))]
        raise UserError(f"{model.name} gives values that are not finite for slice {key}")
    sex_name = split.builder.info.features["sex"].int2str
    facts = {
        "model": model.name,
        "key": keys,
        "subject": _texts(batch["subject"]),
        "site": _texts(batch["site"]),
        "sex": [sex_name(int(code)) for code in batch["sex"].numpy()],
        "age": batch["age"].numpy().astype(float),
        "slice_index": batch["slice_index"].numpy().astype(int),
    }
    return pd.DataFrame(facts | dict(zip(METRICS, values.astype(float), strict=True)))


def _texts(strings: Any) -> list[str]:
    return [text.decode() for text in strings.numpy()]


def batch_keys(batch: dict[str, Any]) -> list[str]:
    """The names of a batch's slices."""
    names = zip(_texts(batch["subject"]), batch["slice_index"].numpy(), strict=True)
    return [slice_key(subject, int(index)) for subject, index in names]


def read_slices(split: Split, keys: Collection[str], *, batch_size: int) -> dict[str, np.ndarray]:
    """Read the slices with these keys: float32 [H, W] in [0, 1] by key, in the order of `keys`."""
    found: dict[str, np.ndarray] = {}
    for batch in read_batches(split, batch_size):
        for place, key in enumerate(batch_keys(batch)):
            if key in keys:
                found[key] = to_unit(batch["image"][place, ..., 0].numpy())
        if len(found) == len(keys):
            break
    return {key: found[key] for key in keys}
