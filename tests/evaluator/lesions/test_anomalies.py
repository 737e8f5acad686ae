"""The command that asks whether residuals find lesions, through its flags."""

import base64
import csv
import dataclasses
import io
import json
import re
import shutil

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import sklearn.metrics
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_dataset
from tensorflow import keras
from test_evaluator import blur, export
from untrained import export_network
from volumes import head, image, write_head

from evaluator import __main__ as evaluator
from evaluator import anomalies, models, options, volumes
from evaluator.lesions import histograms, maps, pairs, synthetic
from ixi_tfds import config as configs
from ixi_tfds import nifti
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system.errors import UserError
from trainer import models as networks

GEOMETRY = manifests.Geometry((32, 32, 24), (4.0, 4.0, 5.0))
STATISTICS = ("auprc", "auroc", "dice", "best_dice")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Slices of 64x64, so that the inner head has room for lesions."""
    folder = tmp_path_factory.mktemp("data")
    config = configs.SliceConfig(name="tiny", in_plane=(64, 64), size=(64, 64), window=(0, 8))
    tiny_dataset.write_tiny_dataset(folder, config)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export(tmp_path_factory.mktemp("models") / "blur", blur)


def arguments(model, data_dir, output_dir, *more):
    return [
        "anomalies",
        f"--saved_model={model}",
        f"--data_dir={data_dir}",
        "--dataset=ixi_t1/tiny",
        f"--output_dir={output_dir}",
        *more,
    ]


def read_rows(folder):
    with (folder / "anomalies.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def output(model, data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "new"
    assert evaluator.run(arguments(model, data_dir, folder)) == 0
    return folder


def read_split(data_dir, split):
    builder = tfds.builder_from_directory(str(data_dir / "ixi_t1/tiny/1.0.0"))
    for example in tfds.as_numpy(builder.as_dataset(split=split)):
        yield (
            f"{example['subject'].decode()}/{example['slice_index']:03d}",
            example["image"][..., 0].astype(np.float32) / 255,
        )


def residual(slices):
    """What the exported model's residual is, by SciPy."""
    return abs(slices - blurred(slices))


def blurred(slices):
    """What the exported model makes of slices."""
    inside = scipy.ndimage.uniform_filter(np.ones_like(slices), 3, mode="constant")
    return scipy.ndimage.uniform_filter(slices, 3, mode="constant") / inside


def test_numbers_are_those_of_scikit_learn_on_the_same_pixels(output, data_dir):
    scores, marked, people = [], [], []
    for key, healthy in read_split(data_dir, "test"):
        inside = maps.head_mask(healthy)
        changed, mask, _ = synthetic.add_lesion(healthy, maps.inner_head(inside), key=key)
        scores.append(residual(changed)[inside])
        marked.append(mask[inside])
        people.append(np.full(inside.sum(), int(key[3:6])))
    scores, marked, people = map(np.concatenate, (scores, marked, people))
    calm = [
        residual(image)[maps.head_mask(image)] for _, image in read_split(data_dir, "validation")
    ]
    threshold = np.percentile(np.concatenate(calm), 99)
    rows = [
        row for row in read_rows(output) if (row["method"], row["looks_for"]) == ("blur", "either")
    ]
    for name, here in (("", people > 0), ("IXI909", people == 909), ("IXI911", people == 911)):
        row = next(row for row in rows if row["subject"] == name and not row["group"])
        assert int(row["pixels"]) == here.sum()
        assert int(row["lesion_pixels"]) == marked[here].sum() > 0
        truth = marked[here], scores[here]
        area = sklearn.metrics.average_precision_score(*truth)
        assert float(row["auprc"]) == pytest.approx(area, abs=histograms.TOLERANCE)
        area = sklearn.metrics.roc_auc_score(*truth)
        assert float(row["auroc"]) == pytest.approx(area, abs=histograms.TOLERANCE)
        assert float(row["threshold"]) == pytest.approx(threshold, abs=2 / 4096)
        dice = sklearn.metrics.f1_score(truth[0], truth[1] > threshold)
        assert float(row["dice"]) == pytest.approx(dice, abs=0.02)
        assert float(row["best_dice"]) >= float(row["dice"])


@pytest.fixture(scope="module")
def oblong_dir(tmp_path_factory):
    """Slices that are wider than high, for shares of their height."""
    folder = tmp_path_factory.mktemp("oblong")
    config = configs.SliceConfig(name="tiny", in_plane=(60, 84), size=(60, 84), window=(0, 8))
    tiny_dataset.write_tiny_dataset(folder, config)
    return folder


def scores_by_method(image, *, blur_pixels, smooth_pixels=0.0):
    """Scores of a slice by every method, by SciPy."""
    inside = scipy.ndimage.uniform_filter(np.ones_like(image), 3, mode="constant")
    expected = {
        "blur": scipy.ndimage.uniform_filter(image, 3, mode="constant") / inside,
        "blurred input": scipy.ndimage.gaussian_filter(image, blur_pixels),
    }
    scores = {}
    for name, reference in expected.items():
        scores[name, "either"] = np.abs(image - reference)
        scores[name, "bright"] = image - reference
        scores[name, "dark"] = reference - image
    typical = np.median(image[maps.head_mask(image)])
    scores["intensity", "either"] = np.abs(image - typical)
    scores["intensity", "bright"], scores["intensity", "dark"] = image, 1 - image
    if smooth_pixels:
        return {m: scipy.ndimage.gaussian_filter(s, smooth_pixels) for m, s in scores.items()}
    return scores


