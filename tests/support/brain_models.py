"""Models of brains of no code of ours, with known outputs, as SavedModels with cards."""

import dataclasses
import json

import numpy as np
import tensorflow as tf

from ixi_tfds import config as configs
from ixi_tfds.documents import model_card

EXPECTED = 0.6
"""What these models expect everywhere in a brain, where white matter is at 0.8."""

SHARPNESS = 2.0
"""Their mark is so many times the residual's size, at most 1."""


def outputs(volume, mask, sharpness=SHARPNESS):
    """What a model with marks gives, by name; of NumPy arrays or of tensors."""
    inside = (mask > 0.5) * 1.0
    residual = (volume - EXPECTED) * inside
    size = abs(residual) * sharpness
    return {
        "repaired": volume * inside - residual,
        "residual": residual,
        "mark": np.minimum(size, 1) if isinstance(size, np.ndarray) else tf.minimum(size, 1.0),
    }


def write_brain_model(
    folder, config, *, task="repair", sharpness=SHARPNESS, version=configs.VERSION, **given
):
    """Write a model of the slices of a config into `folder`; give it.

    `given` takes the place of outputs of the signature `volume`; each is a function of it.
    """
    height, width = config.size

    def of_volume(volume, mask):
        inside = tf.cast(mask > 0.5, tf.float32)
        residual = (volume - EXPECTED) * inside
        found = {"repaired": volume * inside - residual, "residual": residual}
        if task == "repair":
            found["mark"] = tf.minimum(tf.abs(residual) * sharpness, 1.0)
        return found | {name: made(volume) for name, made in given.items()}

    whole = [tf.TensorSpec([None] * 3, tf.float32, name=name) for name in ("volume", "mask")]
    grey = tf.TensorSpec((None, height, width, 1), tf.float32, name="slices")
    signatures = {
        "serving_default": tf.function(lambda slices: {"reconstruction": slices}, [grey]),
        "volume": tf.function(of_volume, whole),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    (folder / "assets.extra").mkdir()
    facts = {"slices": dataclasses.asdict(config)}
    card = {
        "datasets": {f"ixi_t1/{config.name}": facts},
        "flags": {"task": task},
        "preprocessing_version": version,
        "digest": model_card.digest(folder),
    }
    (folder / model_card.CARD).write_text(json.dumps(card))
    return folder
