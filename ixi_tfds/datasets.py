"""Finding a dataset that was made before, under the root that every command calls `--data_dir`."""

import dataclasses
import hashlib
import json
import pathlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ixi_tfds import storage
from ixi_tfds.configs import VERSION, SliceConfig
from ixi_tfds.errors import DatasetError, UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

MARKER = "dataset_info.json"
"""The file that neither TFDS nor our own commands take a folder for a dataset without."""

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(data_dir: str | pathlib.Path, dataset: str) -> pathlib.Path:
    """Folder of the highest version of a dataset.

    Args:
      data_dir: root of the datasets.
      dataset: name and config within it, such as `ixi_t1/thesis`.

    Raises:
      DatasetError: there is none; says which there are.
    """
    root = storage.at(data_dir)
    if not root.is_dir():
        raise DatasetError(f"--data_dir={data_dir}: no such folder")
    versions = [
        path.parent
        for path in (root / dataset).glob(f"*/{MARKER}")
        if _VERSION.fullmatch(path.parent.name)
    ]
    if not versions:
        there = sorted({"/".join(p.parts[-4:-2]) for p in root.glob(f"*/*/*/{MARKER}")})
        raise DatasetError(
            f"--dataset={dataset}: no such dataset in --data_dir={data_dir}, which has "
            f"{', '.join(there) or 'none; make one with python -m beam_preprocess'}"
        )
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a dataset.

    Raises:
      DatasetError: it is missing or unreadable.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        SliceConfig(**manifest["config"])
        if not {"fingerprint", "version", "shards"} <= manifest.keys():
            raise ValueError("it lacks fields")
        # Those of earlier versions have no digest.
        if manifest.get("digest", digest := _digest(manifest)) != digest:
            raise ValueError("it was edited after it was written: its digest does not fit")
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise DatasetError(
            f"{path}: is not the manifest of a dataset ({error}); move the folder away and make "
            "the dataset again"
        ) from error
    return manifest


def open_builder(folder: pathlib.Path) -> "tfds.core.DatasetBuilder":
    """The TFDS builder that reads a dataset.

    Raises:
      DatasetError: TFDS cannot make out its metadata.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # garbage makes it raise errors of any kind
        raise DatasetError(
            f"{folder}: dataset_info.json or features.json is missing or damaged "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); make the "
            "dataset again"
        ) from error


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with all by which its dataset can be checked, itself included.

    Adds `shard_bytes`, the size of each shard; `metadata`, the SHA-256 of each file that TFDS reads
    beside them; `digest`, the SHA-256 of all other fields, keys sorted.

    Args:
      folder: of the dataset, with all shards; TFDS's own writer leaves the other files later, and
        these are not checked then.
      manifest: with `shards`.
    """
    beside = [*folder.glob("dataset_info.json"), *folder.glob("features.json")]
    beside += sorted(folder.glob("*.labels.txt"))
    whole = {
        **manifest,
        "shard_bytes": {name: (folder / name).stat().st_size for name in manifest["shards"]},
        "metadata": {path.name: file_sha256(path) for path in beside},
    }
    whole["digest"] = _digest(whole)
    (folder / "manifest.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def median_geometry(
    geometries: Iterable[tuple[Sequence[int], Sequence[float]]],
) -> dict[str, list[float]] | None:
    """What voxels and volumes of a dataset are like, for whoever brings other scans to its models.

    Args:
      geometries: shape and voxel sides (mm) of each volume, along posterior, superior and right.

    Returns:
      `shape` and `zooms`, the (lower) medians of each axis; None where there is no volume.
    """
    volumes = list(geometries)
    if not volumes:
        return None
    return {
        name: [round(statistics.median_low(axis), 6) for axis in zip(*sides, strict=True)]
        for name, sides in zip(("shape", "zooms"), zip(*volumes, strict=True), strict=True)
    }


def write_manifest(
    folder: pathlib.Path, config: SliceConfig, geometry: dict[str, list[float]] | None
) -> None:
    """Write the manifest of shards that TFDS's own writer made.

    That of a Beam job tells more: there the fingerprint is of inputs and settings, here it is of
    the shards.

    Args:
      folder: of the dataset.
      config: of its slices.
      geometry: of its volumes, as `median_geometry` gives it.
    """
    shards = {path.name: file_sha256(path) for path in sorted(folder.glob("*.tfrecord-*"))}
    manifest: dict[str, Any] = {
        "version": VERSION,
        "config": dataclasses.asdict(config),
        "shards": shards,
    }
    text = json.dumps(manifest, sort_keys=True)
    manifest["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    manifest["geometry"] = geometry
    save_manifest(folder, manifest)