@pytest.mark.parametrize(
    ("flags", "pixels", "percentile", "seed"),
    [
        ([], {"blur_pixels": 0.02 * 60}, 99, 0),
        (
            ["--percentile=90", "--blur_sigma=0.05", "--smooth_sigma=0.025", "--seed=3"],
            {"blur_pixels": 3.0, "smooth_pixels": 1.5},
            90,
            3,
        ),
    ],
)
def test_every_flag_reaches_the_numbers_of_every_method(
    flags, pixels, percentile, seed, model, oblong_dir, tmp_path
):
    """Areas by scikit-learn, thresholds of the validation split, lesions of the seed."""
    flags = [*flags, "--region=inner", "--batch_size=7"]
    assert evaluator.run(arguments(model, oblong_dir, tmp_path, *flags)) == 0
    rows = {
        (row["method"], row["looks_for"], row["subject"], row["group"]): row
        for row in read_rows(tmp_path)
    }
    healthy = {}
    for _, calm in read_split(oblong_dir, "validation"):
        here = maps.inner_head(maps.head_mask(calm))
        for method, scores in scores_by_method(calm, **pixels).items():
            healthy.setdefault(method, []).append(scores[here])
    found, marks, groups = {}, [], []
    for key, calm in read_split(oblong_dir, "test"):
        head_mask = maps.head_mask(calm)
        here = maps.inner_head(head_mask)
        changed, mask, kind = synthetic.add_lesion(calm, here, key=key, seed=seed)
        marks.append(mask[here])
        groups.append(np.full(here.sum(), str(kind or "no lesion")))
        with_lesion = scores_in_head(changed, head_mask, pixels)
        for method, scores in with_lesion.items():
            found.setdefault(method, []).append(scores[here])
    marks, groups = np.concatenate(marks), np.concatenate(groups)
    assert {group for *_, group in rows} == {"", *groups}
    for method, scores in found.items():
        scores = np.concatenate(scores)
        limit = np.percentile(np.concatenate(healthy[method]), percentile, method="inverted_cdf")
        for group in ("", *np.unique(groups)):
            row = rows[*method, "", group]
            here = groups == group if group else np.ones(len(groups), bool)
            assert int(row["pixels"]) == here.sum()
            assert int(row["lesion_pixels"]) == marks[here].sum()
            if not marks[here].any():
                continue
            area = sklearn.metrics.average_precision_score(marks[here], scores[here])
            # Of few pixels a tie weighs more.
            assert float(row["auprc"]) == pytest.approx(area, abs=1e-2 if group else 2e-3)
        assert float(rows[*method, "", ""]["threshold"]) == pytest.approx(limit, abs=2e-4)


def scores_in_head(image, head_mask, pixels):
    """Scores of a slice with a lesion, whose head is that of the healthy one."""
    scores = scores_by_method(image, **pixels | {"smooth_pixels": 0.0})
    scores["intensity", "either"] = np.abs(image - np.median(image[head_mask]))
    if sigma := pixels.get("smooth_pixels"):
        return {m: scipy.ndimage.gaussian_filter(s, sigma) for m, s in scores.items()}
    return scores


def test_the_slices_that_are_shown_are_the_first_of_each_contrast(model, data_dir):
    _, _, _, found = anomalies.score_lesions(
        models.load_models([model]),
        options.Dataset(data_dir=str(data_dir), dataset="ixi_t1/tiny"),
        anomalies.LesionSettings(),
        batch_size=5,
    )
    expected = {}
    for key, healthy in sorted(read_split(data_dir, "test"), key=lambda each: each[0]):
        room = maps.inner_head(maps.head_mask(healthy))
        changed, mask, kind = synthetic.add_lesion(healthy, room, key=key)
        if kind.radius == 0.04:
            expected.setdefault(kind.contrast, (f"{key}: {kind}", changed, mask))
    assert 1 < len(expected) == len(found.examples)
    for (_, (title, changed, mask)), example in zip(
        sorted(expected.items()), found.examples, strict=True
    ):
        assert example.title == title
        np.testing.assert_array_equal(example.image, changed)
        np.testing.assert_array_equal(example.lesion, mask)
        assert list(example.references) == ["blur", "blurred input"]
        np.testing.assert_allclose(
            np.abs(changed - example.references["blur"]), residual(changed), atol=1e-6
        )
        blurred = scipy.ndimage.gaussian_filter(changed, 0.02 * 64)
        np.testing.assert_allclose(example.references["blurred input"], blurred, atol=1e-6)


def test_a_damaged_dataset_gets_one_line_and_no_numbers(model, data_dir, tmp_path, capsys):
    for split in ("validation", "test"):
        folder = shutil.copytree(data_dir, tmp_path / split)
        shard = next(folder.glob(f"ixi_t1/tiny/1.0.0/ixi_t1-{split}.tfrecord-*"))
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        message = refuse(arguments(model, folder, tmp_path / "out"), capsys)
        assert shard.name in message
        assert not list((tmp_path / "out").iterdir())


def test_every_method_stands_in_every_table(output):
    rows = read_rows(output)
    methods = {(row["method"], row["looks_for"]) for row in rows}
    names = ("blur", "blurred input", "intensity")
    assert methods == {(name, way) for name in names for way in ("either", "bright", "dark")}
    for kind, at_least in (("subject", 3), ("group", 5)):
        for method in methods:
            found = [
                row for row in rows if row[kind] and (row["method"], row["looks_for"]) == method
            ]
            assert len(found) >= at_least
            overall = next(
                row
                for row in rows
                if (row["method"], row["looks_for"]) == method
                and not row["subject"]
                and not row["group"]
            )
            assert sum(int(row["pixels"]) for row in found) == int(overall["pixels"])
            for name in STATISTICS:
                low, high = float(overall[f"{name}_low"]), float(overall[f"{name}_high"])
                assert low <= float(overall[name]) <= high


def test_comparisons_are_paired_with_both_baselines(output):
    facts = json.loads((output / "anomalies.json").read_text())
    areas = {(row["method"], row["looks_for"]): row["auprc"] for row in facts["overall"]}
    compared = {(row["baseline"], row["looks_for"]): row for row in facts["comparisons"]}
    assert len(compared) == 6
    for (baseline, direction), row in compared.items():
        difference = areas["blur", direction] - areas[baseline, direction]
        assert row["auprc_difference"] == pytest.approx(difference, abs=2e-6)
        expected = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not told apart"
        assert row["verdict"] == expected
    assert facts["counts"] == {"slices": 24, "slices_with_lesion": 24}


