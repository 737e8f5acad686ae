"""The card of an exported model, which the trainer writes and the evaluator reads."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents.manifest import Counts, Geometry
from ixi_tfds.system.errors import UserError

CARD = "assets.extra/model_card.json"
"""Where the card is in the model's folder."""


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """What a card tells of a dataset; cards of earlier versions lack some of it.

    Attributes:
      fingerprint: of its contents.
      version: of its preprocessing, as `configs.VERSION` counts.
      slices: what its slices look like.
      geometry: of its volumes; None where the dataset does not record it.
      description: the slices in a sentence.
      splits: how much is in each.
    """

    fingerprint: str | None = None
    version: str | None = None
    slices: SliceConfig | None = None
    geometry: Geometry | None = None
    description: str | None = None
    splits: dict[str, Counts] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What to know about a model; cards of earlier versions lack some of it.

    Attributes:
      name: of the network.
      intended_use: in a sentence.
      not_for: likewise.
      data_licence: of what it has learned from.
      size: (height, width) of the slices that it takes.
      signatures: what each of them takes and gives: "takes" and "gives", then a sentence a value.
      preprocessing_version: of the slices that it has learned from, as `configs.VERSION` counts.
      data_fingerprint: of the datasets together.
      datasets: that it has learned from, by name.
      parameters: number of them.
      flags: of the run, by name, without its folders.
      augmentation: its settings; None for none, empty where the card does not tell.
      best: the history's row of the epoch whose weights these are.
      epochs_trained: epochs done in all.
      versions: of the packages that it was made with.
      digest: what `digest` gives.
    """

    name: str | None = None
    intended_use: str | None = None
    not_for: str | None = None
    data_licence: str | None = None
    size: tuple[int, int] | None = None
    signatures: dict[str, dict[str, dict[str, str]]] = dataclasses.field(default_factory=dict)
    preprocessing_version: str | None = None
    data_fingerprint: str | None = None
    datasets: dict[str, DatasetFacts] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    flags: dict[str, Any] = dataclasses.field(default_factory=dict)
    augmentation: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    best: dict[str, int | float] = dataclasses.field(default_factory=dict)
    epochs_trained: int | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    digest: str | None = None


def read(folder: pathlib.Path) -> ModelCard | None:
    """The card of the model in a folder; None where it has none, as models of others.

    Raises:
      UserError: it cannot be read, or is no card.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        values = codec.from_json(dict[str, Any], path.read_bytes())
        # What no file can hold cannot be shown either, such as half of a surrogate pair.
        json.dumps(values, ensure_ascii=False).encode()
        if "dataset" in values:  # the first cards had one, without its name
            values["datasets"] = {"dataset": values.pop("dataset")}
        return codec.from_plain(ModelCard, values)
    except (OSError, UnicodeError, UserError) as error:
        raise UserError(
            f"{path}: is not the card of a model that python -m trainer exported: {error}"
        ) from error


def write(folder: pathlib.Path, card: ModelCard) -> pathlib.Path:
    """Write the card of the model in a folder, and give its path."""
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(codec.to_plain(card), indent=2) + "\n")
    return path


def digest(folder: pathlib.Path) -> str:
    """SHA-256, in hex, of the model's graph and variables.

    It is what `sha256sum saved_model.pb variables/* | sha256sum` prints in that folder.

    Raises:
      OSError: a file cannot be read.
    """
    lines = ""
    for path in [folder / "saved_model.pb", *sorted(folder.glob("variables/*"))]:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        lines += f"{found}  {path.relative_to(folder).as_posix()}\n"
    return hashlib.sha256(lines.encode()).hexdigest()
