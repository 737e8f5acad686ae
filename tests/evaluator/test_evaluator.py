"""The evaluator's command line on a small dataset and SavedModels that no code of ours made."""

import base64
import contextlib
import csv
import dataclasses
import html
import importlib.util
import io
import json
import math
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import scipy.ndimage
import skimage.metrics
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_dataset
from browser import browser, see

from evaluator import __main__ as evaluator
from evaluator import models, results, scoring, statistics
from evaluator.models import Model
from evaluator.report import figures, sections
from evaluator.score import COMMAND
from ixi_tfds import config as configs
from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images import metrics
from ixi_tfds.images.metrics import METRICS
from ixi_tfds.system import commands, flags

_DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
_SPEC = importlib.util.spec_from_file_location("galleries", _DOCS / "galleries.py")
galleries = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(galleries)


def export(path, function, *, size=(None, None), name="slices", output="reconstruction"):
    module = tf.Module()
    spec = tf.TensorSpec((None, *size, 1), tf.float32, name=name)
    module.serve = tf.function(lambda x: {output: function(x)}, input_signature=[spec])
    signature = module.serve.get_concrete_function(spec)
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})
    return path


def blur(slices):
    return tf.nn.avg_pool2d(slices, 3, 1, "SAME")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "blur"
    export(folder / "1", blur)
    card = folder / "1" / "assets.extra" / "model_card.json"
    card.parent.mkdir()
    facts = {"ixi_t1/x": {"fingerprint": "abc"}}
    card.write_text(json.dumps({"flags": {"loss": "<mse>"}, "datasets": facts}))
    return folder


@pytest.fixture(scope="module")
def sharper(tmp_path_factory):
    """A better model, exported as the trainer does, with the history of its run."""
    workdir = tmp_path_factory.mktemp("runs") / "<i>sharp"
    folder = export(workdir / "export/small_resnet/1", lambda x: 0.9 * x + 0.1 * blur(x))
    card = folder / "assets.extra" / "model_card.json"
    card.parent.mkdir()
    flags = {"model": "small_resnet", "loss": "mse", "optimizer": "adam", "batch_size": 32}
    card.write_text(json.dumps({"flags": flags}))
    history = "epoch,learning_rate,loss,psnr,val_loss,val_psnr,val_ssim\n"
    (workdir / "history.csv").write_text(history + "1,0.1,0.2,9,0.3,8,0.1\n2,0.1,0.1,9,0.2,9,0.2\n")
    return folder


def arguments(model, data_dir, output_dir, *more):
    return [
        f"--saved_model={model}",
        f"--data_dir={data_dir}",
        "--dataset=ixi_t1/tiny",
        f"--output_dir={output_dir}",
        *more,
    ]


