"""What an export holds beside the SavedModel, and whether it is what it says."""

import json
import pathlib
import re
import subprocess

import jinja2
import numpy as np
import pytest
import tensorflow as tf
import untrained
from google.protobuf import text_format
from tensorflow import keras
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec, model_card
from ixi_tfds.documents.model_card import DatasetFacts, ModelCard
from ixi_tfds.images.scaling import PERCENTILES, scale_to_unit
from ixi_tfds.system import storage
from trainer import models
from trainer import run as training
from trainer.cluster import Cluster
from trainer.config import TrainConfig
from trainer.data import Shards, TrainingData
from trainer.export import canonical, card, saved_model
from trainer.models import networks
from trainer.workdir import RunState, checkpoint_path

EXTRA = "assets.extra"
SIZE = (4, 6)


def small_network():
    """Three channels around 1.5 - 3x for a slice x, after a normalization that has seen other data.

    The mean of the channels leaves [0, 1] on both sides, and is no channel's own value.
    """
    network = keras.Sequential(
        [
            keras.layers.Conv2D(3, 1, use_bias=False, input_shape=(*SIZE, 1), name="convolution"),
            keras.layers.BatchNormalization(epsilon=0.25, name="normalization"),
        ],
        name="small",
    )
    kernel = np.float32([-1, -2, -6]).reshape(1, 1, 1, 3)
    # gamma, beta, moving mean, moving variance: with 0.25 more the squares of 2, 1 and 4.
    normalization = [(2, 1, 4), (1, 2.25, 1.75), (0.5, 0, 0), (3.75, 0.75, 15.75)]
    network.set_weights([kernel, *map(np.float32, normalization)])
    return network


