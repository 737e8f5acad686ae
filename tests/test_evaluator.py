"""The evaluator's command line on a small dataset and SavedModels that no code of ours made."""

import base64
import csv
import dataclasses
import io
import json
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import skimage.metrics
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_dataset
from browser import browser, see

from evaluator import __main__ as evaluator
from evaluator import figures, results, scoring, statistics


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
    card.write_text(json.dumps({"loss": "<mse>", "data": {"fingerprint": "abc"}}))
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
    assert "zeroed patches: what the models make of it" in page
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
        assert one["key"] == other["key"]
        assert float(one["psnr"]) == pytest.approx(float(other["psnr"]), abs=1e-4)
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
    assert "data.fingerprint" in page


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
    assert entry["slices_at_psnr_cap"] == summary["slices"]
    assert entry["model"] == "identity"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_split(data_dir):
    split = scoring.open_split(data_dir, "ixi_t1/tiny", "test")
    model = scoring.Model("same", pathlib.Path(), "", {}, lambda slices: slices, (None, None))
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
    assert scoring.load_model(tmp_path / "models").name == "models/10"


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
    assert scoring.tell_apart(names, paths) == (expected or folders)


def refuse(arguments, capsys):
    assert evaluator.run(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
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
        ({"function": lambda x: x / 0}, "not finite for slice IXI9"),
    ],
)
def test_unfit_models_get_one_line(options, message, data_dir, tmp_path, capsys):
    export(tmp_path / "model", **({"function": tf.identity} | options))
    output_dir = tmp_path / "out"
    assert message in refuse(arguments(tmp_path / "model", data_dir, output_dir), capsys)
    assert not list(output_dir.iterdir())


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


def score(key, psnr):
    age = float("nan")
    return scoring.Score("m", key, "IXI901", "", "unknown", age, 0, psnr, 0.9, 0.9, 0.1)


def test_gallery_spreads_over_the_order_of_psnr():
    scores = [score(f"{place:03d}", psnr=float(place)) for place in range(101)]
    chosen = results.gallery(scores[::-1])
    assert chosen == {"worst": "000", "median": "050", "best": "100"}
    assert list(results.gallery(scores[:2])) == ["worst", "best"]
    assert list(results.gallery(scores[:1])) == ["worst"]


def test_unknown_age_is_an_empty_cell_and_still_a_group():
    scores = [score("IXI901/000", 30.0)]
    assert results.scores_csv(scores).splitlines()[1].split(",")[3:7] == ["", "unknown", "", "0"]
    groups = statistics.by_group(results.as_frame(scores), ["subject", "age"])
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
    figures.write_png(tmp_path / "head.png", figures.slice_grid({"a": head}, columns=1))
    pixels = np.asarray(PIL.Image.open(tmp_path / "head.png").convert("L")).astype(float)
    dark_rows = np.flatnonzero((pixels < 10).mean(axis=1) > 0.5)
    assert dark_rows.mean() > len(pixels) / 2