@pytest.fixture(scope="module")
def output(model, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "new"
    assert evaluator.run(arguments(model, data_dir, folder)) == 0
    return folder


@pytest.fixture(scope="module")
def both(model, sharper, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    paths = f"{model},{sharper}"
    assert evaluator.run(arguments(paths, data_dir, folder, "--robustness", "--lesions")) == 0
    return folder


def read_scores(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_an_independent_computation(output, data_dir):
    builder = tfds.builder_from_directory(str(data_dir / "ixi_t1" / "tiny" / "1.0.0"))
    expected = {}
    for example in tfds.as_numpy(builder.as_dataset(split="test")):
        original = example["image"][..., 0] / 255
        inside = scipy.ndimage.uniform_filter(np.ones_like(original), 3, mode="constant")
        copy = scipy.ndimage.uniform_filter(original, 3, mode="constant") / inside
        key = f"{example['subject'].decode()}/{example['slice_index']:03d}"
        _, ssim = skimage.metrics.structural_similarity(
            original,
            copy,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        psnr = 10 * np.log10(1 / np.mean((original - copy) ** 2))
        expected[key] = (psnr, ssim[5:-5, 5:-5].mean(), np.abs(original - copy).mean())
    rows = read_scores(output)
    assert [row["key"] for row in rows] == sorted(expected)
    for row in rows:
        found = [float(row[metric]) for metric in ("psnr", "ssim", "mae")]
        np.testing.assert_allclose(found, expected[row["key"]], atol=1e-4)
    assert rows[0] | {"psnr": "", "ssim": "", "ms_ssim": "", "mae": ""} == {
        "model": "blur/1",
        "key": "IXI909/000",
        "subject": "IXI909",
        "site": "Guys",
        "sex": "female",
        "age": "30.50",
        "slice_index": "0",
        "psnr": "",
        "ssim": "",
        "ms_ssim": "",
        "mae": "",
    }


def test_summary_is_that_of_the_rows(output, data_dir):
    summary = json.loads((output / "summary.json").read_text())
    rows = read_scores(output)
    (entry,) = summary["models"]
    for metric in ("psnr", "ssim", "ms_ssim", "mae"):
        values = np.array([float(row[metric]) for row in rows])
        expected = [values.mean(), np.sqrt(np.mean((values - values.mean()) ** 2))]
        expected += [values.min(), values.max()]
        found = [entry[metric][name] for name in ("mean", "std", "min", "max")]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        by_subject = values.reshape(3, 4).mean(axis=1)
        found = entry["by_subject"][metric]
        assert found["mean"] == pytest.approx(by_subject.mean(), abs=2e-6)
        assert by_subject.min() <= found["low"] + 1e-6 <= found["high"] <= by_subject.max() + 2e-6
    manifest = json.loads((data_dir / "ixi_t1/tiny/1.0.0/manifest.json").read_text())
    assert summary["dataset_fingerprint"] == manifest["fingerprint"]
    assert (entry["model"], summary["split"], summary["std"]) == ("blur/1", "test", "population")
    assert (summary["slices"], summary["subjects"]) == (12, 3)
    assert (summary["ms_ssim_scales"], entry["published"]) == (2, None)
    assert summary["paired_differences"]["rows"] == []


def test_several_models_stand_side_by_side(both, output):
    rows = read_scores(both)
    assert [row["model"] for row in rows] == ["blur/1"] * 12 + ["small_resnet/1"] * 12
    assert rows[:12] == read_scores(output)
    summary = json.loads((both / "summary.json").read_text())
    psnr = np.array([float(row["psnr"]) for row in rows]).reshape(2, 3, 4).mean(axis=2)
    difference, *others = summary["paired_differences"]["rows"]
    assert len(others) == 3
    assert (difference["model"], difference["metric"]) == ("small_resnet/1", "psnr")
    assert difference["mean"] == pytest.approx((psnr[1] - psnr[0]).mean(), abs=2e-6)
    assert 0 < difference["low"] <= difference["mean"] <= difference["high"]
    published = summary["models"][1]["published"]
    assert (published["recipe"], published["psnr_mean"]) == ("small_mse", 37.098689)
    page = (both / "report.html").read_text()
    assert "<td>thesis&#39;s small_mse, published</td><td>37.10</td>" in page
    assert "trained with optimizer adam instead of rmsprop" in page
    assert "validation loss (mse)" in page


def test_robustness_is_written_and_shown(both):
    with (both / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31 + 31 + 30
    clean = [row for row in rows if row["corruption"] == "none"]
    scores = read_scores(both)
    for row in clean:
        psnr = [float(score["psnr"]) for score in scores if score["model"] == row["model"]]
        assert float(row["psnr"]) == pytest.approx(np.mean(psnr), abs=1e-4)
    page = (both / "report.html").read_text()
    assert "zeroed patches: reconstructions" in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:5] == [
        "Scores over all slices",
        "Scores by person",
        "Scores by group",
        "Best, median and worst reconstructions",
        "How the scores spread",
    ]
    assert titles[5:7] == ["Learning", "Robustness"]
    assert titles[-2:] == ["Every person", "What was scored, and with what"]
    assert page.count("against the clean") == 1  # plots say so in pixels


def test_lesions_are_in_the_report_as_the_command_of_their_own_has_them(
    both, model, sharper, data_dir, tmp_path
):
    command = arguments(f"{model},{sharper}", data_dir, tmp_path)
    assert evaluator.run(["anomalies", *command]) == 0
    for name in ("anomalies.csv", "anomalies.json"):
        assert (both / name).read_bytes() == (tmp_path / name).read_bytes()
    page = (both / "report.html").read_text()
    for method in ("blurred input", "intensity"):
        assert f"<td>{method}</td>" in page
    with (both / "anomalies.csv").open() as file:
        first = next(csv.DictReader(file))
    assert f"{float(first['auprc']):.4f}" in page


def test_same_bytes_again_and_same_scores_in_other_batches(output, model, data_dir, tmp_path):
    assert evaluator.run(arguments(model / "1", data_dir, tmp_path / "again")) == 0
    for name in ("scores.csv", "summary.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()
    assert evaluator.run(arguments(model, data_dir, tmp_path / "five", "--batch_size=5")) == 0
    for one, other in zip(read_scores(output), read_scores(tmp_path / "five"), strict=True):
        for name, places in (("psnr", 1e-4), ("ssim", 5e-6), ("ms_ssim", 5e-6), ("mae", 5e-6)):
            assert float(one.pop(name)) == pytest.approx(float(other.pop(name)), abs=places)
        assert one == other
    assert not list(tmp_path.rglob("*.tmp"))


def test_report_stands_alone(output):
    page = (output / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?:|<script|@import|url\(", page)
    images = [source.split(",", 1)[1] for source in sources if "image/png" in source]
    assert len(images) == 6 * len(results.GALLERY) + 4
    for image in images:
        pixels = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(image, validate=True))))
        assert pixels.std() > 0
    for subject in ("IXI909", "IXI910", "IXI911"):
        assert f"<td>{subject}</td>" in page
    assert "&lt;mse&gt;" in page and "<mse>" not in page
    assert "<h1>How well blur/1 reconstructs ixi_t1/tiny</h1>" in page
    # Of one hospital and one age there is nothing to compare.
    assert "By sex" in page and "By site" not in page and "By age" not in page
    assert "<td>datasets.ixi_t1/x.fingerprint</td>" in page


@browser
@pytest.mark.slow
def test_a_browser_shows_the_whole_report(both, tmp_path):
    page = (both / "report.html").read_text()
    (images, broken, sideways), console = see(page, tmp_path / "report.html", width=500)
    assert images == page.count("<img ") >= 6 * 2 * len(results.GALLERY) + 12
    assert (broken, sideways, console) == (0, False, [])


def test_perfect_model_has_finite_statistics(data_dir, tmp_path):
    export(tmp_path / "identity", tf.identity)
    assert evaluator.run(arguments(tmp_path / "identity", data_dir, tmp_path / "out")) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (entry,) = summary["models"]
    assert entry["psnr"] == {"mean": 100.0, "std": 0.0, "min": 100.0, "max": 100.0}
    assert entry["ssim"]["max"] <= 1
    assert entry["slices_at_psnr_cap"] == summary["slices"] == 12
    assert (summary["psnr_cap_db"], entry["mae"]["max"]) == (100, 0)
    assert entry["model"] == "identity"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_split(data_dir):
    split = scoring.open_split(data_dir, "ixi_t1/tiny", "test")
    model = Model("same", pathlib.Path(), "", ModelCard(), lambda slices: slices, (None, None))
    side, slices = 128, 2000

    class Endless:
        """A builder of as many slices as are asked for, made when they are read."""

        info = split.builder.info

        def as_dataset(self, *, batch_size, read_config, **_):
            # With it, TFDS would keep a split as small as this one in memory.
            assert not read_config.try_autocache
            one = next(iter(split.builder.as_dataset(split="test").take(1)))
            return (
                tf.data.Dataset.range(slices)
                .map(
                    lambda number: {
                        **one,
                        "image": tf.cast(tf.fill((side, side, 1), number), "uint8"),
                    }
                )
                .batch(batch_size)
            )

    def resident():
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    endless = dataclasses.replace(split, size=(side, side), builder=Endless())
    scoring.score_split(model, endless, batch_size=50)
    before = resident()
    assert len(scoring.score_split(model, endless, batch_size=50)) == slices
    # The slices themselves are 33 MB as bytes, 131 MB as the floats that are judged.
    assert resident() - before < 20e6


def test_highest_version_is_taken(data_dir, tmp_path):
    for version in ("2", "10"):
        export(tmp_path / "models" / version, tf.identity)
    assert models.load_model(tmp_path / "models").name == "models/10"


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["/w/a/export/small/1", "/w/b/export/big/1"], ["small/1", "big/1"]),
        (["/w/a/export/small/1", "/w/b/export/small/1"], ["a", "b"]),
        (["/w/a/small/1", "/w/a/small/2"], ["small/1", "small/2"]),
        (["/a/x/small/1", "/b/x/small/1", "/a/y/small/1"], None),
    ],
)
def test_models_get_short_names_that_differ(folders, expected):
    paths = [pathlib.Path(folder) for folder in folders]
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    assert models.different_names(names, paths) == (expected or folders)


def refuse(arguments, capsys):
    assert evaluator.run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (message,) = [line for line in lines if not line.startswith("warning: ")]
    assert message.startswith("error: ")
    return message


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--saved_model=nowhere", "no such folder"),
        ("--saved_model={data_dir}", "no SavedModel there"),
        ("--saved_model={model},{model}/1", "is named twice"),
        ("--saved_model={model},nowhere", "--saved_model=nowhere: no such folder"),
        ("--workdir={model},{model}", "one for each of the 1 models"),
        ("--workdir=nowhere", "--workdir=nowhere: no such folder"),
        ("--data_dir=nowhere", "no such folder"),
        ("--dataset=ixi_t1/other", "which has ixi_t1/tiny"),
        ("--split=holdout", "has test, train, validation"),
        ("--batch_size=0", "must be at least 1"),
        ("--batch_size=many", "batch_size"),
        ("--output_dir={model}/1/saved_model.pb", "--output_dir"),
        ("--output_dir=", "--output_dir is missing"),
        ("--no_such_flag=1", "no_such_flag"),
        ("stray", "'stray'"),
    ],
)
def test_bad_flags_get_one_line(flag, message, model, data_dir, tmp_path, capsys):
    flag = flag.format(data_dir=data_dir, model=model)
    assert message in refuse([*arguments(model, data_dir, tmp_path), flag], capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (64, 64)}, "64x64, and those of ixi_t1/tiny are 32x32"),
        ({"name": "images"}, "no signature 'serving_default'"),
        ({"output": "copy"}, "no signature 'serving_default'"),
        ({"function": lambda x: tf.repeat(x, 3, -1)}, "not grey float32 slices"),
        ({"function": lambda x: x / 0}, "model gives values that are not finite for slice IXI9"),
    ],
)
def test_unfit_models_get_one_line(options, message, data_dir, tmp_path, capsys):
    export(tmp_path / "model", **({"function": tf.identity} | options))
    output_dir = tmp_path / "out"
    assert message in refuse(arguments(tmp_path / "model", data_dir, output_dir), capsys)
    assert not list(output_dir.iterdir())


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_model_that_gives_no_numbers_gets_one_line(wrong, everywhere, data_dir, tmp_path, capsys):
    """In all slices, or in a single pixel of a single slice, which is named."""
    split = scoring.open_split(data_dir, "ixi_t1/tiny", "test")
    means = {
        key: float(image.mean())
        for batch in scoring.read_batches(split, 12)
        for key, image in zip(
            scoring.batch_keys(batch), batch["image"].numpy() / np.float32(255), strict=True
        )
    }
    key = max(means, key=means.get)
    limit = np.mean(sorted(means.values())[-2:])
    first = np.zeros((1, 32, 32, 1), bool)
    first[0, 5, 6] = True

    def give(slices):
        brightest = tf.reduce_mean(slices, (1, 2, 3), keepdims=True) > limit
        return tf.where(everywhere | (brightest & first), wrong, slices)

    export(tmp_path / "unsound", give, size=(32, 32))
    message = refuse(arguments(tmp_path / "unsound", data_dir, tmp_path / "out"), capsys)
    said = re.fullmatch(r"error: unsound gives values that are not finite for slice (\S+)", message)
    assert said[1] in means if everywhere else said[1] == key
    assert not list((tmp_path / "out").iterdir())


