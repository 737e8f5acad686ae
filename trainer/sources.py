"""The datasets that a run learns from, taken together."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

from ixi_tfds import datasets, integrity
from ixi_tfds.configs import SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.errors import UserError
from ixi_tfds.splits import SPLITS
from trainer import input_pipeline


@dataclasses.dataclass(frozen=True)
class Sources:
    """One dataset or several of the same kind.

    Attributes:
      train: shards of all train splits.
      validation: shards of all validation splits.
      scaling: how their slices were scaled, as `SliceConfig` has it.
      version: of their preprocessing, as `configs.VERSION` counts.
      fingerprint: of the contents.
      facts: what to remember of each dataset in the model's card, by its name.
    """

    train: input_pipeline.Split
    validation: input_pipeline.Split
    scaling: str
    version: str
    fingerprint: str
    facts: dict[str, dict[str, Any]]


def open_sources(data_dir: str, names: Sequence[str], verify: str = "full") -> Sources:
    """Find datasets and put them together.

    Args:
      data_dir: root folder of the datasets.
      names: of the datasets, such as `ixi_t1/thesis`.
      verify: how much to check of what will be read, one of `integrity.CHECKS`.

    Raises:
      UserError: one is missing, unfinished or damaged, is named twice, or differs from the first in
        the size, scaling or preprocessing of its slices.
    """
    folders = [datasets.find_dataset(data_dir, name) for name in names]
    opened = [manifests.read(folder) for folder in folders]
    for folder, manifest in zip(folders, opened, strict=True):
        integrity.check_dataset(folder, manifest, ("train", "validation"), verify)
    train, validation = (
        [input_pipeline.find_split(folder, split) for folder in folders]
        for split in ("train", "validation")
    )
    kinds = [
        f"{split.size[0]}x{split.size[1]}, scaled by {manifest.config.scaling}, of "
        f"preprocessing {manifest.version}"
        for split, manifest in zip(train, opened, strict=True)
    ]
    for number, name in enumerate(names):
        if kinds[number] != kinds[0]:
            raise UserError(
                f"--dataset={','.join(names)}: slices of {names[0]} are {kinds[0]}, those of "
                f"{name} are {kinds[number]}; they must be alike"
            )
        if name in names[:number]:
            raise UserError(f"--dataset={','.join(names)}: {name} is named twice")
    prints = [manifest.fingerprint for manifest in opened]
    together = hashlib.sha256("\n".join(prints).encode()).hexdigest()
    facts = {
        name: {
            "fingerprint": manifest.fingerprint,
            "version": manifest.version,
            # In the order in which the manifest has them.
            "slices": dict(sorted(codec.to_plain(manifest.config).items())),
            # Datasets made before this was recorded lack it.
            "geometry": manifest.geometry and codec.to_plain(manifest.geometry),
            "description": manifest.config.description,
            "splits": _split_counts(folder, manifest.config),
        }
        for name, folder, manifest in zip(names, folders, opened, strict=True)
    }
    return Sources(
        train=_join(train),
        validation=_join(validation),
        scaling=opened[0].config.scaling,
        version=opened[0].version,
        fingerprint=prints[0] if len(prints) == 1 else together,
        facts=facts,
    )


def _split_counts(folder: pathlib.Path, config: SliceConfig) -> dict[str, dict[str, int]]:
    splits = datasets.open_builder(folder).info.splits
    return {
        name: {
            "volumes": splits[name].num_examples // config.slices_per_volume,
            "slices": splits[name].num_examples,
        }
        for name in SPLITS
        if name in splits
    }


def _join(splits: Sequence[input_pipeline.Split]) -> input_pipeline.Split:
    return input_pipeline.Split(
        paths=tuple(path for split in splits for path in split.paths),
        slices=sum(split.slices for split in splits),
        size=splits[0].size,
    )
