"""Finding a dataset that was made before, under the root that every command calls `--data_dir`."""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any

from ixi_tfds.configs import VERSION, SliceConfig
from ixi_tfds.errors import DatasetError, UserError

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(data_dir: str | pathlib.Path, dataset: str) -> pathlib.Path:
    """Folder of the highest version of a dataset.

    Args:
      data_dir: root of the datasets.
      dataset: name and config within it, such as `ixi_t1/thesis`.

    Raises:
      DatasetError: there is none; says which there are.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise DatasetError(f"--data_dir={data_dir}: no such folder")
    versions = [
        path.parent
        for path in (root / dataset).glob("*/dataset_info.json")
        if _VERSION.fullmatch(path.parent.name)
    ]
    if not versions:
        there = sorted({"/".join(p.parts[-4:-2]) for p in root.glob("*/*/*/dataset_info.json")})
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
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise DatasetError(
            f"{path}: is not the manifest of a dataset ({error}); move the folder away and make "
            "the dataset again"
        ) from error
    return manifest


def write_manifest(folder: pathlib.Path, config: SliceConfig) -> None:
    """Write the manifest of shards that TFDS's own writer made.

    That of a Beam job tells more: there the fingerprint is of inputs and settings, here it is of
    the shards.
    """
    shards = {}
    for path in sorted(folder.glob("*.tfrecord-*")):
        with path.open("rb") as file:
            shards[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {"version": VERSION, "config": dataclasses.asdict(config), "shards": shards}
    text = json.dumps(manifest, sort_keys=True)
    manifest["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