def test_damaged_model_gets_one_line(data_dir, tmp_path, capsys):
    (export(tmp_path / "model", tf.identity) / "saved_model.pb").write_bytes(b"not a model")
    message = refuse(arguments(tmp_path / "model", data_dir, tmp_path / "out"), capsys)
    assert "cannot be loaded" in message


def flip(folder):
    path = folder / "ixi_t1-test.tfrecord-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = folder / "ixi_t1-test.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1000])


def garble_info(folder):
    (folder / "dataset_info.json").write_text("garbage")


def garble_old_info(folder):
    """In a dataset whose manifest does not tell of it, as earlier versions made them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    garble_info(folder)
    del manifest["metadata"], manifest["digest"], manifest["shard_bytes"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "flag", "message"),
    [
        (flip, "--verify=full", "ixi_t1-test.tfrecord-00001-of-00002: is damaged: record"),
        (flip, "--verify=quick", "a shard is damaged (corrupted record"),
        (cut, "--verify=quick", "bytes, and"),
        (garble_info, "--verify=quick", "dataset_info.json: is not what was written"),
        (garble_old_info, "--verify=full", "features.json is missing or damaged"),
    ],
)
def test_a_damaged_dataset_gets_one_line(damage, flag, message, model, data_dir, tmp_path, capsys):
    data = shutil.copytree(data_dir, tmp_path / "data")
    damage(data / "ixi_t1/tiny/1.0.0")
    said = refuse([*arguments(model, data, tmp_path / "out"), flag], capsys)
    assert message in said and "Traceback" not in said
    assert not list((tmp_path / "out").iterdir())


def test_flags_are_read_without_tensorflow():
    code = "import sys, evaluator.__main__; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def scores_of(psnr, model="m", **more):
    """Scores of slices, by key, in the columns that `scoring.score_split` gives."""
    facts = {"model": model, "key": list(psnr), "subject": "IXI901", "site": "", "sex": "unknown"}
    facts |= {"age": float("nan"), "slice_index": 0}
    scores = {"psnr": list(psnr.values()), "ssim": 0.9, "ms_ssim": 0.9, "mae": 0.1}
    return pd.DataFrame(facts | scores | more)


def test_gallery_spreads_over_the_order_of_psnr():
    scores = scores_of({f"{place:03d}": float(place) for place in range(101)})
    chosen = results.gallery(scores[::-1])
    assert chosen == {"worst": "000", "median": "050", "best": "100"}
    assert list(results.gallery(scores[:2])) == ["worst", "best"]
    assert list(results.gallery(scores[:1])) == ["worst"]


def test_unknown_age_is_an_empty_cell_and_still_a_group():
    scores = scores_of({"IXI901/000": 30.0})
    assert results.scores_csv(scores).splitlines()[1].split(",")[3:7] == ["", "unknown", "", "0"]
    groups = statistics.by_group(scores, ["subject", "age"])
    assert len(groups) == 1


def test_zoom_stays_inside_and_holds_the_worst_place():
    residual = np.zeros((48, 60))
    residual[2:6, 55:59] = -1
    place = figures.worst_place(residual)
    assert 0 <= place[0] <= 6 and 54 <= place[1] <= 59
    zoomed = figures.zoom(residual, place)
    assert zoomed.shape == (16, 20)
    assert zoomed.sum() == residual.sum()


def test_slices_are_shown_with_superior_up(tmp_path):
    head = np.zeros((32, 32))
    head[:, -4:] = 1  # the last columns are the most superior
    galleries.write_png(tmp_path / "head.png", galleries.slice_grid({"a": head}, columns=1))
    pixels = np.asarray(PIL.Image.open(tmp_path / "head.png").convert("L")).astype(float)
    dark_rows = np.flatnonzero((pixels < 10).mean(axis=1) > 0.5)
    assert dark_rows.mean() > len(pixels) / 2


MIXED = configs.SliceConfig("mixed", in_plane=(24, 40), size=(24, 40), window=(3, 6))
PEOPLE = {
    "IXI902": ("Guys", "male", 50.0, 1),
    "IXI903": ("HH", "female", 51.0, 2),
    "IXI904": ("Guys", "female", 30.5, 3),
    "IXI905": ("HH", "male", 40.0, 2),
    "IXI906": ("", "unknown", float("nan"), 1),
    "IXI907": ("Guys", "male", 71.25, 3),
}
"""Hospital, sex, age and number of slices: those of 904 on are the test split."""

RECONSTRUCTIONS = {
    "wild/1": lambda image: 1.4 * image - 0.2,  # beyond [0, 1] on both sides
    "same/1": lambda image: image,
    "blur/1": lambda image: (
        scipy.ndimage.uniform_filter(image, 3, mode="constant")
        / scipy.ndimage.uniform_filter(np.ones_like(image), 3, mode="constant")
    ),
}
"""What the models of `mixed` give, worked out without TensorFlow."""


@dataclasses.dataclass
class Run:
    """What one run over three models left behind."""

    folder: pathlib.Path
    models: pathlib.Path
    data_dir: pathlib.Path
    printed: str
    learning: list

    @property
    def facts(self):
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def page(self):
        return (self.folder / "report.html").read_text()


def run_losses(number):
    """A history, of other numbers for every run."""
    lines = [f"{epoch},{number}.{epoch},{number}.5{epoch},{number}{epoch}" for epoch in (1, 2, 3)]
    return "\n".join(["epoch,loss,val_loss,val_psnr", *lines]) + "\n"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three models on slices that are not square, of people who differ in all that is known."""
    data_dir = tmp_path_factory.mktemp("mixed")

    def examples(subject, config, plain=tiny_dataset.slice_examples):
        site, sex, age, slices = PEOPLE.get(subject, ("Guys", "female", 20.0, 3))
        facts = {"site": site, "sex": sex, "age": age}
        return [example | facts for example in plain(subject, config)[:slices]]

    models = tmp_path_factory.mktemp("three")
    export(models / "wild/1", lambda x: 1.4 * x - 0.2)
    export(models / "same/1", tf.identity)
    export(models / "blur/1", blur)
    cards = {
        "wild": {"model": "resnet50", "loss": "dssim", "optimizer": "adam", "batch_size": 8},
        "blur": {"model": "small_resnet", "loss": "mse", "batch_size": 32},
    }
    for name, told in cards.items():
        (models / name / "1/assets.extra").mkdir()
        card = models / name / "1/assets.extra/model_card.json"
        card.write_text(json.dumps({"flags": told, "preprocessing_version": "1.0.0"}))
    for number, name in enumerate(("a", "b", "c"), start=1):
        (models / name).mkdir()
        if name != "b":
            (models / name / "history.csv").write_text(run_losses(number))
    learning = []

    def learning_curves(histories, column, label, *, models, plain=figures.learning_curves):
        learning.append(({name: list(each[column]) for name, each in histories.items()}, label))
        return plain(histories, column, label, models=models)

    folder = tmp_path_factory.mktemp("mixed_scores")
    command = [f"--saved_model={models}/wild,{models}/same,{models}/blur", "--batch_size=4"]
    command += [f"--data_dir={data_dir}", "--dataset=ixi_t1/mixed", f"--output_dir={folder}"]
    command += [f"--workdir={models}/a,{models}/b,{models}/c"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(tiny_dataset, "slice_examples", examples)
        subjects = {"train": 1, "validation": 2, "test": 4}
        tiny_dataset.write_tiny_dataset(data_dir, MIXED, subjects=subjects)
        patch.setattr(figures, "learning_curves", learning_curves)
        assert evaluator.run(command) == 0
    return Run(folder, models, data_dir, printed.getvalue(), learning)


@pytest.fixture(scope="module")
def originals(mixed):
    """The test slices by key, uint8 [H, W], as TFDS reads them."""
    builder = tfds.builder_from_directory(str(mixed.data_dir / "ixi_t1/mixed/1.0.0"))
    return {
        f"{example['subject'].decode()}/{example['slice_index']:03d}": example["image"][..., 0]
        for example in tfds.as_numpy(builder.as_dataset(split="test"))
    }


def expected_scores(image, copy):
    _, ssim = skimage.metrics.structural_similarity(
        image,
        copy,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    error = np.mean((image - copy) ** 2)
    weights = (0.0448 / 0.3304, 0.2856 / 0.3304)
    pair = [each[..., None].astype(np.float32) for each in (image, copy)]
    ms_ssim = float(tf.image.ssim_multiscale(*pair, 1.0, power_factors=weights))
    psnr = 10 * np.log10(1 / error) if error else 100
    return psnr, ssim[5:-5, 5:-5].mean(), ms_ssim, np.abs(image - copy).mean()


def test_every_row_is_that_of_its_model_slice_and_person(mixed, originals):
    assert len(originals) == 9
    rows = read_scores(mixed.folder)
    order = [(name, key) for name in RECONSTRUCTIONS for key in sorted(originals)]
    assert [(row["model"], row["key"]) for row in rows] == order
    for row in rows:
        site, sex, age, _ = PEOPLE[row["subject"]]
        known = "" if np.isnan(age) else f"{age:.2f}"
        assert [row["site"], row["sex"], row["age"]] == [site, sex, known]
        assert row["key"] == f"{row['subject']}/{int(row['slice_index']):03d}"
        image = originals[row["key"]] / 255
        expected = expected_scores(image, RECONSTRUCTIONS[row["model"]](image))
        found = [float(row[metric]) for metric in ("psnr", "ssim", "ms_ssim", "mae")]
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_each_model_has_statistics_of_its_own(mixed):
    rows = pd.DataFrame(read_scores(mixed.folder)).astype(dict.fromkeys(METRICS, float))
    facts = mixed.facts
    assert [entry["model"] for entry in facts["models"]] == list(RECONSTRUCTIONS)
    assert [entry["slices_at_psnr_cap"] for entry in facts["models"]] == [0, 9, 0]
    recipes = [(entry["published"] or {}).get("recipe") for entry in facts["models"]]
    assert recipes == ["resnet50_dssim", None, "small_mse"]
    for entry in facts["models"]:
        mine = rows[rows["model"] == entry["model"]]
        for metric in METRICS:
            values = mine[metric].to_numpy()
            expected = [values.mean(), values.std(), values.min(), values.max()]
            found = [entry[metric][name] for name in ("mean", "std", "min", "max")]
            np.testing.assert_allclose(found, expected, atol=2e-6)
            people = mine.groupby("subject")[metric].mean()
            found = entry["by_subject"][metric]
            assert found["mean"] == pytest.approx(people.mean(), abs=2e-6)
            assert people.min() - 2e-6 <= found["low"] <= found["mean"] + 2e-6
            assert found["mean"] - 2e-6 <= found["high"] <= people.max() + 2e-6
        folder = mixed.models / entry["model"]
        assert entry["model_sha256"] == model_card.digest(folder)
    people = rows.groupby(["model", "subject"])[list(METRICS)].mean()
    differences = facts["paired_differences"]
    assert differences["reference"] == "wild/1"
    wanted = [(name, metric) for name in ("same/1", "blur/1") for metric in METRICS]
    assert [(row["model"], row["metric"]) for row in differences["rows"]] == wanted
    for row in differences["rows"]:
        apart = (people.loc[row["model"]] - people.loc["wild/1"])[row["metric"]]
        assert row["mean"] == pytest.approx(apart.mean(), abs=3e-6)
        assert apart.min() - 3e-6 <= row["low"] <= row["high"] <= apart.max() + 3e-6
        assert row["subjects"] == 4
    assert (facts["dataset"], facts["dataset_version"]) == ("ixi_t1/mixed", "1.0.0")
    assert (facts["slice_size"], facts["slices"], facts["subjects"]) == ([24, 40], 9, 4)
    assert (facts["intervals"]["confidence"], facts["intervals"]["draws"]) == (0.95, 2000)
    assert (facts["psnr_cap_db"], facts["ms_ssim_scales"]) == (100, 2)


def test_the_statistics_are_printed(mixed):
    blocks = re.split(r"\n(?=\S+/1\n)", mixed.printed)
    assert "ixi_t1/mixed, test: 9 slices of 4 subjects" in blocks[0]
    for block, entry in zip(blocks[1:], mixed.facts["models"], strict=True):
        name, titles, *lines = block.splitlines()
        assert (name, titles.split()) == (entry["model"], ["mean", "std", "min", "max"])
        for line, metric in zip(lines, METRICS, strict=False):
            expected = [f"{value:.6f}" for value in entry[metric].values()]
            assert line.split() == [metric, *expected]
    assert f"Report: {mixed.folder / 'report.html'}" in mixed.printed


def test_the_split_asked_for_is_scored(mixed, tmp_path):
    where = [f"--saved_model={mixed.models}/blur", f"--data_dir={mixed.data_dir}"]
    where += ["--dataset=ixi_t1/mixed", f"--output_dir={tmp_path}", "--split=validation"]
    assert evaluator.run(where) == 0
    keys = [row["key"] for row in read_scores(tmp_path)]
    assert keys == ["IXI902/003", "IXI903/003", "IXI903/004"]
    facts = json.loads((tmp_path / "summary.json").read_text())
    assert (facts["split"], facts["slices"], facts["subjects"]) == ("validation", 3, 2)
    assert "3 slices of 2 people, the validation split" in (tmp_path / "report.html").read_text()


def tables(page):
    """The tables of a page by their captions, each a list of rows of cells."""
    found = {}
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        caption = re.search(r"<caption>(.*?)</caption>", table)
        lines = re.findall(r"<tr>(.*?)</tr>", table)
        rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]
        title = html.unescape(caption[1]) if caption else rows[0][0]
        found[title] = [[html.unescape(cell) for cell in row] for row in rows]
    return found


def test_a_new_metric_is_one_entry_in_the_table(model, data_dir, tmp_path, monkeypatch, capsys):
    def rmse(a, b):
        return 100 * tf.sqrt(tf.reduce_mean(tf.math.squared_difference(a, b), axis=(1, 2, 3)))

    entry = metrics.Metric(rmse, "RMSE", unit="%", places=1, better="lower")
    monkeypatch.setitem(METRICS, "rmse", entry)
    assert evaluator.run(arguments(model, data_dir, tmp_path)) == 0
    rows = read_scores(tmp_path)
    for row in rows:
        assert float(row["psnr"]) == pytest.approx(40 - 20 * np.log10(float(row["rmse"])), abs=1e-3)
    (told,) = json.loads((tmp_path / "summary.json").read_text())["models"]
    values = [float(row["rmse"]) for row in rows]
    assert told["rmse"]["mean"] == pytest.approx(np.mean(values), abs=2e-6)
    means = told["by_subject"]["rmse"]
    assert means["low"] < means["mean"] < means["high"]
    shown = tables((tmp_path / "report.html").read_text())
    assert shown["RMSE (%), lower is better"][1][1] == f"{np.mean(values):.1f}"
    for caption in ("Mean over people [95% interval]", "By sex", "Person"):
        assert shown[caption][0][-1] == "RMSE (%)"
    assert re.search(r"^rmse .*\d", capsys.readouterr().out, re.MULTILINE)


def test_the_report_begins_with_the_best_model(mixed):
    best = mixed.facts["models"][1]
    lead = (
        "9 slices of 4 people, the test split: highest on average is same/1 with PSNR 100.00 dB, "
        f"SSIM {best['ssim']['mean']:.4f} and a mean absolute error of 0.0000."
    )
    assert lead in mixed.page
    assert "How well 3 models reconstruct ixi_t1/mixed" in mixed.page
    assert "9 values reached that" in mixed.page
    assert "MS-SSIM has 2 of its five scales" in mixed.page
    assert "PSNR is cut off at 100 dB" in mixed.page
    (notes,) = [
        note
        for note in sections.scores_section(mixed.facts | {"ms_ssim_scales": 5}).notes
        if "scales" in note
    ]
    assert "MS-SSIM has all five scales." in notes


def test_published_rows_stand_in_their_columns(mixed):
    shown = tables(mixed.page)
    for title, metric, places, thesis in (
        ("PSNR (dB), higher is better", "psnr", 2, (33.458456, 2.372063, 29.549638, 39.737773)),
        ("SSIM, higher is better", "ssim", 4, (0.98632, 0.003356, 0.977293, 0.994523)),
        ("MAE, lower is better", "mae", 4, None),
    ):
        header, *rows = shown[title]
        assert header == ["", "mean", "std", "min", "max"]
        mine = {row[0]: row[1:] for row in rows}
        for entry in mixed.facts["models"]:
            values = [entry[metric][name] for name in header[1:]]
            assert mine.pop(entry["model"]) == [f"{value:.{places}f}" for value in values]
        if thesis:
            expected = [f"{value:.{places}f}" for value in thesis]
            assert mine.pop("thesis's resnet50_dssim, published") == expected
            assert list(mine) == ["thesis's small_mse, published"]
        else:
            assert mine == {}


def test_intervals_and_differences_in_the_report_are_those_of_the_summary(mixed):
    shown, facts = tables(mixed.page), mixed.facts
    places = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "mae": 4}
    header, *rows = shown["Mean over people [95% interval]"]
    assert header == ["", "PSNR (dB)", "SSIM", "MS-SSIM", "MAE"]
    for row, entry in zip(rows, facts["models"], strict=True):
        cells = [
            "{:.{p}f} [{:.{p}f}, {:.{p}f}]".format(
                *(entry["by_subject"][metric][name] for name in ("mean", "low", "high")), p=digits
            )
            for metric, digits in places.items()
        ]
        assert row == [entry["model"], *cells]
    header, *rows = shown["Minus wild/1, on the same people [95% interval]"]
    cells = [
        "{:+.{p}f} [{:+.{p}f}, {:+.{p}f}]".format(
            row["mean"], row["low"], row["high"], p=places[row["metric"]]
        )
        for row in facts["paired_differences"]["rows"]
    ]
    assert rows == [["same/1", *cells[:4]], ["blur/1", *cells[4:]]]