def test_a_model_that_knows_the_healthy_slice_wins_and_one_that_copies_finds_nothing(
    data_dir, tmp_path
):
    """The healthy slices are constants of the model, told apart by their corners."""
    healthy = np.stack([image for _, image in read_split(data_dir, "test")])[..., None]
    healthy = np.concatenate(
        [healthy, *[[i[..., None]] for _, i in read_split(data_dir, "validation")]]
    )

    def recall(slices):
        distance = tf.reduce_sum(tf.abs(slices[:, None] - healthy[None]), axis=(2, 3, 4))
        return tf.gather(healthy, tf.argmin(distance, axis=1))

    export(tmp_path / "a" / "oracle", recall)
    export(tmp_path / "b" / "copy", tf.identity)
    models = f"{tmp_path}/a/oracle,{tmp_path}/b/copy"
    assert evaluator.run(arguments(models, data_dir, tmp_path / "out")) == 0
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    found = {(row["method"], row["looks_for"]): row for row in facts["overall"]}
    assert found["oracle", "either"]["auprc"] > 0.95
    assert found["oracle", "either"]["dice"] > 0.7
    assert found["copy", "either"]["auroc"] == 0.5
    assert found["copy", "either"]["auprc"] == found["copy", "either"]["prevalence"]
    verdicts = {
        row["verdict"]
        for row in facts["comparisons"]
        if (row["model"], row["looks_for"]) == ("oracle", "either")
    }
    assert verdicts == {"better"}


def test_same_bytes_again_and_the_same_numbers_in_other_batches(output, model, data_dir, tmp_path):
    assert evaluator.run(arguments(model, data_dir, tmp_path / "a")) == 0
    for name in ("anomalies.csv", "anomalies.json", "anomalies.html"):
        assert (tmp_path / "a" / name).read_bytes() == (output / name).read_bytes()
    assert evaluator.run(arguments(model, data_dir, tmp_path / "b", "--batch_size=5")) == 0
    for one, other in zip(read_rows(tmp_path / "b"), read_rows(output), strict=True):
        assert one["pixels"] == other["pixels"]
        assert float(one["auprc"]) == pytest.approx(float(other["auprc"]), abs=1e-3)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_region_is_a_flag(output, model, data_dir, tmp_path):
    assert evaluator.run(arguments(model, data_dir, tmp_path / "a", "--region=inner")) == 0
    whole, inner = read_rows(output)[0], read_rows(tmp_path / "a")[0]
    assert int(inner["pixels"]) < int(whole["pixels"]) / 2
    assert inner["lesion_pixels"] == whole["lesion_pixels"]


def test_models_of_one_name_are_told_apart(data_dir, tmp_path):
    for run in ("a", "b"):
        export(tmp_path / run / "export" / "net" / "1", blur)
    models = ",".join(str(tmp_path / run / "export" / "net") for run in ("a", "b"))
    assert evaluator.run(arguments(models, data_dir, tmp_path / "out")) == 0
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert list(facts["models"]) == ["a", "b"]


def test_the_page_stands_alone(output):
    page = (output / "anomalies.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?:|<script|@import|url\(", page)
    images = [source.split(",", 1)[1] for source in sources if "image/png" in source]
    # Three plots, and at most four slices: with and without outline, two expectations, residuals.
    assert len(images) in {3 + 6 * slices for slices in (1, 2, 3, 4)}
    for png in images:
        assert np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(png)))).std() > 0
    for name in ("blurred input", "intensity", "IXI909", "contrast +0.30"):
        assert name in page


# Volumes with masks.


