"""The brains of a split of a dataset, put together again from their slices."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tqdm

from evaluator.brains import ensemble
from evaluator.models import Model, check_preprocessing
from evaluator.options import Dataset, ModelChecks
from evaluator.scoring import Split, open_split, read_batches
from ixi_tfds import datasets
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.images.brain import Brain, slice_axis
from ixi_tfds.images.resampling import Places
from ixi_tfds.images.scaling import to_unit
from ixi_tfds.images.tissue import HIGHEST
from ixi_tfds.system import storage
from ixi_tfds.system.errors import DatasetError


def open_splits(
    data: Dataset,
    checks: ModelChecks,
    models: Sequence[Model],
    wanted: SliceConfig,
    names: Sequence[str],
) -> tuple[Manifest, list[Split]]:
    """The manifest and splits of a dataset of brains that fits models; `wanted` are their slices.

    Raises:
      UserError: it does not exist, is damaged, or does not fit.
    """
    root = storage.at(data.data_dir)
    made = manifest.read(datasets.find_dataset(root, data.dataset))
    ensemble.check_fits(made.config, wanted, data.dataset)
    splits = [open_split(root, data.dataset, name, data.verify) for name in names]
    for model in models:
        allowed = checks.allow_other_preprocessing
        check_preprocessing(model, data.dataset, splits[0].version, allowed=allowed)
    return made, splits


def shown_brains(split: Split, title: str, *, config: SliceConfig) -> Iterable[tuple[str, Brain]]:
    """`brains_of` with a bar."""
    total = split.slices // config.slices_per_volume
    brains = brains_of(split, config)
    return tqdm.tqdm(brains, total=total, unit="brain", desc=title, disable=None)


def brains_of(split: Split, config: SliceConfig) -> Iterator[tuple[str, Brain]]:
    """Each person's brain in a split, and the person's name; moved copies are left out.

    Values have the 8 bits of the dataset; places count from the middle of the box.

    Raises:
      DatasetError: the split holds no brains, or a slice is missing.
    """
    if config.scaling != "tissue" or config.spacing is None:
        raise DatasetError(
            f"--dataset={split.dataset}: holds no brains; make one by beam_preprocess "
            "--config=brain_2mm_axial"
        )
    waiting: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for batch in read_batches(split, config.slices_per_volume):
        for place in range(len(batch["slice_index"])):
            if int(batch["copy"][place]):
                continue
            name = batch["subject"][place].numpy().decode()
            pair = batch["image"][place, ..., 0].numpy(), batch["mask"][place, ..., 0].numpy()
            mine = waiting.setdefault(name, {})
            mine[int(batch["slice_index"][place])] = pair
            if len(mine) == config.slices_per_volume:
                yield name, _whole(waiting.pop(name), config)
    if waiting:
        raise DatasetError(f"{split.dataset}: slices of {min(waiting)} are missing")


def _whole(slices: dict[int, tuple[np.ndarray, np.ndarray]], config: SliceConfig) -> Brain:
    axis = slice_axis(config.plane)
    images, masks = (
        np.moveaxis(np.stack([slices[index][part] for index in sorted(slices)]), 0, axis)
        for part in (0, 1)
    )
    p, s, r = (
        Places(n, side, -(n - 1) / 2 * side)
        for n, side in zip(config.box, config.spacing or (), strict=True)
    )
    return Brain(to_unit(images) * np.float32(HIGHEST), masks > 0, (p, s, r), 0.0)