def means_of(mixed, column):
    """Mean of each metric over the slices by a column and model, as the report writes them."""
    rows = pd.DataFrame(read_scores(mixed.folder)).astype(dict.fromkeys(METRICS, float))
    places = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "mae": 4}
    for (name, model), group in rows.groupby([column, "model"]):
        means = [f"{group[metric].mean():.{digits}f}" for metric, digits in places.items()]
        yield name, model, group, means


def test_people_stand_in_the_order_of_their_psnr(mixed):
    header, *rows = tables(mixed.page)["Person"]
    titles = ["Person", "Site", "Sex", "Age", "Model", "Slices", "PSNR (dB)", "SSIM", "MS-SSIM"]
    assert header == [*titles, "MAE"]
    expected, hardness = {}, {}
    for subject, model, group, means in means_of(mixed, "subject"):
        site, sex, age, slices = PEOPLE[subject]
        age = "unknown" if np.isnan(age) else f"{age:.0f}"
        facts = [site or "unknown", sex, age, model, str(slices)]
        expected[subject, model] = [subject, *facts, *means]
        hardness.setdefault(subject, []).append(group["psnr"].mean())
    order = sorted(hardness, key=lambda subject: np.mean(hardness[subject]))
    assert list(dict.fromkeys(row[0] for row in rows)) == order
    assert sorted(rows) == sorted(expected.values())


