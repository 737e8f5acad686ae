"""Made-up brains as datasets and scans, and models of them that are of no code of ours."""

import dataclasses
import hashlib
import json

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy import ndimage, stats
from tiny_dataset import write_tiny_dataset

from ixi_tfds import config as configs
from ixi_tfds.documents import model_card

AXES = {"sagittal": 2, "axial": 1, "coronal": 0}


def config_of(plane="sagittal", copies=None, spacing=5.0):
    """The slices of a plane of brains in a box of 40x32x36 voxels (p, s, r)."""
    box = [40, 32, 36]
    slices = box.pop(AXES[plane])
    return configs.SliceConfig(
        f"brain_{plane}",
        in_plane=None,
        size=tuple(box),
        window=(0, slices),
        scaling="tissue",
        spacing=(spacing,) * 3,
        plane=None if plane == "sagittal" else plane,
        copies=copies,
    )


def made_up_brain(subject, shape=(40, 32, 36), side=5.0):
    """A brain, float32 [p, s, r] with white matter at 0.8, and its mask; follows from the name."""
    seed = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    at = (np.indices(shape).T - (np.array(shape) - 1) / 2) * side
    rough = ndimage.gaussian_filter(rng.normal(size=shape), 12 / side)
    radius = np.linalg.norm(at / (80, 62, 68), axis=-1).T + 0.06 * rough / rough.std()
    values = np.select([radius < 0.45, radius < 0.8, radius < 1], [0.4, 0.8, 0.6], 0.0)
    noise = 0.02 * ndimage.gaussian_filter(rng.normal(size=shape), 0.7)
    # As if a few voxels had partial volumes.
    soft = ndimage.gaussian_filter(values + noise, 0.5)
    return (soft * (radius < 1)).astype(np.float32), radius < 1


def brain_examples(subject, config):
    """The slices of a brain, and those of its copies, which are darker, for a dataset."""
    values, mask = made_up_brain(subject)
    # Healthy brains, too, have something odd; it keeps thresholds clear of the tissues.
    values[16:20, 12:16, 22:26] = 0.95
    axis = AXES[config.plane or "sagittal"]
    examples = []
    for copy in range(1 + (config.copies or 0)):
        stored = np.floor(values / (1 + copy) * 255 / 1.6 + 0.5).astype(np.uint8)
        for index in range(config.slices_per_volume):
            examples.append(
                {
                    "image": np.take(stored, index, axis)[..., None],
                    "mask": np.take(mask, index, axis)[..., None].astype(np.uint8),
                    "subject": subject,
                    "site": "Guys",
                    "slice_index": index,
                    "copy": copy,
                    "sex": "female",
                    "ethnicity": "white",
                    "age": 30.5,
                    "low": 0.0,
                    "high": 1.6,
                }
            )
    return examples


def write_brains(data_dir, plane="sagittal", *, subjects=None, copies=None):
    """Write a dataset of made-up brains; give its folder."""
    subjects = subjects or {"train": 3, "validation": 3, "test": 3}
    config = config_of(plane, copies)
    return write_tiny_dataset(data_dir, config, subjects=subjects, made_by=brain_examples)


def read_brains(folder, split, plane="sagittal"):
    """Each person's brain in a split, on the scale of tissues, and mask: both [p, s, r]."""
    found = {}
    builder = tfds.builder_from_directory(str(folder))
    for each in tfds.as_numpy(builder.as_dataset(split=split)):
        if not each["copy"]:
            person = found.setdefault(each["subject"].decode(), {})
            person[int(each["slice_index"])] = each["image"][..., 0], each["mask"][..., 0]
    for name, slices in sorted(found.items()):
        image, mask = (
            np.stack([slices[n][part] for n in sorted(slices)], AXES[plane]) for part in (0, 1)
        )
        yield name, image.astype(np.float32) * np.float32(1.6 / 255), mask == 1


EXPECTED = 0.65
"""What these models expect everywhere in a brain, where white matter is at 0.8."""

SHARPNESS = 2.0
"""Their mark is so many times the residual's size, at most 1."""


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


def write_ensemble_models(folder, **given):
    """Models of two tasks in two planes, each in a folder of its own; give the folders."""
    return [
        write_brain_model(
            folder / f"{task}_{plane}", config_of(plane), task=task, sharpness=sharp, **given
        )
        for task in ("repair", "denoise")
        for plane, sharp in (("sagittal", 1.0), ("axial", 3.0))
    ]


def expected_mark(values, mask, sharpness=(1.0, 3.0), joined=stats.gmean):
    """What the models of repair mark together, with the sign of the residual nearby."""
    residual = np.where(mask, values - EXPECTED, 0)
    marks = [np.minimum(abs(residual) * sharp, 1) for sharp in sharpness]
    nearby = ndimage.convolve(residual.astype(float), np.full((5, 5, 5), 1 / 125))
    return joined(np.maximum(marks, 1e-12), axis=0) * np.sign(nearby)