@pytest.fixture(scope="module")
def heads_dir(tmp_path_factory):
    """A dataset with the geometry of the heads in `volumes`."""
    folder = tmp_path_factory.mktemp("heads")
    config = configs.SliceConfig(name="tiny", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    made = tiny_dataset.write_tiny_dataset(folder, config)
    manifests.write(made, dataclasses.replace(manifests.read(made), geometry=GEOMETRY))
    return folder


def write_pair(folder, name, *, seed, axes="PSR"):
    """A head with a bright cube, and its mask; gives both arrays."""
    voxels, mask = head(seed=seed), np.zeros((32, 32, 24), np.uint8)
    mask[12:16, 14:18, 9:17] = 1
    voxels = np.where(mask > 0, 1200, voxels).astype(np.int16)
    write_head(folder, f"{name}_T1", voxels=voxels, axes=axes)
    nib.save(image(mask, axes), folder / f"{name}_lesion.nii.gz")
    return voxels, mask


def counts_of(heads, lesion_voxels, scored, unseen=0):
    return {
        "volumes": heads,
        "lesion_voxels": lesion_voxels,
        "lesion_voxels_scored": scored,
        "lesion_voxels_unseen": unseen,
    }


def test_volumes_are_scored_on_their_own_grid(heads_dir, model, tmp_path):
    source = tmp_path / "source"
    voxels, mask = write_pair(source, "a", seed=0)
    write_pair(source, "b", seed=1, axes="RAS")
    write_head(source, "healthy", seed=2)
    assert (
        evaluator.run(arguments(model, heads_dir, tmp_path / "out", f"--source_dir={source}")) == 0
    )
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert facts["counts"] == counts_of(2, 256, 256)
    assert facts["volumes_without_mask"] == 1
    rows = read_rows(tmp_path / "out")
    assert {row["group"] for row in rows if row["group"]} == {
        "inside the window of training",
        "beyond the window of training",
    }
    scores, marked = [], []
    for index in range(24):
        plane = voxels[:, :, index].astype(np.float64)
        unit = (plane - plane.min()) / np.ptp(plane)
        inside = maps.head_mask(stored(plane))
        scores.append(np.abs(unit - blurred(stored(plane)))[inside])
        marked.append(mask[:, :, index][inside])
    expected = sklearn.metrics.average_precision_score(*map(np.concatenate, (marked, scores)))
    row = next(
        r for r in rows if (r["method"], r["looks_for"], r["subject"]) == ("blur", "either", "a")
    )
    assert float(row["auprc"]) == pytest.approx(expected, abs=histograms.TOLERANCE)


def stored(plane):
    """A plane of scanner values in 8 bits, as the model gets it, from 0 to 1."""
    share = (plane.astype(np.float64) - plane.min()) / max(np.ptp(plane), 1e-9)
    return (np.floor(255 * share + 0.499999999) / 255).astype(np.float32)


def count_voxels(voxels, mask, window):
    """Voxels and lesion voxels of the head inside and beyond the window, by slices."""
    counts = np.zeros((2, 2), int)
    for index in range(voxels.shape[2]):
        here = maps.head_mask(stored(voxels[:, :, index]))
        group = 0 if window[0] <= index < window[1] else 1
        counts[group] += int(here.sum()), int(mask[:, :, index][here].sum())
    return counts


def test_each_volume_is_scored_by_its_own_mask_inside_and_beyond_the_window(
    heads_dir, model, tmp_path, capsys
):
    """The first has lesions inside the window and in the air, the second more of them beyond."""
    source, expected = tmp_path / "source", {}
    for seed, (name, part) in enumerate({"a": slice(9, 13), "b": slice(12, 18)}.items()):
        voxels, mask = head(seed=seed), np.zeros((32, 32, 24), np.uint8)
        mask[12:16, 14:18, part] = 1
        voxels = np.where(mask > 0, 1200, voxels).astype(np.int16)
        if name == "a":
            mask[:2, :2, 10] = 1
        write_head(source, f"{name}_T1", voxels=voxels)
        nib.save(image(mask), source / f"{name}_lesion.nii.gz")
        expected[name] = count_voxels(voxels, mask, (8, 14))
    flags = arguments(model, heads_dir, tmp_path / "out", f"--source_dir={source}")
    assert evaluator.run([*flags, "--batch_size=5"]) == 0
    shown = capsys.readouterr()
    assert "voxel size" not in shown.err
    assert expected["a"][:, 1].tolist() == [64, 0] and expected["b"][:, 1].tolist() == [32, 64]
    both = sum(expected.values())
    assert f"{160 / both[:, 0].sum():.3%} of {both[:, 0].sum()} pixels" in shown.out
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert facts["counts"] == counts_of(2, 164, 160)
    assert facts["volumes_without_mask"] == 0
    inside, beyond = "inside the window of training", "beyond the window of training"
    rows = read_rows(tmp_path / "out")
    for row in rows:
        if row["subject"]:
            count = expected[row["subject"]].sum(axis=0)
        else:
            count = both[{inside: 0, beyond: 1}[row["group"]]] if row["group"] else both.sum(axis=0)
        assert [int(row["pixels"]), int(row["lesion_pixels"])] == count.tolist()
    assert len(rows) == 9 * (1 + 2 + 2)


def narrow_dir(folder):
    """A dataset of slices whose rows are 16 of the 32 of the heads in `volumes`."""
    config = configs.SliceConfig(name="tiny", in_plane=None, size=(16, 32), window=(8, 14))
    made = tiny_dataset.write_tiny_dataset(folder, config)
    manifests.write(made, dataclasses.replace(manifests.read(made), geometry=GEOMETRY))
    return folder


def test_lesions_outside_the_field_of_view_count_as_missed_and_their_share_is_said(
    tmp_path, capsys
):
    """Half of the cube lies in rows that the model does not see; the rest stays as it was."""
    data_dir = narrow_dir(tmp_path / "data")
    narrow = export(tmp_path / "copy", tf.identity, size=(16, 32))
    voxels, mask = head(), np.zeros((32, 32, 24), np.uint8)
    mask[4:12, 14:18, 9:17] = 1
    voxels = np.where(mask > 0, 1200, voxels).astype(np.int16)
    write_head(tmp_path / "source", "a_T1", voxels=voxels)
    nib.save(image(mask), tmp_path / "source/a_lesion.nii.gz")
    flag = f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(narrow, data_dir, tmp_path / "out", flag)) == 0
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert facts["counts"] == counts_of(1, 256, 128, 128)
    warning = "128 of 256 lesion voxels (50.0%) lie outside the model's field of view"
    assert capsys.readouterr().err.count(f"warning: {warning}") == 1
    seen, marks, scores = voxels[8:24], mask[8:24], []
    heads = np.stack([maps.head_mask(stored(seen[..., i])) for i in range(24)], axis=2)
    unit = (seen - seen.min(axis=(0, 1))) / np.ptp(seen, axis=(0, 1))
    scores = np.append(unit[heads], np.full(128, -1))
    marks = np.append(marks[heads], np.ones(128))
    expected = sklearn.metrics.average_precision_score(marks, scores)
    row = next(
        row
        for row in facts["overall"]
        if (row["method"], row["looks_for"]) == ("intensity", "bright")
    )
    assert row["lesion_pixels"] == 256 and row["pixels"] == len(scores)
    assert row["auprc"] == pytest.approx(expected, abs=histograms.TOLERANCE)
    # All that is found is half of the lesion.
    assert row["best_dice"] <= 2 * 128 / (128 + 256) + 1e-6
    groups = {row["group"]: row for row in read_rows(tmp_path / "out") if row["group"]}
    lesions = [int(groups[name]["lesion_pixels"]) for name in sorted(groups)]
    assert lesions == [3 * 32, 5 * 32]


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_volumes_are_scaled_as_the_slices_of_the_dataset(scaling, model, tmp_path):
    """The brightness itself then finds a lesion as it does in slices of that scaling.

    The head gets brighter from slice to slice, so that a lesion is bright in its slice, not in
    its volume.
    """
    config = configs.SliceConfig(
        name="tiny", in_plane=(32, 32), size=(32, 32), window=(8, 14), scaling=scaling
    )
    made = tiny_dataset.write_tiny_dataset(tmp_path / "data", config)
    manifests.write(made, dataclasses.replace(manifests.read(made), geometry=GEOMETRY))
    voxels, mask = head() * np.linspace(0.3, 1.5, 24), np.zeros((32, 32, 24), np.uint8)
    mask[12:18, 14:20, 3:9] = 1
    voxels = np.where(mask > 0, 1.3 * voxels, voxels).astype(np.int16)
    write_head(tmp_path / "source", "a_T1", voxels=voxels)
    nib.save(image(mask), tmp_path / "source/a_lesion.nii.gz")
    source = f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(model, tmp_path / "data", tmp_path / "out", source)) == 0
    areas = {}
    for way in ("slice", "volume"):
        low, high = voxels.min(axis=(0, 1)), voxels.max(axis=(0, 1))
        if way == "volume":
            low, high = np.percentile(voxels[..., 8:14], (0.5, 99.5), method="inverted_cdf")
        scaled = ((voxels.clip(low, high) - low) / (high - low)).astype(np.float32)
        heads = np.stack([maps.head_mask(plane) for plane in np.moveaxis(scaled, 2, 0)], 2)
        areas[way] = sklearn.metrics.average_precision_score(mask[heads], scaled[heads])
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    found = {(row["method"], row["looks_for"]): row["auprc"] for row in facts["overall"]}
    assert found["intensity", "bright"] == pytest.approx(areas[scaling], abs=0.02)
    assert abs(areas["slice"] - areas["volume"]) > 0.08