def test_groups_in_the_report_hold_their_people(mixed):
    shown = tables(mixed.page)
    people = {"Guys": ("2", "6"), "HH": ("1", "2"), "unknown": ("1", "1")}
    header, *rows = shown["By site"]
    titles = ["Site", "Model", "People", "Slices", "PSNR (dB)", "SSIM", "MS-SSIM", "MAE"]
    assert header == titles
    expected = [
        [site or "unknown", model, *people[site or "unknown"], *means]
        for site, model, _, means in means_of(mixed, "site")
    ]
    assert sorted(rows) == sorted(expected)
    assert [row[:4:3] for row in shown["By sex"][1::3]] == [
        ["female", "3"],
        ["male", "5"],
        ["unknown", "1"],
    ]
    assert [row[:4:2] for row in shown["By age"][1::3]] == [
        ["under 40", "1"],
        ["40 to 59", "1"],
        ["60 and over", "1"],
        ["unknown", "1"],
    ]


def test_the_report_tells_what_was_scored(mixed):
    shown, facts = tables(mixed.page), mixed.facts
    told = dict(shown["Dataset"])
    assert told["Dataset"] == "ixi_t1/mixed, version 1.0.0"
    assert told["Split"] == "test: 9 slices of 4 people"
    assert told["Size of its slices"] == "24 x 40"
    assert told["Dataset's fingerprint"] == facts["dataset_fingerprint"]
    for entry in facts["models"]:
        digest = model_card.digest(mixed.models / entry["model"])
        assert told[f"SHA-256 of {entry['model']}"] == digest
    header, *rows = shown["The models' own cards"]
    assert header == ["", "wild/1", "blur/1"]
    assert {row[0]: row[1:] for row in rows} == {
        "flags.model": ["resnet50", "small_resnet"],
        "flags.loss": ["dssim", "mse"],
        "flags.optimizer": ["adam", ""],
        "flags.batch_size": ["8", "32"],
        "preprocessing_version": ["1.0.0", "1.0.0"],
    }