def reconstructed(unit):
    """What the small network makes of slices in [0, 1], by hand."""
    channels = [
        2 * (-unit - 0.5) / 2 + 1,
        1 * (-2 * unit - 0) / 1 + 2.25,
        4 * (-6 * unit - 0) / 4 + 1.75,
    ]
    return np.clip(sum(channels) / 3, 0, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    return {
        scaling: export_small(root / scaling / "1", scaling=scaling)
        for scaling in ("slice", "volume")
    }


def export_small(folder, scaling="slice"):
    # As read from a manifest.
    scaling = json.loads(json.dumps(scaling))
    return untrained.export_network(small_network(), folder, "small_resnet", scaling, SIZE)


def signature(exported, scaling, name):
    return tf.saved_model.load(str(exported[scaling])).signatures[name]


def test_the_reconstruction_is_grey_clipped_and_by_the_statistics_of_training(exported):
    unit = np.random.default_rng(0).random((5, *SIZE, 1), np.float32)
    unit[0, 0, :2, 0] = 0, 1
    given = signature(exported, "slice", "serving_default")(slices=unit)["reconstruction"].numpy()
    assert given.shape == unit.shape and given.dtype == np.float32
    assert (given[0, 0, 0, 0], given[0, 0, 1, 0]) == (1, 0)
    np.testing.assert_allclose(given, reconstructed(unit.astype(np.float64)), atol=1e-5)
    # A slice comes out the same whatever is in the batch with it.
    alone = signature(exported, "volume", "serving_default")(slices=unit[3:4])["reconstruction"]
    np.testing.assert_allclose(alone[0], given[3], atol=1e-6)


def by_hand(slices, low, high):
    """Reconstruction and residual in scanner units, a slice at a time, in double precision."""
    outputs = []
    for image, bottom, top in zip(slices.astype(np.float64), low, high, strict=True):
        unit = np.zeros_like(image)
        if top > bottom:
            share = (np.clip(image, bottom, top) - bottom) / (top - bottom)
            unit = np.floor(share * 255 + 0.499999999) / 255
        outputs.append(bottom + reconstructed(unit) * max(top - bottom, 0))
    return np.stack(outputs), slices - np.stack(outputs)


def scanner_slices():
    """Integers as scanners have them, up to 4095, each slice in a range of its own."""
    values = np.random.default_rng(1).integers(0, 4096, (6, *SIZE)).astype(np.float32)
    values[1] = np.floor(values[1] / 100) - 20
    values[2] = 7
    values[3] = values[3] / 4096 / 2 + 3000
    return values


def test_raw_slices_are_scaled_by_their_own_extrema_and_back(exported):
    slices = scanner_slices()
    given = signature(exported, "slice", "raw")(slices=slices)
    axes = (1, 2)
    reconstruction, residual = by_hand(slices, slices.min(axes), slices.max(axes))
    assert given.keys() == {"reconstruction", "residual"}
    assert all(value.dtype == tf.float32 for value in given.values())
    np.testing.assert_allclose(given["reconstruction"], reconstruction, rtol=1e-6, atol=0.02)
    np.testing.assert_allclose(given["residual"], residual, rtol=1e-6, atol=0.02)
    # Half a unit of range is 3000.0 to 3000.5: float32 has 0.0002 there.
    np.testing.assert_allclose(given["residual"][3], residual[3], atol=1e-3)
    # A slice of one value is its own reconstruction, to the bit.
    assert (given["reconstruction"][2].numpy() == 7).all()
    assert not given["residual"][2].numpy().any()


def test_raw_slices_of_a_volume_are_scaled_by_the_range_that_is_given(exported):
    slices = scanner_slices()
    # Ranges narrower than the slice, wider, empty, and the wrong way round, which is as empty.
    low = np.float32([500, -100, 7, 3000.1, 2000, 2000])
    high = np.float32([3500, 4000.5, 9, 3000.4, 2000, 1990])
    given = signature(exported, "volume", "raw")(slices=slices, low=low, high=high)
    reconstruction, residual = by_hand(slices, low.astype(float), high.astype(float))
    np.testing.assert_allclose(given["reconstruction"], reconstruction, rtol=1e-6, atol=0.02)
    np.testing.assert_allclose(given["residual"], residual, rtol=1e-6, atol=0.02)
    np.testing.assert_allclose(given["residual"][3], residual[3], atol=1e-3)
    for number in (4, 5):
        assert (given["reconstruction"][number].numpy() == 2000).all()


def test_levels_are_the_nearest_with_ties_going_down():
    low, high = (
        np.float64([[[10]], [[10]], [[5]], [[6]]]),
        np.float64([[[520]], [[265]], [[5]], [[1]]]),
    )
    values = np.float64(
        [
            # Two units of the scanner a level: 11 is half-way between the levels 0 and 1.
            [[9, 10, 11, 11.0001, 519, 520, 521, -1e6]],
            [[9, 10, 11, 10.6, 10.4, 265, 266, 1e6]],
            [[4, 5, 6, 5, 5, 5, 5, 5]],
            [[0, 1, 6, 7, 3, 3, 3, 3]],
        ]
    )
    levels = np.float32(
        [
            [[0, 0, 0, 1, 254, 255, 255, 0]],
            [[0, 0, 1, 1, 0, 255, 255, 255]],
            [[0] * 8],
            [[0] * 8],
        ]
    )
    unit = scale_to_unit(values, low, high).numpy()
    assert unit.shape == (4, 1, 8, 1) and unit.dtype == np.float32
    np.testing.assert_array_equal(unit[..., 0], levels / np.float32(255))


@pytest.mark.parametrize("where", ["here", "ram://models"])
def test_an_export_is_written_beside_its_place_or_locally_for_remote_storage(
    where, tmp_path, monkeypatch
):
    """A folder that is renamed must be on the disk of its place, which that for temporary files
    need not be."""
    save, seen = tf.saved_model.save, []

    def noted(module, folder, **options):
        seen.append(folder)
        save(module, folder, **options)

    monkeypatch.setattr(tf.saved_model, "save", noted)
    place = storage.at(tmp_path if where == "here" else where, "export", "1")
    place.mkdir(parents=True)
    (place / "saved_model.pb").write_text("an older one")
    (place / "stray").write_text("of an older one")
    export_small(place)
    assert seen == [str(place.with_name(".1.partial"))] if where == "here" else "://" not in seen[0]
    assert not pathlib.Path(seen[0]).exists()
    assert [path.name for path in place.parent.iterdir()] == ["1"]
    assert not (place / "stray").exists()
    unit = np.zeros((1, *SIZE, 1), np.float32)
    served = tf.saved_model.load(str(place)).signatures["serving_default"](slices=unit)
    assert served["reconstruction"].numpy().min() == 1


def test_a_run_exports_the_weights_and_the_numbers_of_its_best_epoch(tmp_path):
    """Of three epochs the second was best; the first and the last are there as well."""
    spec = models.ModelSpec(
        name="resnet_like", stem_filters=2, stage_filters=(2,), stage_blocks=(1,)
    )
    config = TrainConfig(data_dir="D", workdir=str(tmp_path), model=spec)
    network = models.build(spec, (8, 12))
    unit = np.random.default_rng(0).random((2, 8, 12, 1), np.float32)
    expected, rows = [], []
    for epoch in (1, 2, 3):
        keras.utils.set_random_seed(epoch)
        for variable in network.variables:
            variable.assign(tf.random.uniform(variable.shape, 0.1, 0.4))
        path = checkpoint_path(tmp_path, epoch)
        tf.train.Checkpoint(network=network).write(str(path))
        expected.append(networks.to_grey(network(unit, training=False)).numpy())
        rows.append({"epoch": epoch, "val_loss": abs(epoch - 2), "val_psnr": 20 + epoch})
    run_state = RunState(0.1, rows, best_epoch=2, best_loss=0)
    split = Shards((), 24, (8, 12))
    facts = DatasetFacts(version="1", description="blobs", fingerprint="abc")
    data = TrainingData(split, split, "slice", "1", "abc", {"ixi_t1/tiny": facts})
    run = training._Run(config, data, Cluster(), tf.distribute.get_strategy(), None)
    outcome = training._export_best(run, run_state)
    assert outcome.folder == tmp_path / "export/resnet_like/1" and outcome.best == rows[1]
    served = tf.saved_model.load(str(outcome.folder)).signatures["serving_default"](slices=unit)
    np.testing.assert_allclose(served["reconstruction"], expected[1], atol=1e-5)
    for other in (expected[0], expected[2]):
        assert np.abs(other - expected[1]).max() > 1e-3
    card = json.loads((outcome.folder / model_card.CARD).read_text())
    assert card["best"] == rows[1] and card["epochs_trained"] == 3
    assert card["parameters"] == network.count_params()


def test_the_card_is_json_that_people_can_read(exported):
    text = (exported["slice"] / model_card.CARD).read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"


def warmup_requests(folder):
    records = tf.data.TFRecordDataset(str(folder / EXTRA / "tf_serving_warmup_requests"))
    for record in records.as_numpy_iterator():
        # The classes of TensorFlow Serving itself.
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_warmup_requests_run_through_their_signatures(scaling, exported):
    model = tf.saved_model.load(str(exported[scaling]))
    seen = []
    for request in warmup_requests(exported[scaling]):
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}
        outputs = model.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        assert outputs
        for value in outputs.values():
            assert value.shape == inputs["slices"].shape
            assert np.isfinite(value).all()
        seen.append((name, len(inputs["slices"]), "low" in inputs))
    limits = scaling == "volume"
    assert seen == [("serving_default", batch, False) for batch in (1, 8, 32)] + [
        ("raw", batch, limits) for batch in (1, 8, 32)
    ]
    assert (exported[scaling] / EXTRA / "tf_serving_warmup_requests").stat().st_size < 2000


