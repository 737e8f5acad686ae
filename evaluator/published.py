"""The thesis's published scores for a kind of model."""

import json
from typing import Any

from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.thesis_results import published

SETTINGS = ("optimizer", "batch_size", "epochs")
"""Training flags that may differ between a model and the thesis's run of the same kind."""


def published_for(card: ModelCard) -> dict[str, Any] | None:
    """The thesis's run with the network, initial weights and loss of a model's card, or None.

    `recipe` is the name of the run, `differing` says how the model's training differs, in words.
    """
    flags = card.flags
    # ImageNet weights may have come from a file.
    weights = "none" if flags.get("weights", "none") == "none" else "imagenet"
    table = published()
    wanted = (str(flags.get("model")), weights, str(flags.get("loss")))
    found = table[(table[["model", "weights", "loss"]] == wanted).all(axis=1)]
    if found.empty:
        return None
    row: dict[str, Any] = json.loads(found.to_json(orient="records"))[0]
    differing = [
        f"{name} {flags[name]} instead of {row[name]}"
        for name in SETTINGS
        if name in flags and flags[name] != row[name]
    ]
    return {"recipe": str(found.index[0]), **row, "differing": ", ".join(differing)}
