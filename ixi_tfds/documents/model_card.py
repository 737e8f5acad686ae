"""The card of an exported model, which the trainer writes and the evaluator reads."""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any

from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents.manifest import Counts, Geometry
from ixi_tfds.images.look import TypicalLook
from ixi_tfds.system.errors import UserError

CARD = "assets.extra/model_card.json"
"""Path of the card in the model's folder."""

_VARIABLES = re.compile(r"variables\.(index|data-\d+-of-\d+)")
"""Names of the files that TensorFlow reads in the folder of variables."""


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """A dataset in a model card. Cards of earlier versions lack some fields.

    Attributes:
      fingerprint: of its contents.
      version: of its preprocessing, as in `config.VERSION`.
      slices: settings of its slices.
      geometry: of its volumes; None if the dataset does not record it.
      look: how its volumes look, likewise.
      description: of the slices, in one sentence.
      splits: numbers of volumes and slices, by split.
    """

    fingerprint: str | None = None
    version: str | None = None
    slices: SliceConfig | None = None
    geometry: Geometry | None = None
    look: TypicalLook | None = None
    description: str | None = None
    splits: dict[str, Counts] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The description of an exported model. Cards of earlier versions lack some fields.

    Attributes:
      name: of the network.
      intended_use: in one sentence.
      not_for: uses that the model is unfit for, in one sentence.
      data_licence: of the training data.
      size: (height, width) of input slices, in pixels.
      signatures: by signature, then "takes" and "gives", then one sentence for each tensor; of
        `volume` also "prepare", one sentence for each step from a scan to its result.
      preprocessing_version: of the training slices, as in `config.VERSION`.
      data_fingerprint: of all training datasets together.
      datasets: the training datasets, by name.
      parameters: number of parameters.
      flags: of the run, by name, without its folders.
      augmentation: its settings; None for no augmentation, empty if the card does not record it.
      best: row of the history for the epoch that the weights come from.
      epochs_trained: number of all epochs.
      versions: of the packages that made the model.
      digest: of the model, from `digest`.
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
    """The card of the model in a folder; None if it has none, like models from other projects.

    Raises:
      UserError: the file cannot be read, or is not a card.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        values = codec.from_json(dict[str, Any], path.read_bytes())
        # Fails on text that cannot be encoded, such as half of a surrogate pair.
        json.dumps(values, ensure_ascii=False).encode()
        if "dataset" in values:  # The first cards have one, without a name.
            values["datasets"] = {"dataset": values.pop("dataset")}
        return codec.from_plain(ModelCard, values)
    except (OSError, UnicodeError, UserError) as error:
        raise UserError(
            f"{path}: is not the card of a model that python -m trainer exported: {error}"
        ) from error


def write(folder: pathlib.Path, card: ModelCard) -> pathlib.Path:
    """Write the card of the model in a folder, and return its path."""
    path = folder / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(codec.to_plain(card), indent=2) + "\n")
    return path


def digest(folder: pathlib.Path) -> str:
    """SHA-256, in hex, of the model's graph and variables.

    `sha256sum saved_model.pb variables/variables.* | sha256sum` prints the same in that folder.
    Other files, such as operating systems leave, do not count: TensorFlow does not read them.
    Raises OSError if a file cannot be read.
    """
    lines = ""
    beside = [path for path in folder.glob("variables/*") if _VARIABLES.fullmatch(path.name)]
    for path in [folder / "saved_model.pb", *sorted(beside)]:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        lines += f"{found}  {path.relative_to(folder).as_posix()}\n"
    return hashlib.sha256(lines.encode()).hexdigest()