def test_a_second_export_has_the_same_bytes(tmp_path):
    """In a process that has done other things meanwhile."""
    first = untrained.export_untrained(tmp_path / "first/1")
    again = untrained.export_untrained(tmp_path / "again/1")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [str(name) for name in files] == [
        f"{EXTRA}/model_card.json",
        f"{EXTRA}/model_card.md",
        f"{EXTRA}/tf_serving_warmup_requests",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    for name in files:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert not list(again.parent.glob(".*"))


FUNCTIONS = """
meta_graphs {{
  graph_def {{ library {{ {functions} }} }}
  object_graph_def {{ concrete_functions {{ key: "{b}" value {{ }} }} }}
}}
"""
FUNCTION = """
function {{
  signature {{ name: "{name}" }}
  node_def {{ name: "call" attr {{ key: "f" value {{ func {{ name: "{calls}" }} }} }} }}
  attr {{ key: "_user_specified_name" value {{ s: "{captured}" }} }}
}}
"""


@pytest.mark.parametrize("first", [1, 8, 9, 98, 99, 998])
def test_the_names_of_functions_do_not_tell_what_came_before(first, tmp_path):
    """Names in order are 8, 9, 10 at one time and 100, 98, 99 at another."""
    kinds = ("__inference_raw", "__inference_signature_wrapper", "__forward_raw")

    def write(folder, first):
        names = [f"{kind}_{first + number}" for number, kind in enumerate(kinds)]
        names.append(f"__inference_raw_{first + 3}")
        functions = [
            FUNCTION.format(name=name, calls=calls, captured=first + 10)
            for name, calls in zip(names, [names[1], names[2], names[3], ""], strict=True)
        ]
        text = FUNCTIONS.format(functions="".join(sorted(functions)), b=names[1])
        folder.mkdir()
        model = text_format.Parse(text, saved_model_pb2.SavedModel())
        (folder / "saved_model.pb").write_bytes(model.SerializeToString())
        (folder / "fingerprint.pb").write_text("of the bytes as they were")
        canonical.make_canonical(folder)
        assert [path.name for path in folder.iterdir()] == ["saved_model.pb"]
        return (folder / "saved_model.pb").read_bytes()

    found = write(tmp_path / "a", first)
    assert found == write(tmp_path / "b", 55)
    (graph,) = saved_model_pb2.SavedModel.FromString(found).meta_graphs
    calls = {
        function.signature.name: function.node_def[0].attr["f"].func.name
        for function in graph.graph_def.library.function
    }
    assert calls == {
        "__inference_raw_0": "__inference_signature_wrapper_1",
        "__inference_signature_wrapper_1": "__forward_raw_2",
        "__forward_raw_2": "__inference_raw_3",
        "__inference_raw_3": "",
    }
    assert list(graph.object_graph_def.concrete_functions) == ["__inference_signature_wrapper_1"]


def test_tensorflow_still_writes_what_is_made_canonical(tmp_path):
    """`canonical` reads the text of SavedModels, which TensorFlow does not promise to keep."""
    module, network = tf.Module(), small_network()
    module.weights = network.variables
    functions = saved_model.signatures(network, SIZE, "slice")
    tf.saved_model.save(module, str(tmp_path), signatures=functions)
    model = saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())
    names = [each.signature.name for each in model.meta_graphs[0].graph_def.library.function]
    unknown = [name for name in names if not canonical._FUNCTION.fullmatch(f'"{name}"')]
    captured = canonical._CAPTURED.search(text_format.MessageToString(model))
    assert len(names) > 2 and not unknown and captured and (tmp_path / "fingerprint.pb").exists(), (
        f"this TensorFlow writes SavedModels otherwise (functions {unknown or names}): save the "
        "same model twice in one process, see what differs in saved_model.pb as text, and adapt "
        "the patterns in trainer/export/canonical.py until the bytes are the same"
    )


