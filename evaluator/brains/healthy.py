"""The brains of a split of a dataset, put together again from their slices."""

from collections.abc import Iterator

import numpy as np

from evaluator.scoring import Split, read_batches
from ixi_tfds.config import SliceConfig
from ixi_tfds.images.brain import Brain, slice_axis
from ixi_tfds.images.resampling import Places
from ixi_tfds.images.scaling import to_unit
from ixi_tfds.images.tissue import HIGHEST
from ixi_tfds.system.errors import DatasetError


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