def test_finer_voxels_are_scored_one_by_one_on_their_own_grid(heads_dir, model, tmp_path):
    """The model sees pixels of 4 mm; those of the scan, and its mask, are of 2.5 and 3 mm."""
    voxels = np.round(scipy.ndimage.zoom(head().astype(float), (1.6, 4 / 3, 1), order=1))
    mask = np.zeros(voxels.shape, np.uint8)
    mask[20:27, 18:24, 9:17] = 1
    voxels = np.where(mask > 0, 1200, voxels).astype(np.int16)
    (tmp_path / "source").mkdir()
    affine = image(voxels).affine * [2.5 / 4, 3 / 4, 1, 1]
    for name, values in (("T1", voxels), ("lesion", mask)):
        nib.Nifti1Image(values, affine).to_filename(tmp_path / f"source/a_{name}.nii.gz")
    source = f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(model, heads_dir, tmp_path / "out", source)) == 0
    row = read_rows(tmp_path / "out")[0]
    assert int(row["lesion_pixels"]) == mask.sum()
    coarse = scipy.ndimage.zoom(voxels.astype(float), (1 / 1.6, 3 / 4, 1), order=1)
    share = coarse.shape[0] * coarse.shape[1] / (voxels.shape[0] * voxels.shape[1])
    inside = sum(
        maps.head_mask((plane / plane.max()).astype(np.float32)).sum()
        for plane in np.moveaxis(coarse, 2, 0)
    )
    assert int(row["pixels"]) == pytest.approx(inside / share, rel=0.05)
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    found = {(row["method"], row["looks_for"]): row["auroc"] for row in facts["overall"]}
    # A shifted grid would put the scores of the lesion beside it.
    assert found["intensity", "bright"] > 0.85


def heads_of(tmp_path, scaling):
    """A dataset of that scaling, whose volumes are like the heads in `volumes`."""
    config = configs.SliceConfig(
        name="tiny", in_plane=(32, 32), size=(32, 32), window=(8, 14), scaling=scaling
    )
    made = tiny_dataset.write_tiny_dataset(tmp_path / "data", config)
    manifests.write(made, dataclasses.replace(manifests.read(made), geometry=GEOMETRY))
    return tmp_path / "data", config


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_a_model_gets_volumes_in_the_levels_of_8_bits(scaling, tmp_path):
    """One that gives NaN for any other value scores them all the same."""

    def picky(slices):
        levels = 255 * slices
        return tf.where(tf.abs(levels - tf.round(levels)) < 1e-3, slices, np.nan)

    export(tmp_path / "picky", picky)
    voxels, mask = head() * np.linspace(0.5, 3.7, 24), np.zeros((32, 32, 24), np.uint8)
    mask[12:18, 14:20, 9:13] = 1
    write_head(tmp_path / "source", "a_T1", voxels=voxels.astype(np.int16))
    nib.save(image(mask), tmp_path / "source/a_lesion.nii.gz")
    data_dir, _ = heads_of(tmp_path, scaling)
    source = f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(tmp_path / "picky", data_dir, tmp_path / "out", source)) == 0


@pytest.fixture
def counted(monkeypatch):
    """The scores and marks of pixels in the order in which they are counted."""
    heard, count = [], histograms.count

    def listen(scores, marked):
        heard.append((scores, marked))
        return count(scores, marked)

    monkeypatch.setattr(histograms, "count", listen)
    return heard


