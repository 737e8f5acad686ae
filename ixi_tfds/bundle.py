"""The folder of an exported model, which the trainer writes and the evaluator reads."""

import hashlib
import pathlib

CARD = "assets.extra/model_card.json"
"""Where the model's card is in the folder."""


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
