"""Loading of SavedModels, with checks against their cards and the slices."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ixi_tfds import gpus
from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.system import storage
from ixi_tfds.system.errors import UserError

SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded SavedModel.

    Attributes:
      name: unique among the models, such as `small_resnet/1`.
      folder: version folder of the SavedModel.
      sha256: digest of graph and variables.
      card: the model card, empty if there is none.
      reconstruct: function from slices, float32 [B, H, W, 1] in [0, 1], to reconstructions of the
        same shape.
      size: (height, width) of the slices; None for a side of any length.
      raw: the signature `raw`, in scanner units, or None.
      raw_takes_range: whether `raw` also takes `low` and `high`, as for volume scaling.
      volume: the signature `volume` of a model of brains, or None.
    """

    name: str
    folder: pathlib.Path
    sha256: str
    card: ModelCard
    reconstruct: Callable[[Any], Any]
    size: tuple[int | None, int | None]
    raw: Callable[..., dict[str, Any]] | None = None
    raw_takes_range: bool = False
    volume: Callable[..., dict[str, Any]] | None = None


def load_model(path: pathlib.Path, *, allow_changed_model: bool = False) -> Model:
    """Load a SavedModel from its version folder, or the highest version in a folder of versions.

    `allow_changed_model` accepts a model whose files differ from those that its card names.

    Raises:
      UserError: there is no SavedModel, its card does not fit, or it cannot be loaded, or lacks the
        signature.
    """
    import tensorflow as tf

    gpus.prepare()
    folder = version_folder(path)
    digest, card = check_files(folder, allow_changed_model=allow_changed_model)
    try:
        with storage.without_wildcards(folder) as plain:
            loaded = tf.saved_model.load(str(plain))
    # TensorFlow raises errors of many types for a broken graph.
    except Exception as error:
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"--saved_model={path}: cannot be loaded: {said}") from error
    size = _check_signature(path, loaded.signatures.get(SIGNATURE))

    def reconstruct(slices: Any) -> Any:
        # A signature is freed with the object that it was loaded with.
        return loaded.signatures[SIGNATURE](slices=slices)["reconstruction"]

    def raw(**inputs: Any) -> dict[str, Any]:
        return loaded.signatures["raw"](**inputs)

    def volume(**inputs: Any) -> dict[str, Any]:
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        return loaded.signatures["volume"](**tensors)

    name = _name(folder)
    if "volume" in loaded.signatures:
        return Model(name, folder, digest, card, reconstruct, size, volume=volume)
    if "raw" not in loaded.signatures:
        return Model(name, folder, digest, card, reconstruct, size)
    takes_range = "low" in loaded.signatures["raw"].structured_input_signature[1]
    return Model(name, folder, digest, card, reconstruct, size, raw, takes_range)


def load_models(
    paths: Sequence[pathlib.Path],
    *,
    allow_changed_model: bool = False,
    beside: Sequence[pathlib.Path] = (),
) -> list[Model]:
    """Load several models under different names; see `load_model`.

    The names differ from those of the models `beside`, too, which are not loaded.

    Raises:
      UserError: as `load_model`, or a model is named twice.
    """
    models = [load_model(path, allow_changed_model=allow_changed_model) for path in paths]
    folders = [*(model.folder for model in models), *map(version_folder, beside)]
    for path, folder in zip([*paths, *beside], folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"--saved_model={path}: is named twice")
    names = different_names([_name(folder) for folder in folders], folders)[: len(models)]
    return [dataclasses.replace(m, name=name) for m, name in zip(models, names, strict=True)]


def _name(folder: pathlib.Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if folder.name.isdigit() else folder.name


def different_names(names: Sequence[str], folders: Sequence[pathlib.Path]) -> list[str]:
    """The names if they differ, else the last parts of the paths that do, often those of runs."""
    if len(set(names)) == len(names):
        return list(names)
    backwards = [folder.parts[::-1] for folder in folders]
    for parts in zip(*backwards, strict=False):
        if len(set(parts)) == len(parts):
            return list(parts)
    return [str(folder) for folder in folders]


def check_files(
    folder: pathlib.Path, *, allow_changed_model: bool = False
) -> tuple[str, ModelCard]:
    """Compare the files in a version folder with the model card, before the model is loaded.

    Warns on stderr if there is no card to compare with. This finds damage and mix-ups, not forgery:
    an attacker can change the card too.

    Returns:
      The digest of graph and variables, and the card, empty if there is none.

    Raises:
      UserError: the files are not those that the card names, or the card cannot be read.
    """
    card = model_card.read(folder) or ModelCard()
    try:
        found = model_card.digest(folder)
    except OSError as error:
        raise UserError(f"--saved_model={folder}: {error}") from error
    if card.digest is None:
        print(
            f"warning: {folder}: has no model card with a digest to check it by; a SavedModel is "
            "code, so use it only if you trust where it comes from",
            file=sys.stderr,
        )
    elif card.digest != found and not allow_changed_model:
        raise UserError(
            f"--saved_model={folder}: graph or variables are not those of its model card (digest "
            f"{found[:12]}, the card has {card.digest[:12]}); a SavedModel is code: copy or "
            "export it again, or give --allow_changed_model if you know why it differs"
        )
    return found, card


def check_preprocessing(model: Model, slices: str, version: str, *, allowed: bool = False) -> None:
    """Check that a model was trained on slices of this preprocessing version.

    Args:
      model: the model; it passes if its card has no version.
      slices: source of the slices, such as a dataset's name, for the error message.
      version: preprocessing version of the slices, see `ixi_tfds.config.VERSION`.
      allowed: accept any version.

    Raises:
      UserError: the versions differ.
    """
    learned = model.card.preprocessing_version or version
    if learned != version and not allowed:
        raise UserError(
            f"--saved_model: {model.name} has learned from slices of preprocessing {learned}, and "
            f"those of {slices} are of {version}; choose a dataset made by {learned}, train on "
            "this one, or give --allow_other_preprocessing"
        )


def version_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of a SavedModel: `path` itself, or its highest version.

    Raises:
      UserError: there is none.
    """
    path = path.resolve()
    if (path / "saved_model.pb").is_file():
        return path
    versions = [
        found.parent for found in path.glob("*/saved_model.pb") if found.parent.name.isdigit()
    ]
    if not versions:
        raise UserError(
            f"--saved_model={path}: no SavedModel there; name the folder that holds "
            "saved_model.pb, or the one above it"
        )
    return max(versions, key=lambda folder: int(folder.name))


def _check_signature(path: pathlib.Path, signature: Any) -> tuple[int | None, int | None]:
    """The (height, width) that a signature takes; None for a side of any length."""
    import tensorflow as tf

    inputs = signature.structured_input_signature[1] if signature else {}
    if set(inputs) != {"slices"} or "reconstruction" not in signature.structured_outputs:
        raise UserError(
            f"--saved_model={path}: has no signature {SIGNATURE!r} from `slices` to "
            "`reconstruction`; export it with python -m trainer"
        )
    takes, gives = inputs["slices"], signature.structured_outputs["reconstruction"]
    for spec in (takes, gives):
        if spec.dtype != tf.float32 or not spec.shape.is_compatible_with((None, None, None, 1)):
            raise UserError(
                f"--saved_model={path}: takes {takes.dtype.name} {takes.shape} and gives "
                f"{gives.dtype.name} {gives.shape}, not grey float32 slices [B, H, W, 1]"
            )
    height, width = takes.shape[1:3]
    return height, width