@pytest.mark.parametrize("sides", [(4.0, 4.0), (2.5, 3.0)], ids=["same_pixels", "finer_pixels"])
@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_residuals_that_are_scored_are_the_map_that_is_written(
    scaling, sides, tmp_path, counted
):
    """Both commands on one head: the map, in units of the range, gives the very histograms."""
    data_dir, config = heads_of(tmp_path, scaling)
    known = {"slices": dataclasses.asdict(config), "geometry": dataclasses.asdict(GEOMETRY)}
    keras.utils.set_random_seed(0)
    spec = networks.ModelSpec(
        name="resnet_like", stem_filters=4, stage_filters=(4,), stage_blocks=(1,)
    )
    model = export_network(
        networks.build(spec, config.size),
        tmp_path / "model" / "1",
        "resnet_like",
        scaling,
        config.size,
        known,
    )
    voxels = scipy.ndimage.zoom(
        head() * np.linspace(0.3, 1.5, 24), (4 / sides[0], 4 / sides[1], 1), order=1
    ).astype(np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[20:27, 18:24, 9:17] = 1
    affine = image(voxels).affine * [sides[0] / 4, sides[1] / 4, 1, 1]
    (tmp_path / "source").mkdir()
    for name, values in (("T1", voxels), ("lesion", mask)):
        nib.Nifti1Image(values, affine).to_filename(tmp_path / f"source/a_{name}.nii.gz")
    source = f"--source_dir={tmp_path / 'source'}"
    flags = [f"--saved_model={model}", f"--output_dir={tmp_path / 'out'}"]
    scored = ["anomalies", *flags, source, f"--data_dir={data_dir}", "--dataset=ixi_t1/tiny"]
    assert evaluator.run(scored) == 0
    assert evaluator.run(["reconstruct", *flags, f"--input={tmp_path}/source/a_T1.nii.gz"]) == 0
    # Of each direction inside and beyond the window: the model's come first.
    either, bright, dark = (
        [np.concatenate(part) for part in zip(*counted[i : i + 2], strict=True)] for i in (0, 2, 4)
    )
    written = nib.load(tmp_path / "out/a_T1_anomaly.nii.gz").get_fdata()
    stack = volumes.open_stack(
        str(tmp_path / "source/a_T1.nii.gz"),
        volumes.Geometry(config, GEOMETRY.shape, GEOMETRY.zooms),
    )
    slices = volumes.scanner_slices(stack, 0, 24)
    low, high = slices.min(axis=(1, 2)), slices.max(axis=(1, 2))
    if scaling == "volume":
        low, high = (np.full(24, limit) for limit in stack.limits)
    levels = (slices.clip(low[:, None, None], high[:, None, None]).T - low) / (high - low)
    levels = np.floor(255 * levels.T + 0.499999999) / 255
    heads = np.stack([maps.head_mask(plane.astype(np.float32)) for plane in levels])
    here = volumes.from_slices(stack, heads) >= 0.5
    inside = np.zeros(24, bool)
    inside[8:14] = True
    expected, marks = (
        np.concatenate([values[..., part][here[..., part]] for part in (inside, ~inside)])
        for values in (written / (high - low), mask > 0)
    )
    for scores, sign in ((bright[0], 1), (dark[0], -1)):
        np.testing.assert_allclose(np.sort(sign * scores), np.sort(expected), atol=1e-6)
    np.testing.assert_allclose(np.sort(either[0]), np.sort(abs(expected)), atol=1e-6)
    assert expected.min() < -5e-4 and expected.max() > 0.01
    assert bright[1].sum() == marks.sum() > 0


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_under_a_config_in_mm_scores_are_those_of_the_map_too(scaling, tmp_path, counted):
    """Voxels of 2.5 x 3 x 3.5 mm, slices of 4 mm: with one range a volume, the map decides."""
    config = configs.SliceConfig(
        name="tiny",
        in_plane=None,
        size=(40, 40),
        window=(0, 9),
        scaling=scaling,
        spacing=(4.0, 4.0, 4.0),
        window_mm=(-20.0, 16.0),
        padding="background",
    )
    data_dir = tmp_path / "data"
    tiny_dataset.write_tiny_dataset(data_dir, config)
    known = {"slices": dataclasses.asdict(config)}
    keras.utils.set_random_seed(0)
    spec = networks.ModelSpec(
        name="resnet_like", stem_filters=4, stage_filters=(4,), stage_blocks=(1,)
    )
    network = networks.build(spec, config.size)
    model = tmp_path / "model" / "1"
    export_network(network, model, "resnet_like", scaling, config.size, known)
    grown = scipy.ndimage.zoom(head().astype(float), (1.6, 4 / 3, 5 / 3.5), order=1)
    voxels = np.pad(grown, ((0, 0), (0, 0), (9, 0))).astype(np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[20:27, 18:24, 20:33] = 1
    affine = image(voxels).affine * [2.5 / 4, 3 / 4, 3.5 / 5, 1]
    (tmp_path / "source").mkdir()
    for name, values in (("T1", voxels), ("lesion", mask)):
        nib.Nifti1Image(values, affine).to_filename(tmp_path / f"source/a_{name}.nii.gz")
    flags = [f"--saved_model={model}", f"--output_dir={tmp_path / 'out'}"]
    scored = [*flags, f"--source_dir={tmp_path / 'source'}", f"--data_dir={data_dir}"]
    assert evaluator.run(["anomalies", *scored, "--dataset=ixi_t1/tiny"]) == 0
    assert evaluator.run(["reconstruct", *flags, f"--input={tmp_path}/source/a_T1.nii.gz"]) == 0
    # Of "bright", inside and beyond the window, by the model.
    (inside, marks), (beyond, others) = counted[2:4]
    facts = json.loads((tmp_path / "out/a_T1_reconstruction.json").read_text())
    seen = nib.load(tmp_path / "out/a_T1_seen.nii.gz").get_fdata()
    assert facts["resampled"] and marks.sum() + others.sum() == mask.sum()
    assert marks.sum() == (mask > 0)[seen == 2].sum() and 0 < marks.sum() < mask.sum()
    if scaling == "volume":
        low, high = facts["range"]
        written = nib.load(tmp_path / "out/a_T1_anomaly.nii.gz").get_fdata() / (high - low)
        for scores, marked, place in ((inside, marks, seen == 2), (beyond, others, seen == 1)):
            expected = np.sort(written[place & (mask > 0)])
            np.testing.assert_allclose(np.sort(scores[marked]), expected, atol=1e-5)


def test_an_error_in_a_datasets_manifest_names_the_manifest(heads_dir, model, tmp_path, capsys):
    folder = shutil.copytree(heads_dir, tmp_path / "data")
    (path,) = folder.rglob("manifest.json")
    plain = json.loads(path.read_text())
    plain.pop("digest")
    plain["config"]["size"] = [32]
    path.write_text(json.dumps(plain))
    write_pair(tmp_path / "source", "a", seed=0)
    flags = arguments(model, folder, tmp_path / "out", f"--source_dir={tmp_path / 'source'}")
    message = refuse(flags, capsys)
    assert str(path) in message and "config.size" in message and "card" not in message


def test_a_dataset_that_knows_no_voxel_size_gets_a_warning(data_dir, model, tmp_path, capsys):
    voxels = head((64, 64, 24))
    mask = (voxels > 900).astype(np.uint8)
    write_head(tmp_path / "source", "a", voxels=voxels)
    nib.save(image(mask), tmp_path / "source/a_mask.nii.gz")
    source = f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(model, data_dir, tmp_path / "out", source)) == 0
    warning = "warning: the dataset does not tell the voxel size of its scans"
    assert capsys.readouterr().err.count(warning) == 1
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert facts["counts"]["lesion_voxels"] == mask.sum()


def test_names_of_files_are_text_in_the_report(heads_dir, model, tmp_path):
    for seed, name in enumerate(["<script>alert(1)<", "b\n<img src=x onerror=y>", "$\\frac{$"]):
        write_pair(tmp_path / "source", name, seed=seed)
    flags = arguments(model, heads_dir, tmp_path / "out", f"--source_dir={tmp_path / 'source'}")
    assert evaluator.run(flags) == 0
    page = (tmp_path / "out" / "anomalies.html").read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page and "&lt;img src=x onerror=y&gt;" in page
    assert "$\\frac{$" in page


def test_axes_of_the_file_do_not_matter(heads_dir, model, tmp_path):
    for axes in ("PSR", "LPI"):
        write_pair(tmp_path / axes, "a", seed=0, axes=axes)
        flag = f"--source_dir={tmp_path / axes}"
        assert evaluator.run(arguments(model, heads_dir, tmp_path / "out" / axes, flag)) == 0
    one, other = (
        (tmp_path / "out" / axes / "anomalies.csv").read_bytes() for axes in ("PSR", "LPI")
    )
    assert one == other
    facts = json.loads((tmp_path / "out" / "PSR" / "anomalies.json").read_text())
    assert {row["verdict"] for row in facts["comparisons"]} == {"no interval"}


@pytest.mark.parametrize(
    ("volume", "mask"),
    [
        ("x", "x_mask"),
        ("p07_T1_MNI", "p07_lesion_MNI"),
        ("sub-01_T1w", "derivatives/sub-01_label-lesion_mask"),
        ("sub-01_T1w", "sub-01_T1w_seg"),
        ("sub-r1_ses-1_T1w", "sub-r1_ses-1_label-L_desc-T1lesion_mask"),
    ],
)
def test_masks_are_found_by_name(tmp_path, volume, mask):
    write_head(tmp_path, volume)
    path = tmp_path / f"{mask}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / f"{volume}.nii.gz", path)
    (tmp_path / "other_mask.nii.gz").touch()
    (pair,), alone = pairs.find_pairs(str(tmp_path))
    assert pair.mask == str(path) and not alone


def test_of_several_masks_that_of_the_lesions_is_taken(tmp_path):
    for name in ("x", "x_mask", "x_lesion"):
        write_head(tmp_path, name)
    ((pair,), _) = pairs.find_pairs(str(tmp_path))
    assert pair.mask.endswith("x_lesion.nii.gz")
    write_head(tmp_path, "x_lesions")
    with pytest.raises(UserError, match="has several masks"):
        pairs.find_pairs(str(tmp_path))


def refuse(arguments, capsys):
    assert evaluator.run(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message


def shifted(affine, millimetres):
    moved = affine.copy()
    moved[0, 3] += millimetres
    return moved


@pytest.mark.parametrize(
    ("depth", "move"),
    [
        (20, lambda affine: affine),
        (24, lambda affine: shifted(affine, 5.0)),
        (24, lambda affine: shifted(affine, 0.5)),
        # Flipped about the first slice, not about the middle.
        (24, lambda affine: affine * [[-1.0], [1.0], [1.0], [1.0]] + shifted(0 * affine, 9.0)),
        (24, lambda affine: affine * [1.0, 1.0, 1.1, 1.0]),
    ],
    ids=["fewer_slices", "a_voxel_off", "half_a_millimetre_off", "flipped", "other_voxels"],
)
def test_a_mask_on_another_grid_gets_one_line(depth, move, heads_dir, model, tmp_path, capsys):
    write_head(tmp_path, "a_T1")
    made = image(np.ones((32, 32, depth), np.uint8))
    nib.Nifti1Image(np.asarray(made.dataobj), move(made.affine)).to_filename(
        tmp_path / "a_lesion.nii.gz"
    )
    flags = arguments(model, heads_dir, tmp_path / "out", f"--source_dir={tmp_path}")
    message = refuse(flags, capsys)
    assert f"{tmp_path / 'a_lesion.nii.gz'}: lies on another grid than" in message
    assert not list((tmp_path / "out").iterdir())


def test_a_mask_is_all_that_is_above_zero_whatever_the_labels(tmp_path):
    """Labels 1 and 2, shares, a slope, the rounding of an affine, and other axes than the scan."""
    write_head(tmp_path, "a_T1")
    labels = np.zeros((32, 32, 24))
    labels[3, 4, 5], labels[6, 7, 8], labels[9, 10, 11] = 1, 2, 0.25
    labels[12, 13, 14] = -1
    written = image(labels.astype(np.float32), "RAS")
    nib.Nifti1Image(np.asarray(written.dataobj), shifted(written.affine, 0.004)).to_filename(
        tmp_path / "a_lesion.nii"
    )
    (pair,), _ = pairs.find_pairs(str(tmp_path))
    volume = nifti.read_volume(pair.scan.path)
    found = pairs.read_mask(pair, volume)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, labels > 0)
    # Stored 0 to 3, which slope and intercept make -0.5, 0, 0.5 and 1.
    stored = np.arange(32 * 32 * 24).reshape(32, 32, 24) % 4
    content = bytearray(image(stored.astype(np.uint8)).to_bytes())
    content[112:120] = np.array([0.5, -0.5], "<f4").tobytes()
    (tmp_path / "a_lesion.nii").write_bytes(content)
    np.testing.assert_array_equal(pairs.read_mask(pair, volume), stored > 1)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--saved_model=nowhere", "no such folder"),
        ("--saved_model={model},{model}", "is named twice"),
        ("--saved_model=", "--saved_model is missing"),
        ("--data_dir=nowhere", "no such folder"),
        ("--dataset=ixi_t1/other", "which has ixi_t1/tiny"),
        ("--percentile=100", "must be below 100"),
        ("--blur_sigma=0", "must be above 0"),
        ("--smooth_sigma=-1", "must be between 0 and 1"),
        ("--batch_size=0", "must be at least 1"),
        ("--seed=-1", "must be at least 0"),
        ("--region=brain", "region"),
        ("--source_dir=nowhere", "no such folder"),
        ("--source_dir={data_dir}", "no T1 volumes"),
        ("stray", "'stray'"),
    ],
)
def test_bad_flags_get_one_line(flag, message, model, data_dir, tmp_path, capsys):
    flag = flag.format(data_dir=data_dir, model=model)
    assert message in refuse([*arguments(model, data_dir, tmp_path), flag], capsys)


