"""The evaluator's command line on a small dataset and SavedModels that no code of ours made."""

import base64
import csv
import io
import json
import re
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

from evaluator import __main__ as evaluator
from evaluator import figures, results, scoring


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
    assert rows[0] | {"psnr": "", "ssim": "", "mae": ""} == {
        "key": "IXI909/000",
        "subject": "IXI909",
        "site": "Guys",
        "sex": "female",
        "age": "30.50",
        "slice_index": "0",
        "psnr": "",
        "ssim": "",
        "mae": "",
    }


def test_summary_is_that_of_the_rows(output, data_dir):
    summary = json.loads((output / "summary.json").read_text())
    rows = read_scores(output)
    for metric in ("psnr", "ssim", "mae"):
        values = np.array([float(row[metric]) for row in rows])
        expected = [values.mean(), np.sqrt(np.mean((values - values.mean()) ** 2))]
        expected += [values.min(), values.max()]
        found = [summary[metric][name] for name in ("mean", "std", "min", "max")]
        np.testing.assert_allclose(found, expected, atol=2e-6)
    manifest = json.loads((data_dir / "ixi_t1/tiny/1.0.0/manifest.json").read_text())
    assert summary["dataset_fingerprint"] == manifest["fingerprint"]
    assert (summary["model"], summary["split"], summary["std"]) == ("blur/1", "test", "population")
    assert (summary["slices"], summary["subjects"]) == (12, 3)


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
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?:|<script|@import|url\(", page)
    images = [source.split(",", 1)[1] for source in sources if "image/png" in source]
    assert len(images) == len(results.GALLERY) + 4
    for image in images:
        pixels = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(image, validate=True))))
        assert pixels.std() > 0
    for subject in ("IXI909", "IXI910", "IXI911"):
        assert f"<td>{subject}</td>" in page
    assert "&lt;mse&gt;" in page and "<mse>" not in page
    assert "data.fingerprint" in page


def test_perfect_model_has_finite_statistics(data_dir, tmp_path):
    export(tmp_path / "identity", tf.identity)
    assert evaluator.run(arguments(tmp_path / "identity", data_dir, tmp_path / "out")) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["psnr"] == {"mean": 100.0, "std": 0.0, "min": 100.0, "max": 100.0}
    assert summary["ssim"]["max"] <= 1
    assert summary["slices_at_psnr_cap"] == summary["slices"]
    assert summary["model"] == "identity"


def test_highest_version_is_taken(data_dir, tmp_path):
    for version in ("2", "10"):
        export(tmp_path / "models" / version, tf.identity)
    assert scoring.load_model(tmp_path / "models").name == "models/10"


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


def test_flags_are_read_without_tensorflow():
    code = "import sys, evaluator.__main__; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def score(key, psnr):
    return scoring.Score(key, "IXI901", "", "unknown", float("nan"), 0, psnr, 0.9, 0.1)


def test_gallery_spreads_over_the_order_of_psnr():
    scores = [score(f"{place:03d}", psnr=float(place)) for place in range(101)]
    chosen = results.gallery(scores[::-1])
    assert {name: found.psnr for name, found in chosen.items()} == {
        "worst": 0,
        "lower quartile": 25,
        "median": 50,
        "upper quartile": 75,
        "best": 100,
    }
    assert list(results.gallery(scores[:2])) == ["worst", "best"]
    assert list(results.gallery(scores[:1])) == ["worst"]


def test_unknown_age_is_an_empty_cell_and_still_a_group():
    scores = [score("IXI901/000", 30.0)]
    assert results.scores_csv(scores).splitlines()[1].split(",")[2:6] == ["", "unknown", "", "0"]
    groups = results.by_group(results.as_frame(scores), ["subject", "age"])
    assert len(groups) == 1


def test_slices_are_shown_with_superior_up(tmp_path):
    head = np.zeros((32, 32))
    head[:, -4:] = 1  # the last columns are the most superior
    figures.write_png(tmp_path / "head.png", figures.slice_grid({"a": head}, columns=1))
    pixels = np.asarray(PIL.Image.open(tmp_path / "head.png").convert("L")).astype(float)
    dark_rows = np.flatnonzero((pixels < 10).mean(axis=1) > 0.5)
    assert dark_rows.mean() > len(pixels) / 2