def pictures(page):
    """Caption and panels of each figure of slices, by their labels, as arrays."""
    for caption, panels in re.findall(
        r'<figcaption>(.*?)</figcaption>\s*<div class="panels slices">(.*?)</figure>',
        page,
        re.DOTALL,
    ):
        images = re.findall(r'alt="(.*?)" src="data:image/png;base64,(.*?)"', panels)
        decoded = {
            html.unescape(label): np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(png))))
            for label, png in images
        }
        yield html.unescape(caption), decoded


def places_of(crop, image):
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    return np.argwhere((windows == crop).all(axis=(2, 3)))


def test_pictures_show_the_slices_that_their_captions_name(mixed, originals):
    rows = pd.DataFrame(read_scores(mixed.folder)).astype({"psnr": float, "ssim": float})
    ranked = rows.groupby("key")["psnr"].mean().sort_values().index
    keys = {"Worst": ranked[0], "Median": ranked[4], "Best": ranked[-1]}
    scores = rows.set_index(["key", "model"])
    shown = dict(pictures(mixed.page))
    images = [originals[key] / 255 for key in keys.values()]
    residuals = [image - give(image) for image in images for give in RECONSTRUCTIONS.values()]
    limit = np.percentile(np.abs(residuals), 99.5)
    assert f"saturate at \u00b1{limit:.3f}." in mixed.page
    expected = []
    for name, key in keys.items():
        for model, reconstruct in RECONSTRUCTIONS.items():
            row = scores.loc[(key, model)]
            caption = f"{name}: {key}, {model}, PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}"
            expected.append(caption)
            panels, image = shown[caption], originals[key] / 255
            # Stored columns run to superior, which is up.
            np.testing.assert_array_equal(panels["original"], np.rot90(originals[key]))
            copy = np.clip(np.rot90(reconstruct(image)), 0, 1)
            np.testing.assert_allclose(panels["reconstruction"], 255 * copy, atol=0.6)
            residual = np.rot90(image - reconstruct(image))
            colours = panels["residual"].astype(int)
            far = np.abs(residual) > 0.5 * np.abs(residual).max()
            # Red where the reconstruction is too dark, blue where it is too bright.
            redder = np.sign(colours[..., 0] - colours[..., 2])
            np.testing.assert_array_equal(redder[far], np.sign(residual[far]))
            # One scale of colours for all of them.
            scale = matplotlib.colormaps["RdBu_r"](np.clip(residual / (2 * limit) + 0.5, 0, 1))
            np.testing.assert_allclose(colours, 255 * scale[..., :3], atol=6)
            zoomed = panels["original, zoom"]
            assert zoomed.shape == (13, 8)
            ((row, column),) = places_of(zoomed, panels["original"])
            inside = np.s_[row : row + 13, column : column + 8]
            for label in ("reconstruction", "residual"):
                np.testing.assert_array_equal(panels[f"{label}, zoom"], panels[label][inside])
    assert list(shown) == expected


def test_learning_curves_are_those_of_the_run_of_each_model(mixed):
    """The second model has no history, and the runs are of two losses."""
    wild, blurred = ([float(f"{run}.{n}") for n in (1, 2, 3)] for run in (1, 3))
    wild_val, blurred_val = ([float(f"{run}.5{n}") for n in (1, 2, 3)] for run in (1, 3))
    assert mixed.learning == [
        ({"wild/1": wild_val}, "validation loss (dssim)"),
        ({"wild/1": wild}, "training loss (dssim)"),
        ({"blur/1": blurred_val}, "validation loss (mse)"),
        ({"blur/1": blurred}, "training loss (mse)"),
        ({"wild/1": [11, 12, 13], "blur/1": [31, 32, 33]}, "validation PSNR (dB)"),
    ]
    for _, label in mixed.learning:
        assert f'alt="{label}"' in mixed.page


@pytest.fixture
def drawn(monkeypatch):
    """Has the functions that draw give the figure itself, to be looked at before it is pixels."""
    monkeypatch.setattr(figures, "_png", lambda figure: figure)


def test_plots_show_the_scores_of_each_model(drawn):
    frame = pd.DataFrame(
        {
            "model": ["b"] * 4 + ["a"] * 4,
            "key": list("wxyz") * 2,
            "slice_index": [5, 5, 6, 6] * 2,
            "psnr": [20.0, 20, 21, 25, 30, 31, 32, 39],
        }
    )
    (axes,) = figures.histogram(frame, "psnr").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PSNR (dB)", "slices")
    handles, names = axes.get_legend_handles_labels()
    assert names == ["b, mean 21.5", "a, mean 33"]
    # Ten bins of 1.9 dB from 20 on.
    for patch, counts in zip(
        handles, ([3, 0, 1, *[0] * 7], [*[0] * 5, 2, 1, 0, 0, 1]), strict=True
    ):
        edges, heights = patch.get_xy()[1:-1:2, 0], patch.get_xy()[1:-1:2, 1]
        np.testing.assert_allclose(edges, 20 + 1.9 * np.arange(10))
        np.testing.assert_array_equal(heights, counts)
    (axes,) = figures.by_slice_index(frame, "psnr").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("slice index, left to right", "PSNR (dB)")
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"b": [[5, 20], [6, 23]], "a": [[5, 30.5], [6, 35.5]]}
    dots = [each.get_offsets().tolist() for each in axes.collections]
    assert dots == [
        [[5, 20], [5, 20], [6, 21], [6, 25]],
        [[5, 30], [5, 31], [6, 32], [6, 39]],
    ]