def test_volumes_without_masks_get_one_line(heads_dir, model, tmp_path, capsys):
    write_head(tmp_path, "a_T1")
    flags = arguments(model, heads_dir, tmp_path / "out", f"--source_dir={tmp_path}")
    assert "no volume there has a lesion mask" in refuse(flags, capsys)


def test_models_that_do_not_fit_get_one_line(data_dir, tmp_path, capsys):
    export(tmp_path / "large", tf.identity, size=(96, 96))
    message = refuse(arguments(tmp_path / "large", data_dir, tmp_path / "out"), capsys)
    assert "takes slices of 96x96, and those of ixi_t1/tiny are 64x64" in message
    assert not list((tmp_path / "out").iterdir())


def nan_where(chosen):
    """A model that gives NaN for the slices whose sum is one of those chosen, to a thousandth."""

    def reconstruct(slices):
        sums = tf.reduce_sum(slices, axis=(1, 2, 3), keepdims=True)
        near = tf.reduce_any(tf.abs(sums - tf.constant(chosen, tf.float32)) < 1e-2, -1)
        return tf.where(near[..., None], np.nan, slices)

    return reconstruct


def test_a_model_that_gives_nan_gets_one_line_with_the_slice_and_no_score(
    data_dir, heads_dir, tmp_path, capsys
):
    """In the validation slices, in the test slices once they have lesions, and in a volume."""
    key, healthy = list(read_split(data_dir, "validation"))[5]
    export(tmp_path / "validation", nan_where([healthy.sum(dtype=np.float64)]))
    message = refuse(arguments(tmp_path / "validation", data_dir, tmp_path / "out"), capsys)
    assert message == f"error: validation gives values that are not finite for slice {key}"
    key, healthy = list(read_split(data_dir, "test"))[7]
    room = maps.inner_head(maps.head_mask(healthy))
    changed, _, _ = synthetic.add_lesion(healthy, room, key=key)
    export(tmp_path / "test", nan_where([changed.sum(dtype=np.float64)]))
    message = refuse(arguments(tmp_path / "test", data_dir, tmp_path / "out"), capsys)
    assert message == f"error: test gives values that are not finite for slice {key}"
    voxels, _ = write_pair(tmp_path / "source", "a", seed=0)
    # The first slices show no head, and are not given to the model.
    voxels[:, :, :4] = 0
    write_head(tmp_path / "source", "a_T1", voxels=voxels)
    sum_of_slice = stored(voxels[:, :, 15]).sum(dtype=np.float64)
    export(tmp_path / "volume", nan_where([sum_of_slice]))
    source = f"--source_dir={tmp_path / 'source'}"
    message = refuse(arguments(tmp_path / "volume", heads_dir, tmp_path / "out", source), capsys)
    assert message == "error: volume gives values that are not finite for slice a/015"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.real_data
