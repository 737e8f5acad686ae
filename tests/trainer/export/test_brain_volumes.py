"""The signature `volume` of models of brains, and what the card says of it."""

import functools
import json

import numpy as np
import plain_tensorflow
import pytest
import tensorflow as tf
import untrained
from tensorflow_serving.apis import prediction_log_pb2
from test_brains import write_people

from evaluator import models as served
from ixi_tfds.config import PLANES
from ixi_tfds.documents import model_card
from ixi_tfds.images import brain, tissue
from ixi_tfds.nifti import read_volume
from trainer.export import half, warmup

AXES = {"sagittal": 2, "axial": 1, "coronal": 0}
BOX = (48, 32, 16)


def a_brain(seed=0):
    """Values up to beyond 1.6, some outside of the mask, and the mask."""
    rng = np.random.default_rng(seed)
    mask = (np.linalg.norm((np.indices(BOX).T / BOX * 2 - 1).T, axis=0) < 0.8).astype(np.float32)
    return rng.uniform(0, 1.7, BOX).astype(np.float32), mask


def by_slice(network, volume, mask, axis, marks):
    """Repaired volume, residual and marks, one slice after the other."""
    inside = mask > 0.5
    repaired, found = np.zeros(BOX), np.zeros(BOX)
    for number in range(BOX[axis]):
        at = tuple(number if each == axis else slice(None) for each in range(3))
        one = np.where(inside[at], volume[at], 0) / np.float32(1.6)
        result = network(one[None, ..., None], training=False).numpy()[0].astype(float)
        repaired[at] = 1.6 * np.clip(result[..., 0], 0, 1)
        found[at] = 1 / (1 + np.exp(-result[..., -1])) if marks else 0
    repaired, found = np.where(inside, repaired, 0), np.where(inside, found, 0)
    return repaired, np.where(inside, volume - repaired, 0), found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder, network and config of slices of an export, made once."""

    def export(plane="sagittal", task="repair"):
        folder = tmp_path_factory.mktemp(f"{plane}_{task}") / "1"
        return folder, *untrained.export_brains(folder, plane, task=task)

    return functools.cache(export)


@pytest.mark.parametrize(
    ("plane", "task"),
    [*((plane, "repair") for plane in PLANES), ("sagittal", "denoise"), ("coronal", "reconstruct")],
)
def test_a_volume_comes_out_as_its_slices_one_by_one(plane, task, exported):
    folder, network, _ = exported(plane, task)
    volume, mask = a_brain()
    loaded = tf.saved_model.load(str(folder))
    assert set(loaded.signatures) == {"serving_default", "volume"}
    found = loaded.signatures["volume"](volume=volume, mask=mask)
    marks = task == "repair"
    assert set(found) == {"repaired", "residual", *(["mark"] if marks else [])}
    expected = by_slice(network, volume, mask, AXES[plane], marks)
    for name, values in zip(("repaired", "residual", "mark"), expected, strict=True):
        if name in found:
            assert found[name].dtype == tf.float32 and found[name].shape == BOX
            np.testing.assert_allclose(found[name], values, atol=5e-5)
            assert np.std(values[mask > 0.5]) > 0.01
    # Another number of slices, and what lies outside of the mask does not matter.
    axis = AXES[plane]
    part = [np.take(values, range(4, 9), axis) for values in (volume, mask)]
    fewer = loaded.signatures["volume"](volume=np.where(part[1] > 0, part[0], 9), mask=part[1])
    np.testing.assert_allclose(
        fewer["repaired"], np.take(found["repaired"], range(4, 9), axis), atol=5e-5
    )


def test_slices_are_served_as_those_of_other_models(exported):
    folder, network, slices = exported()
    unit = np.random.default_rng(0).random((3, *slices.size, 1), np.float32)
    loaded = tf.saved_model.load(str(folder))
    found = loaded.signatures["serving_default"](slices=unit)
    expected = np.clip(network(unit, training=False)[..., :1], 0, 1)
    assert set(found) == {"reconstruction"}
    np.testing.assert_allclose(found["reconstruction"], expected, atol=1e-5)


@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "small_resnet"])
def test_plain_tensorflow_gives_the_same(name, tmp_path):
    # The side of 48 is across the slices: small_resnet needs multiples of 16.
    untrained.export_brains(tmp_path / "1", "coronal", name=name)
    volume, mask = a_brain()
    unit = np.zeros((1, 32, 16, 1), np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    ours = loaded.signatures["volume"](volume=volume, mask=mask)
    theirs = plain_tensorflow.run_elsewhere(
        tmp_path / "1", tmp_path, unit=unit, volume=volume, mask=mask
    )
    assert set(theirs) == {"serving_reconstruction", *(f"volume_{output}" for output in ours)}
    for output, values in ours.items():
        np.testing.assert_allclose(theirs[f"volume_{output}"], values, atol=1e-6)


def test_a_second_export_has_the_same_bytes(exported, tmp_path):
    folder, *_ = exported("axial")
    untrained.export_brains(tmp_path / "1", "axial")
    first = {path.relative_to(folder): path for path in folder.glob("**/*.*")}
    again = {path.relative_to(tmp_path / "1"): path for path in tmp_path.glob("1/**/*.*")}
    assert first.keys() == again.keys() and len(first) >= 6
    for name, path in first.items():
        if path.is_file():
            assert path.read_bytes() == again[name].read_bytes(), name


def test_the_warmup_requests_run_through_their_signatures(exported):
    folder, *_ = exported("axial")
    loaded, seen = tf.saved_model.load(str(folder)), []
    for record in tf.data.TFRecordDataset(str(folder / warmup.FILE)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {key: tf.constant(tf.make_ndarray(p)) for key, p in request.inputs.items()}
        name = request.model_spec.signature_name
        outputs = loaded.signatures[name](**inputs)
        assert all(np.isfinite(values).all() for values in outputs.values())
        seen.append((name, *next(iter(inputs.values())).shape))
    assert seen == [("serving_default", n, 48, 16, 1) for n in warmup.BATCHES] + [
        ("volume", 48, n, 16) for n in warmup.BATCHES
    ]


def test_the_evaluator_takes_the_signature(exported):
    folder, *_ = exported()
    (model,) = served.load_models([folder], allow_changed_model=False)
    assert model.volume is not None


@pytest.mark.parametrize(
    ("plane", "across"), [*zip(PLANES, ("right", "superior", "posterior"), strict=True)]
)
def test_the_card_says_what_goes_in_and_comes_out(plane, across, exported):
    folder, *_ = exported(plane)
    told = json.loads((folder / model_card.CARD).read_text())["signatures"]["volume"]
    loaded = tf.saved_model.load(str(folder)).signatures["volume"]
    takes = loaded.structured_input_signature[1]
    assert told["takes"].keys() == takes.keys()
    assert told["gives"].keys() == loaded.structured_outputs.keys()
    axes = ("posterior", "superior", "right")
    sides = ", ".join(
        f"{axis}: {'any number' if axis == across else side}"
        for axis, side in zip(axes, takes["volume"].shape, strict=True)
    )
    for meaning in (*told["takes"].values(), *told["gives"].values()):
        assert meaning.startswith(f"float32 [{sides}]")
    assert f"each slice across {across}, divided by 1.6" in told["prepare"]["network"]


def test_the_card_names_the_functions_and_numbers_that_make_a_volume_of_a_scan(exported):
    extra = exported("axial")[0] / "assets.extra"
    told = json.loads((extra / "model_card.json").read_text())["signatures"]["volume"]["prepare"]
    assert list(told) == [
        *("mask", "box", "bias field", "white matter", "scans from elsewhere", "network")
    ]
    for step, function in (
        ("mask", brain.brain_mask),
        ("box", brain.brain_of),
        ("bias field", tissue.scale_tissues),
        ("white matter", tissue.white_peak),
        ("scans from elsewhere", tissue.match_tissues),
    ):
        assert told[step].startswith(f"{function.__module__}.{function.__name__}")
    assert "48x32x16 voxels of 4x4x4 mm along posterior, superior and right" in told["box"]
    for number in (tissue.WHITE_MATTER, tissue.HIGHEST, tissue._BINS, tissue._LEAST_PEAK):
        assert str(number) in told["white matter"]
    for number in (tissue._NEAR, tissue._ROUNDS, tissue._LINEAR_ROUNDS, tissue._MOST_SAMPLES):
        assert str(number) in told["bias field"]
    for number in tissue.TISSUES:
        assert str(number) in told["scans from elsewhere"]
    page = (extra / "model_card.md").read_text()
    assert "rows of a slice run to posterior, columns to right." in page
    for number, (step, meaning) in enumerate(told.items(), start=1):
        assert f"{number}. {step}: {meaning}." in page
    assert "`raw`" not in page


def test_the_program_of_the_card_runs_on_a_scan(exported, tmp_path):
    """The volume by the functions that the card names, then the card's own program."""
    folder, _, slices = exported()
    people = write_people(tmp_path / "people", people=1)
    (scan,), (mask,) = people.glob("scans/*"), people.glob("masks/*")
    volume = read_volume(str(scan))
    inside = brain.brain_mask(volume, str(scan), read_volume(str(mask)))
    found = brain.brain_of(volume, str(scan), inside, slices)
    text = (folder / "assets.extra/model_card.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    names = {"volume": found.values, "mask": found.mask.astype(np.float32)}
    program = program.replace('load(".")', f"load({str(folder)!r})")
    exec(program, names)
    assert names["brain"]["repaired"].shape == found.values.shape


def test_weights_of_16_bits_are_nearly_those_of_32_with_batch_normalization_too():
    def build():
        slices = tf.keras.Input((8, 8, 1))
        return tf.keras.Model(
            slices,
            tf.keras.layers.Conv2D(2, 3)(tf.keras.layers.BatchNormalization()(slices)),
        )

    whole = build()
    copy = half.in_half(whole, build)
    assert {variable.dtype for variable in copy.variables} == {tf.float16, tf.float32}
    given = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    np.testing.assert_allclose(copy(given), whole(given), atol=2e-3)
    assert copy(given).dtype == tf.float32