def test_learning_curves_are_drawn_against_the_epoch(drawn):
    histories = {
        "b": pd.DataFrame({"epoch": [1, 2], "val_loss": [0.4, 0.2], "val_psnr": [20, 21]}),
        "c": pd.DataFrame({"epoch": [1, 3], "val_loss": [0.5, 0.3], "val_psnr": [22, 23]}),
    }
    (loss,) = figures.learning_curves(histories, "val_loss", "x", models=["a", "b", "c"]).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines == {"b": [[1, 0.4], [2, 0.2]], "c": [[1, 0.5], [3, 0.3]]}
    assert (loss.get_yscale(), loss.get_xlabel(), loss.get_ylabel()) == ("log", "epoch", "x")
    (psnr,) = figures.learning_curves(histories, "val_psnr", "y", models=["a", "b", "c"]).axes
    assert psnr.get_yscale() == "linear"
    # A model has one colour in all plots, those without its curve included.
    (alone,) = figures.learning_curves({"c": histories["c"]}, "val_loss", "x", models="abc").axes
    assert [line.get_color() for line in alone.lines] == [loss.lines[1].get_color()]


def test_each_model_in_a_workdir_has_the_history_of_that_run(tmp_path):
    models = []
    for number, run in enumerate("ab", start=1):
        folder = tmp_path / run / "export/small/1"
        folder.mkdir(parents=True)
        (tmp_path / run / "history.csv").write_text(run_losses(number))
        models.append(Model(run, folder, "", ModelCard(), None, (None, None)))
    for workdirs in ((), (tmp_path / "a", tmp_path / "b")):
        found = sections.find_histories(models, workdirs)
        assert list(found["a"]["loss"]) == [1.1, 1.2, 1.3]
        assert list(found["b"]["loss"]) == [2.1, 2.2, 2.3]
    exchanged = sections.find_histories(models, (tmp_path / "b", tmp_path / "a"))
    assert list(exchanged["a"]["loss"]) == [2.1, 2.2, 2.3]
    # Where no run of ours left them, or what is there is no history, none is shown.
    (tmp_path / "a/history.csv").write_text("epoch,loss\n1,0.5\n")
    moved = Model("c", tmp_path / "b/export/small", "", ModelCard(), None, (None, None))
    assert list(sections.find_histories([*models, moved], ())) == ["b"]


def test_a_gallery_shows_what_it_says():
    dark, bright = np.full((4, 6), 0.25), np.full((4, 6), 0.5)
    bright[0, 5] = 1  # anterior and superior: above on the left
    figure = galleries.reconstruction_gallery({"one": (bright, dark), "_two": (dark, bright)})
    original, copy, residual = figure.axes[:3]
    titles = [axes.get_title() for axes in (original, copy, residual)]
    assert titles == ["original", "reconstruction", "residual"]
    assert [axes.get_ylabel() for axes in figure.axes[:6:3]] == ["one", " _two"]
    np.testing.assert_array_equal(original.images[0].get_array(), np.rot90(bright))
    assert original.images[0].get_array()[0, 0] == 1
    np.testing.assert_array_equal(copy.images[0].get_array(), np.rot90(dark))
    np.testing.assert_array_equal(residual.images[0].get_array(), np.rot90(bright - dark))
    assert residual.images[0].get_clim() == (-0.75, 0.75)
    assert original.images[0].get_clim() == copy.images[0].get_clim() == (0, 1)
    assert figures.residual_limit([(dark, dark)]) == 1e-3


def test_a_comparison_shows_the_slice_once_and_residuals_below_their_reconstructions():
    slice_, made = np.full((4, 6), 0.5), {"one": np.full((4, 6), 0.25), "_two": np.eye(4, 6)}
    slice_[0, 5] = 1
    figure = galleries.comparison_gallery(slice_, made, columns=3)
    above, below = figure.axes[:3], figure.axes[3:6]
    assert [axes.get_title() for axes in above] == ["original", "one", " _two"]
    for axes, image in zip(above, (slice_, *made.values()), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), np.rot90(image))
    assert not below[0].images
    for axes, image in zip(below[1:], made.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), np.rot90(slice_ - image))
        limit = np.percentile(np.abs([slice_ - made["one"], slice_ - made["_two"]]), 99.5)
        assert axes.images[0].get_clim() == pytest.approx((-limit, limit))


def test_a_grid_shows_each_slice_under_its_title():
    slices = {f"slice {n}": np.arange(12).reshape(3, 4) * n for n in range(1, 6)}
    axes = galleries.slice_grid(slices, columns=4).axes
    assert len(axes) == 8
    assert [each.get_title() for each in axes] == [*slices, "", "", ""]
    for each, image in zip(axes, slices.values(), strict=False):
        np.testing.assert_array_equal(each.images[0].get_array(), np.rot90(image))
        assert each.images[0].get_clim() == (0, image.max())


def test_an_outline_is_the_edge_of_its_mask():
    image, mask = np.full((9, 12), 0.4), np.zeros((9, 12), bool)
    mask[2:7, 3:9] = True
    edge = mask.copy()
    edge[3:6, 4:8] = False
    shown = np.asarray(PIL.Image.open(io.BytesIO(figures.outlined_png(image, mask))))
    expected = np.full((9, 12, 3), 102)
    expected[edge] = (0xD5, 0x5E, 0x00)
    np.testing.assert_array_equal(shown, np.rot90(expected))


def test_precision_is_drawn_against_recall(drawn):
    lines = {"m": (np.array([0, 0.5, 1]), np.array([1, 0.75, 0.25]))}
    (axes,) = figures.precision_recall("lesions", lines, chance=0.1).axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "lesions",
        "recall",
        "precision",
    )
    line, chance = axes.lines
    assert line.get_xydata().tolist() == [[0, 1], [0.5, 0.75], [1, 0.25]]
    assert line.get_drawstyle() == "steps-post"
    assert list(chance.get_ydata()) == [0.1, 0.1]


def config_of(*argv):
    config, _ = commands.parse(COMMAND, argv)
    return config


def test_every_flag_has_its_default_and_reaches_the_config(tmp_path):
    m, n, d, w, x = (tmp_path / name for name in "mndwx")
    for folder in (m, n, d, w, x):
        folder.mkdir()
    command = [f"--saved_model={m},{n}", f"--data_dir={d}", f"--output_dir={tmp_path}/o"]
    expected = {"saved_model": (str(m), str(n)), "data_dir": str(d), "output_dir": f"{tmp_path}/o"}
    expected |= {"dataset": "ixi_t1/thesis", "split": "test", "batch_size": 32, "verify": "full"}
    switches = ("robustness", "lesions", "allow_changed_model", "allow_other_preprocessing")
    expected |= {"workdir": (), **dict.fromkeys(switches, False)}
    assert flags.as_flags(config_of(*command)) == expected
    given = {"dataset": "a/b", "split": "train", "batch_size": 1, "verify": "quick"}
    command += [f"--workdir={w},{x}", *(f"--{name}={value}" for name, value in given.items())]
    expected |= {"workdir": (str(w), str(x)), **given}
    for switch in switches:
        assert flags.as_flags(config_of(*command, f"--{switch}")) == expected | {switch: True}