def test_a_real_scan_with_multiple_sclerosis(real_data, model, tmp_path):
    """At 2 mm, of a scan of 1 mm without skull: against scikit-learn on the scan's own voxels."""
    data_dir = tmp_path / "data"
    config = configs.SliceConfig(name="tiny", in_plane=None, size=(128, 128), window=(30, 36))
    made = tiny_dataset.write_tiny_dataset(data_dir, config)
    geometry = manifests.Geometry((120, 120, 90), (2.0, 2.0, 2.0))
    manifests.write(made, dataclasses.replace(manifests.read(made), geometry=geometry))
    source = real_data / "lesions"
    assert (
        evaluator.run(arguments(model, data_dir, tmp_path / "out", f"--source_dir={source}")) == 0
    )
    facts = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert facts["counts"] == counts_of(1, 1300, 1300)
    names = {row["method"] for row in facts["overall"]}
    assert names == {"blur", "blurred input", "intensity"}

    stack = volumes.open_stack(
        str(source / "openms_p07_T1_MNI.nii.gz"),
        volumes.Geometry(config, (120, 120, 90), (2.0, 2.0, 2.0)),
    )
    slices = volumes.scanner_slices(stack, 0, stack.slices.n).astype(np.float64)
    # 182 slices of 1 mm become 91 of 2 mm, as many as the slices of the heads of training.
    assert stack.slices.n == 91
    heads = np.stack([maps.head_mask(stored(plane)) for plane in slices])
    inside = volumes.from_slices(stack, heads.astype(float)) >= 0.5
    used = np.flatnonzero(heads.any(axis=(1, 2)))
    low, high = slices.min(axis=(1, 2), keepdims=True), slices.max(axis=(1, 2), keepdims=True)
    slices = ((slices - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    dark = volumes.from_slices(stack, 1.0 - slices[used].astype(np.float64), given=used)
    mask = nib.as_closest_canonical(nib.load(source / "openms_p07_lesion_MNI.nii.gz"))
    # From RAS to PSR.
    marked = np.asarray(mask.dataobj).transpose(1, 2, 0)[::-1] > 0
    expected = sklearn.metrics.average_precision_score(marked[inside], dark[inside])
    found = next(
        row
        for row in facts["overall"]
        if (row["method"], row["looks_for"]) == ("intensity", "dark")
    )
    assert found["pixels"] == inside.sum()
    assert found["auprc"] == pytest.approx(expected, abs=1e-4)
    assert "auprc_low" not in found  # one person has no interval
