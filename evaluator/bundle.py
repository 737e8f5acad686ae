"""Whether an exported model is what its card says, and fits the slices it is to see."""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from ixi_tfds import bundle
from ixi_tfds.errors import UserError


def define_flags(flag_values: flags.FlagValues) -> None:
    """Add to a command line the two flags that let a model pass which is refused otherwise."""
    flags.DEFINE_bool(
        "allow_changed_model",
        False,
        "Use a model whose graph or variables are not those that its card names.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "allow_other_preprocessing",
        False,
        "Use a model that has learned from slices of another preprocessing version.",
        flag_values=flag_values,
    )


def check_model(
    folder: pathlib.Path, *, allow_changed_model: bool = False
) -> tuple[str, dict[str, Any]]:
    """Hold a model's files against its card, before anything of the model is run.

    Says on stderr where there is nothing to hold them against. It finds damage and mix-ups; who
    makes a model on purpose can make its card, too.

    Args:
      folder: of the SavedModel, with `saved_model.pb` in it.
      allow_changed_model: take a model whose files are not those that its card names.

    Returns:
      The digest of graph and variables, and the card, empty where there is none.

    Raises:
      UserError: the files are not those of the card, or the card cannot be read.
    """
    card = _read_card(folder)
    promised = card.get("digest")
    try:
        found = bundle.digest(folder)
    except OSError as error:
        raise UserError(f"--saved_model={folder}: {error}") from error
    if promised is None:
        print(
            f"warning: {folder}: has no model card with a digest to check it by; a SavedModel is "
            "code, so use it only if you trust where it comes from",
            file=sys.stderr,
        )
    elif promised != found and not allow_changed_model:
        raise UserError(
            f"--saved_model={folder}: graph or variables are not those of its model card (digest "
            f"{found[:12]}, the card has {str(promised)[:12]}); a SavedModel is code: copy or "
            "export it again, or give --allow_changed_model if you know why it differs"
        )
    return found, card


def check_preprocessing(
    card: Mapping[str, Any], *, model: str, slices: str, version: str, allowed: bool = False
) -> None:
    """See that a model gets slices of the preprocessing that it has learned from.

    Args:
      card: the model's; one that does not tell passes.
      model: its name, for the message.
      slices: whose slices it is to see, such as a dataset's name.
      version: of their preprocessing, as `ixi_tfds.configs.VERSION` counts.
      allowed: let another preprocessing pass.

    Raises:
      UserError: it is another.
    """
    learned = card.get("preprocessing_version", version)
    if learned != version and not allowed:
        raise UserError(
            f"--saved_model: {model} has learned from slices of preprocessing {learned}, and those "
            f"of {slices} are of {version}; choose a dataset made by {learned}, train on this one, "
            "or give --allow_other_preprocessing"
        )


def _read_card(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / bundle.CARD
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text())
    # RecursionError: brackets within brackets, thousands deep.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {error}") from error
    if not isinstance(card, dict):
        return {}
    if not isinstance(card.get("flags") or {}, dict):
        raise UserError(f"{path}: is no model card: its flags are no table")
    return card