def test_anyone_can_compute_the_digest_of_the_card(exported):
    card = json.loads((exported["slice"] / EXTRA / "model_card.json").read_text())
    command = re.search(r"`(sha256sum .*)` prints", page(exported["slice"]))[1]
    done = subprocess.run(
        command, shell=True, cwd=exported["slice"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == card["digest"]
    assert card["digest"] in page(exported["slice"])


def page(folder):
    return (folder / EXTRA / "model_card.md").read_text()


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_card_tells_how_the_signatures_are_called(scaling, exported, monkeypatch):
    card = json.loads((exported[scaling] / EXTRA / "model_card.json").read_text())
    signatures = tf.saved_model.load(str(exported[scaling])).signatures
    assert card["signatures"].keys() == signatures.keys()
    for name, told in card["signatures"].items():
        takes = signatures[name].structured_input_signature[1]
        gives = signatures[name].structured_outputs
        for values, specs in ((told["takes"], takes), (told["gives"], gives)):
            assert values.keys() == specs.keys()
            for value, spec in specs.items():
                shape = ", ".join(map(str, ["B", *spec.shape[1:]]))
                assert values[value].startswith(f"{spec.dtype.name} [{shape}]")
                assert f"| `{value}` | {values[value]} |" in page(exported[scaling])
    (block,) = re.findall(r"```python\n(.*?)```", page(exported[scaling]), re.DOTALL)
    monkeypatch.chdir(exported[scaling])
    names = {}
    exec(block.replace("\nunit[", "\nresult = unit["), names)
    assert [value.shape[0] for value in names["result"]] == [1, 1, 1]


def test_the_card_says_which_percentile_is_which(exported):
    takes = card.describe_signatures(SIZE, "volume")["raw"]["takes"]
    told = [
        float(re.search(r"the ([\d.]+)th percentile", takes[name])[1]) for name in ("low", "high")
    ]
    assert tuple(told) == PERCENTILES


def test_the_page_says_what_the_card_says(exported):
    card = json.loads((exported["slice"] / EXTRA / "model_card.json").read_text())
    for told in ("intended_use", "not_for", "data_licence"):
        assert card[told] in page(exported["slice"])
    assert "not a medical device" in card["not_for"]
    for row in ("| train | 6 | 24 |", "| psnr | 20 |", "| loss | 0.25 |", "| ssim | 0.5 |"):
        assert row in page(exported["slice"])
    # 3 of the kernel, 4 a channel of the normalization.
    for text in ("15 parameters", "`64,128,256`", "Weights of epoch 2 of 3.", "trained: 3."):
        assert text in page(exported["slice"])
    # The folders of the run are nobody's business.
    assert not {"data_dir", "workdir"} & card["flags"].keys()


def test_a_card_that_lacks_something_gives_no_page_with_gaps():
    with pytest.raises(jinja2.UndefinedError, match="intended_use"):
        card.markdown(ModelCard(name="x", versions={"ixi-autoencoders": "1"}))


@pytest.mark.parametrize(
    ("slices", "padded"),
    [
        ({}, "scanner zeros"),
        ({"padding": "background"}, "the background of the scan"),
        ({"spacing": (2.0, 2.0, 2.0)}, "the background of the scan"),
    ],
)
def test_the_card_says_with_what_slices_for_raw_are_padded(slices, padded, tmp_path):
    config = SliceConfig("tiny", size=SIZE, window=(0, 4), **slices)
    known = {"slices": codec.to_plain(config)}
    untrained.export_network(
        small_network(), tmp_path / "1", "small_resnet", size=SIZE, known=known
    )
    told = model_card.read(tmp_path / "1")
    takes = told.signatures["raw"]["takes"]["slices"]
    assert takes.endswith(f"in scanner units, padded with {padded}")
    assert takes in page(tmp_path / "1") and "pads nothing" in page(tmp_path / "1")
