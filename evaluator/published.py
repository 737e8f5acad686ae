"""What the thesis published for a model of the kind that is scored."""

import json
from typing import Any

from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.thesis_results import published

SETTINGS = ("optimizer", "batch_size", "epochs")
"""Flags in which a model may differ from the run that it is shown beside."""


def published_for(card: ModelCard) -> dict[str, Any] | None:
    """The row of the run with the network, initial weights and loss of a model's card, if any.

    Returns:
      The row as a dictionary with `recipe`, its name, and `differing`, which says in words how the
      model was trained otherwise; None where the thesis has no such run.
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
