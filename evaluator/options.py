"""Flags that several commands share, as parts of their configs."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ixi_tfds.cohorts import DEFAULT_DATASET
from ixi_tfds.integrity import CHECKS
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class ModelChecks:
    """Checks of a model that can be turned off."""

    allow_changed_model: bool = flag(
        "Use a model even if its graph or variables differ from those that its card names.", False
    )
    allow_other_preprocessing: bool = flag(
        "Use a model even if it was trained on slices of another preprocessing version.", False
    )


@dataclasses.dataclass(frozen=True)
class ScanChecks:
    """What to do with a scan that may not be what a model knows."""

    strict: bool = flag(
        "Refuse scans that look unlike the training data, instead of giving a warning.", False
    )
    allow_unknown_orientation: bool = flag(
        "Read scans that do not say how the head lies in them, by their format's convention.",
        False,
    )


LENIENT = ScanChecks()
"""Warn of scans that look unlike the training data."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The dataset to read, and how thoroughly to check it."""

    data_dir: str = flag("Root folder of the datasets.", path=True)
    dataset: str = flag("Dataset and config under --data_dir.", DEFAULT_DATASET)
    verify: str = flag(
        "How to check the dataset first: full (every byte) or quick (names and sizes).",
        "full",
        choices=CHECKS,
    )

    def __post_init__(self) -> None:
        check_folders("data_dir", [self.data_dir])


ONLY_WITH_ENSEMBLE = "goes with an ensemble only, the folder of an ensemble.json"


def names_ensemble(values: Mapping[str, Any]) -> str:
    """Why a flag cannot be given where `--saved_model` is an ensemble; "" where it is none."""
    from evaluator.brains.ensemble import is_ensemble

    named = values["saved_model"]
    folders = [named] if isinstance(named, str) else named
    if any(is_ensemble(storage.at(path)) for path in folders):
        return "does not go with an ensemble, which judges all brains as its ensemble.json says"
    return ""


def check_folders(flag: str, paths: Iterable[str]) -> None:
    """Raise `UserError` if a folder that a flag names does not exist."""
    for path in paths:
        if not storage.at(path).is_dir():
            raise UserError(f"--{flag}={path}: no such folder")
