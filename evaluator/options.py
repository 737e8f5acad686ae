"""Flags that several commands have, each a part of their configs."""

import dataclasses
from collections.abc import Iterable

from ixi_tfds import storage
from ixi_tfds.cohorts import DEFAULT_DATASET
from ixi_tfds.errors import UserError
from ixi_tfds.integrity import CHECKS
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class ModelChecks:
    """Checks of a model that can be turned off."""

    allow_changed_model: bool = flag(
        "Use a model whose graph or variables are not those that its card names.", False
    )
    allow_other_preprocessing: bool = flag(
        "Use a model that has learned from slices of another preprocessing version.", False
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which dataset to read, and what of it to check."""

    data_dir: str = flag("Root folder of the datasets.")
    dataset: str = flag("Dataset and config under --data_dir.", DEFAULT_DATASET)
    verify: str = flag(
        "What to check of the dataset first: every byte, or names and sizes.",
        "full",
        choices=CHECKS,
    )

    def __post_init__(self) -> None:
        check_folders("data_dir", [self.data_dir])


def check_folders(flag: str, paths: Iterable[str]) -> None:
    """See that the folders that a flag names exist.

    Raises:
      UserError: one does not.
    """
    for path in paths:
        if not storage.at(path).is_dir():
            raise UserError(f"--{flag}={path}: no such folder")
