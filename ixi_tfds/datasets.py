"""Finding and opening datasets under the root `--data_dir`."""

import pathlib
import re
from typing import TYPE_CHECKING

from ixi_tfds.system import storage
from ixi_tfds.system.errors import DatasetError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

MARKER = "dataset_info.json"
"""A folder with this file is a dataset, for TFDS and for all commands here."""

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(data_dir: str | pathlib.Path, dataset: str) -> pathlib.Path:
    """Folder of the highest version of a dataset.

    Args:
      data_dir: root of the datasets.
      dataset: name and config within it, such as `ixi_t1/thesis`.

    Raises:
      DatasetError: there is none; the message lists the datasets that exist.
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


def open_builder(folder: pathlib.Path) -> "tfds.core.DatasetBuilder":
    """The TFDS builder that reads a dataset.

    Raises:
      DatasetError: TFDS cannot read its metadata.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # TFDS raises errors of any kind for damaged files
        raise DatasetError(
            f"{folder}: dataset_info.json or features.json is missing or damaged "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); make the "
            "dataset again"
        ) from error
