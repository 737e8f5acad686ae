"""Training and `reconstruct` agree: a model gets the very slices that its dataset holds."""

import json
import pathlib

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from volumes import head, image

from beam_preprocess import __main__ as beam_preprocess
from evaluator import __main__ as evaluator
from ixi_tfds.documents import codec, manifest, model_card

RULES = {
    "by_number": ("--slices=8:14", "--size=34x26", "--in_plane=any"),
    "by_number_resampled": ("--slices=9:16", "--size=34x26", "--spacing=3.5x3x4"),
    "in_mm": ("--slices=-20mm:16mm", "--size=34x26", "--spacing=4"),
}


def write_recorder(folder, made, records):
    """A SavedModel of a dataset's slices that gives them back, and writes what it takes to files.

    The files are `records`/<number of the call>-<name of the input>.
    """
    calls = tf.Variable(0, dtype=tf.int64)
    size = made.config.size

    def raw(**inputs):
        number = tf.strings.as_string(calls.assign_add(1), width=4, fill="0")
        for name, values in inputs.items():
            path = tf.strings.join([str(records), "/", number, f"-{name}"])
            tf.io.write_file(path, tf.io.serialize_tensor(values))
        slices = inputs["slices"]
        return {"reconstruction": slices, "residual": tf.zeros_like(slices)}

    takes = {"slices": tf.TensorSpec((None, *size), tf.float32, name="slices")}
    if made.config.scaling == "volume":
        takes |= {name: tf.TensorSpec((None,), tf.float32, name=name) for name in ("low", "high")}
    grey = tf.TensorSpec((None, *size, 1), tf.float32, name="slices")
    module = tf.Module()
    module.calls = calls
    signatures = {
        "serving_default": tf.function(lambda slices: {"reconstruction": slices}, [grey]),
        "raw": tf.function(raw).get_concrete_function(**takes),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    known = {
        "slices": codec.to_plain(made.config),
        "geometry": made.geometry and codec.to_plain(made.geometry),
    }
    card = {"datasets": {"ixi_t1/own": known}, "digest": model_card.digest(folder)}
    (folder / model_card.CARD).write_text(json.dumps(card))
    return folder


def recorded(records):
    """What the model took, by name of the input, all calls together."""
    names = sorted({path.name.split("-")[1] for path in records.iterdir()})
    return {
        name: np.concatenate(
            [
                tf.io.parse_tensor(path.read_bytes(), tf.float32).numpy()
                for path in sorted(records.glob(f"*-{name}"))
            ]
        )
        for name in names
    }


def levels(slices, low, high):
    """8-bit levels of scanner values, by the formula in the docs."""
    low, high = low[:, None, None].astype(float), high[:, None, None].astype(float)
    share = (np.clip(slices.astype(float), low, high) - low) / (high - low)
    return np.floor(255 * share + 0.499999999).astype(np.uint8)


def write_people(folder, background):
    """Heads that lie off the middle of their files, in air of a value that is not 0."""
    folder.mkdir()
    for seed in range(8):
        low, high = 1 + seed % 3, 4 - seed % 3
        voxels = head((24, 34, 20), seed).astype(np.float32)
        padded = np.pad(voxels, ((low, high), (0, 0), (high, low))) + np.float32(background)
        path = folder / f"person{'abcdefgh'[seed]}_T1.nii.gz"
        nib.save(image(padded, ("PSR", "RAS", "LPI")[seed % 3]), path)
    return folder


def stored_slices(folder: pathlib.Path):
    """The images of a dataset by subject, uint8 [n, H, W] in the order of their index."""
    builder = tfds.builder_from_directory(str(folder))
    found = {}
    for split in builder.info.splits:
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            slices = found.setdefault(example["subject"].decode(), {})
            slices[int(example["slice_index"])] = example["image"][..., 0]
    return {
        subject: np.stack([slices[index] for index in sorted(slices)])
        for subject, slices in found.items()
    }


@pytest.mark.parametrize("scaling", ["slice", "volume"])
@pytest.mark.parametrize("rule", RULES)
def test_the_model_gets_the_slices_that_its_dataset_holds(rule, scaling, tmp_path):
    """To the bit of their 8-bit levels, for each person and each kind of config."""
    scans = write_people(tmp_path / "scans", -1000)
    flags = [f"--source_dir={scans}", f"--data_dir={tmp_path / 'data'}", "--config=own"]
    assert beam_preprocess.run([*flags, *RULES[rule], f"--scaling={scaling}"]) == 0
    folder = tmp_path / "data/ixi_t1/own/1.0.0"
    made = manifest.read(folder)
    assert (made.config.spacing is not None) == (rule != "by_number")
    for subject, expected in stored_slices(folder).items():
        records = tmp_path / subject
        records.mkdir()
        model = write_recorder(tmp_path / f"model_{subject}", made, records)
        (scan,) = scans.glob(f"*{subject}*")
        arguments = [f"--saved_model={model}", f"--input={scan}"]
        output = f"--output_dir={tmp_path / 'out'}"
        assert evaluator.run(["reconstruct", *arguments, output, "--batch_size=5"]) == 0
        given = recorded(records)
        (path,) = (tmp_path / "out").glob(f"*{subject}*.json")
        facts = json.loads(path.read_text())
        inside = np.array([row["in_window"] for row in facts["slices"]])
        assert len(given["slices"]) == len(inside) > inside.sum() == len(expected)
        slices = given["slices"][inside]
        low, high = (
            (slices.min(axis=(1, 2)), slices.max(axis=(1, 2)))
            if scaling == "slice"
            else (given["low"][inside], given["high"][inside])
        )
        np.testing.assert_array_equal(levels(slices, low, high), expected)
        # What lies around the volume is air, not scanner zero.
        assert facts["padding"] == "background" and facts["background"] == pytest.approx(
            -1000, abs=30
        )
        assert slices.max() < 1000 and slices[:, 0, 0].max() < -900