@pytest.mark.parametrize("lesions", [True, False])
def test_the_scoring_does_what_the_flags_say(lesions, model, sharper, data_dir, tmp_path):
    """All that is asked for and nothing else, when half of the switches are on."""
    asked = {}

    def noted(module, name):
        plain = getattr(module, name)

        def note(*args, **more):
            asked.setdefault(name, []).append((args, more))
            return plain(*args, **more)

        return note

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (scoring, "open_split"),
            (scoring, "score_split"),
            (scoring, "check_preprocessing"),
            (scoring, "load_models"),
            (sections, "find_histories"),
        ):
            patch.setattr(module, name, noted(module, name))
        command = arguments(f"{model},{sharper}", data_dir, tmp_path / "out", "--batch_size=7")
        command += [f"--workdir={model},{sharper}", "--verify=quick", "--split=validation"]
        command += ["--lesions", "--allow_changed_model"] if lesions else ["--robustness"]
        assert evaluator.run(command + ["--allow_other_preprocessing"] * (not lesions)) == 0
    assert asked["open_split"][0] == ((data_dir, "ixi_t1/tiny", "validation", "quick"), {})
    assert all(call[3] == "quick" for call, _ in asked["open_split"])
    assert asked["load_models"] == [(([model, sharper],), {"allow_changed_model": lesions})]
    allowed = [more["allowed"] for _, more in asked["check_preprocessing"]]
    assert allowed == [not lesions] * 2
    assert [more["batch_size"] for _, more in asked["score_split"]] == [7, 7]
    assert [args[1] for args, _ in asked["find_histories"]] == [[model, sharper]]
    names = {path.name for path in (tmp_path / "out").iterdir()} - {".lock"}
    more = {"anomalies.csv", "anomalies.json"} if lesions else {"robustness.csv"}
    assert names == {"scores.csv", "summary.json", "report.html", *more}


def test_without_more_flags_the_thesis_config_is_scored(model, tmp_path, capsys):
    config = configs.SliceConfig("thesis", in_plane=(16, 16), size=(16, 16), window=(0, 1))
    tiny_dataset.write_tiny_dataset(tmp_path / "data", config)
    where = [f"--saved_model={model}", f"--data_dir={tmp_path}/data", f"--output_dir={tmp_path}/o"]
    assert evaluator.run(where) == 0
    facts = json.loads((tmp_path / "o/summary.json").read_text())
    assert (facts["dataset"], facts["split"]) == ("ixi_t1/thesis", "test")
    names = {path.name for path in (tmp_path / "o").iterdir()} - {".lock"}
    assert names == {"scores.csv", "summary.json", "report.html"}


def carded(folder, version):
    """A model of any size, whose card names a version of preprocessing."""
    export(folder, tf.identity)
    (folder / "assets.extra").mkdir()
    card = folder / "assets.extra/model_card.json"
    card.write_text(json.dumps({"preprocessing_version": version}))
    return folder


def test_each_of_several_models_has_to_fit_the_slices(data_dir, tmp_path, capsys):
    paths = [carded(tmp_path / name, version) for name, version in (("a", "1.0.0"), ("b", "0.9.0"))]
    for pair in (paths, paths[::-1]):
        given = arguments(",".join(map(str, pair)), data_dir, tmp_path / "out")
        assert "b has learned from slices of preprocessing 0.9.0" in refuse(given, capsys)
        assert not list((tmp_path / "out").glob("[!.]*"))
    assert evaluator.run([*given, "--allow_other_preprocessing"]) == 0
    assert len(read_scores(tmp_path / "out")) == 24
    small = export(tmp_path / "small", tf.identity, size=(64, 64))
    given = arguments(f"{paths[0]},{small}", data_dir, tmp_path / "more")
    assert "the model small takes slices of 64x64" in refuse(given, capsys)
    assert not list((tmp_path / "more").glob("[!.]*"))


def test_gallery_of_several_models_goes_by_their_mean():
    first = {"a": 20.0, "b": 30.0, "c": 31.0, "d": 29.0, "e": 10.0}
    second = {"a": 20.0, "b": 15.0, "c": 22.0, "d": 30.0, "e": 29.0}
    scores = pd.concat([scores_of(first), scores_of(second)])
    # Means: a 20, b 22.5, c 26.5, d 29.5, e 19.5.
    assert results.gallery(scores) == {"worst": "e", "median": "b", "best": "d"}
    # Of equal slices the first by name comes first, in whatever order they were scored.
    same = scores_of(dict.fromkeys("cab", 20.0))
    assert results.gallery(same) == {"worst": "a", "median": "b", "best": "c"}


def test_of_one_person_there_is_no_interval():
    """Which JSON says with null, for it knows no NaN, and the page in words."""
    split = scoring.Split("d", "1.0.0", "test", "abc", (32, 48), 2, None)
    models = [Model(name, None, "", ModelCard(), None, (None, None)) for name in ("m", "n")]
    psnr = {f"IXI901/00{n}": 20.0 + n for n in range(2)}
    others = {key: value + 2 for key, value in psnr.items()}
    scores = pd.concat([scores_of(psnr), scores_of(others, model="n")])
    facts = results.summary(models, split, scores)
    assert facts["models"][0]["by_subject"]["psnr"] == {"mean": 20.5, "low": None, "high": None}
    assert facts["models"][1]["by_subject"]["psnr"] == {"mean": 22.5, "low": None, "high": None}
    row = facts["paired_differences"]["rows"][0]
    assert (row["model"], row["mean"], row["low"], row["high"]) == ("n", 2, None, None)
    texts = results.result_files(scores, facts, None)
    assert list(texts) == ["scores.csv", "summary.json"]
    assert json.loads(texts["summary.json"], parse_constant=pytest.fail) == facts
    shown = sections.subjects_section(facts)
    means, differences = shown.tables.values()
    assert means.iloc[1, 1] == "22.50 [one person: none]"
    assert differences.iloc[0, 1] == "+2.00 [one person: none]"
    assert "With as few as 1 people they are too narrow" in shown.notes[0]
    assert "from fewer than 5 people, intervals mean nothing" in shown.notes[0]


def test_scores_are_written_with_six_decimals():
    text = results.scores_csv(scores_of({"k": 1 / 3}, age=30.456, mae=2e-7))
    header, row, *rest = text.split("\n")
    assert header == "model,key,subject,site,sex,age,slice_index,psnr,ssim,ms_ssim,mae"
    assert row == "m,k,IXI901,,unknown,30.46,0,0.333333,0.900000,0.900000,0.000000"
    assert rest == [""]
