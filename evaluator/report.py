"""The report a person reads: one HTML file with everything in it."""

import base64
import importlib.resources
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from evaluator import figures, results
from evaluator.scoring import Example, Model, Score

_PLOTS = {"Histogram": figures.histogram, "Against the slice index": figures.by_slice_index}
_GROUPS = (("By site", "site"), ("By sex", "sex"))


def render(
    model: Model, facts: dict[str, Any], scores: Sequence[Score], examples: Mapping[str, Example]
) -> str:
    """The report as HTML that needs no other file and no network.

    Args:
      model: the model that was scored.
      facts: what `results.summary` gives.
      scores: a row a slice.
      examples: slices to show, each under a name such as "median".
    """
    frame = results.as_frame(scores)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = importlib.resources.files("evaluator").joinpath("report.html")
    limit = figures.residual_limit(
        [(example.original, example.reconstruction) for example in examples.values()]
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        facts=facts,
        statistics=results.statistics(frame).to_dict("index"),
        subjects=results.by_group(frame, ["subject", "site", "sex", "age"]).to_dict("records"),
        groups={
            title: results.by_group(frame, [column])
            .rename(columns={column: "group"})
            .to_dict("records")
            for title, column in _GROUPS
            if frame[column].nunique() > 1
        },
        gallery=[_picture(name, example, limit) for name, example in examples.items()],
        limit=limit,
        plots={
            f"{title}, {metric.upper()}": _base64(plot(frame, metric))
            for title, plot in _PLOTS.items()
            for metric in ("psnr", "ssim")
        },
        card=_scalars(model.card),
        environment=_environment(),
    )


def _picture(name: str, example: Example, limit: float) -> dict[str, Any]:
    png = figures.reconstruction_gallery(
        {"": (example.original, example.reconstruction)}, limit=limit
    )
    return {"name": name, "score": example.score, "png": _base64(png)}


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


def _scalars(card: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The card's values that are not lists, each under its dotted path."""
    found: dict[str, str] = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            found[f"{prefix}{key}"] = str(value)
    return found


def _environment() -> dict[str, str]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return {
        "Device": ", ".join(names) or f"CPU ({platform.machine()})",
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "NumPy": np.__version__,
        "pandas": pd.__version__,
        "System": platform.platform(terse=True),
    }
