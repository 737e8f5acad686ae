"""`python -m evaluator reconstruct` through the real main: maps on the grid of the input."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
from bids_folder import write_bids
from nibabel import orientations
from tensorflow import keras
from untrained import export_network
from volumes import ZOOMS, head, image, write_head

from evaluator.__main__ import run
from ixi_tfds.config import THESIS, SliceConfig
from ixi_tfds.documents import model_card
from trainer import models

SMALL = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
SMALL_GEOMETRY = {"shape": [32, 32, 24], "zooms": list(ZOOMS)}


def facts_of(config, geometry):
    return {"slices": dataclasses.asdict(config), "geometry": geometry}


def write_model(folder, config, geometry):
    """A narrow network with random weights, exported as the trainer does."""
    keras.utils.set_random_seed(0)
    spec = models.ModelSpec(
        name="resnet_like", stem_filters=4, stage_filters=(4,), stage_blocks=(1,)
    )
    network = models.build(spec, config.size)
    facts = facts_of(config, geometry)
    export_network(network, folder / "1", "resnet_like", config.scaling, config.size, facts)
    return folder


def write_copier(folder, config, geometry, factor=1.0, outputs=None):
    """A SavedModel of no code of ours, whose reconstruction is the input times a factor.

    `outputs`, of slices to reconstruction and residual, takes the factor's place.
    """
    module = tf.Module()
    grey = tf.TensorSpec((None, *config.size, 1), tf.float32, name="slices")
    scanner = tf.TensorSpec((None, *config.size), tf.float32, name="slices")
    signatures = {
        "serving_default": tf.function(lambda slices: {"reconstruction": slices}, [grey]),
        "raw": tf.function(
            lambda slices: dict(
                zip(
                    ("reconstruction", "residual"),
                    outputs(slices) if outputs else (slices * factor, slices * (1 - factor)),
                    strict=True,
                )
            ),
            [scanner],
        ),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    card = {"datasets": {"ixi_t1/small": facts_of(config, geometry)}}
    card["digest"] = model_card.digest(folder)
    (folder / model_card.CARD).write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), SMALL, SMALL_GEOMETRY)


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    return write_copier(tmp_path_factory.mktemp("copier") / "copy", SMALL, SMALL_GEOMETRY)


def reconstruct(model, source, output, *more):
    """Without views, which take a second each, unless `--view` is among the flags."""
    flags = [f"--saved_model={model}", f"--input={source}", f"--output_dir={output}"]
    return run(["reconstruct", *flags, "--view=false", *more])


def same_head_otherwise(path, folder):
    """The head of a file in other axes, and as float64 with a slope and an intercept."""
    source = nib.load(path)
    written = [path]
    for axes in ("RAS", "LPI"):
        transform = orientations.ornt_transform(
            orientations.io_orientation(source.affine), orientations.axcodes2ornt(axes)
        )
        written.append(folder / f"{axes}.nii.gz")
        nib.save(source.as_reoriented(transform), written[-1])
    stored = (np.asarray(source.dataobj, np.float64) + 3) / 0.5
    made = nib.Nifti1Image(stored, source.affine, source.header)
    made.set_data_dtype(np.float64)
    # nibabel scales no floats of its own accord, so the two fields are put into the file.
    content = bytearray(made.to_bytes())
    content[112:120] = np.array([0.5, -3.0], "<f4").tobytes()
    (folder / "float64.nii").write_bytes(content)
    return [*written, folder / "float64.nii"]


def assert_same_maps_on_each_grid(model, path, folder):
    expected = None
    for source in same_head_otherwise(path, folder):
        assert reconstruct(model, source, folder / "out") == 0
        scan = nib.load(source)
        name = source.name.split(".")[0]
        maps = []
        for suffix in ("reconstruction", "anomaly"):
            written = nib.load(folder / f"out/{name}_{suffix}.nii.gz")
            assert written.shape == scan.shape
            assert written.get_data_dtype() == np.float32
            np.testing.assert_array_equal(written.affine, scan.affine)
            for field in ("sform_code", "qform_code", "pixdim"):
                np.testing.assert_array_equal(written.header[field], scan.header[field])
            np.testing.assert_array_equal(written.get_qform(), scan.get_qform())
            maps.append(np.asarray(nib.as_closest_canonical(written).dataobj))
        reconstruction, anomaly = maps
        original = nib.as_closest_canonical(scan).get_fdata()
        np.testing.assert_allclose(original - reconstruction, anomaly, atol=1e-3, rtol=1e-5)
        assert np.abs(anomaly).max() > 1
        expected = expected or maps
        for found, first in zip(maps, expected, strict=True):
            np.testing.assert_array_equal(found, first)
    return folder / "out"


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_one_head_in_other_axes_and_types_has_the_same_maps(tmp_path, scaling):
    config = dataclasses.replace(SMALL, scaling=scaling)
    model = write_model(tmp_path / "model", config, SMALL_GEOMETRY)
    assert_same_maps_on_each_grid(model, write_head(tmp_path, "psr"), tmp_path)


@pytest.mark.real_data
@pytest.mark.lanes
@pytest.mark.slow
def test_a_real_head_in_other_axes_and_types_has_the_same_maps(real_data, tmp_path):
    geometry = {"shape": [256, 256, 150], "zooms": [0.9375, 0.9375, 1.2]}
    model = write_model(tmp_path / "model", THESIS, geometry)
    (path,) = (real_data / "ixi/full").glob("*.nii.gz")
    output = assert_same_maps_on_each_grid(model, path, tmp_path)
    facts = json.loads((output / "RAS_reconstruction.json").read_text())
    assert (len(facts["slices"]), facts["slices_in_window"], facts["resampled"]) == (150, 60, False)


def test_the_maps_are_those_of_the_raw_signature(model, tmp_path):
    """Plain TensorFlow and nibabel give the same values, slice by slice."""
    path = write_head(tmp_path, "x", axes="LPI")
    assert reconstruct(model, path, tmp_path / "out", "--batch_size=5") == 0
    raw = tf.saved_model.load(str(model / "1")).signatures["raw"]
    expected = raw(slices=tf.constant(head().transpose(2, 0, 1), tf.float32))
    to_psr = orientations.ornt_transform(
        orientations.axcodes2ornt("LPI"), orientations.axcodes2ornt("PSR")
    )
    for name, key in (("reconstruction", "reconstruction"), ("anomaly", "residual")):
        written = nib.load(tmp_path / f"out/x_{name}.nii.gz").as_reoriented(to_psr)
        found = np.asarray(written.dataobj).transpose(2, 0, 1)
        np.testing.assert_allclose(found, expected[key].numpy(), atol=1e-3)


@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_the_maps_are_what_the_network_makes_of_the_stored_slices(tmp_path, scaling):
    """By NumPy from scanner values to 8 bits, by `serving_default`, and back by NumPy.

    The range of a volume is that of its window, beyond which the head is brighter here.
    """
    config = dataclasses.replace(SMALL, scaling=scaling)
    model = write_model(tmp_path / "model", config, SMALL_GEOMETRY) / "1"
    voxels = np.round(head() * np.linspace(0.3, 2, 24)).astype(np.int16) + np.int16(17)
    path = write_head(tmp_path, "x", voxels=voxels, axes="LPI")
    assert reconstruct(model, path, tmp_path / "out", "--batch_size=5") == 0
    slices = voxels.transpose(2, 0, 1).astype(np.float64)
    low, high = slices.min(axis=(1, 2)), slices.max(axis=(1, 2))
    limits = None
    if scaling == "volume":
        limits = np.percentile(voxels[:, :, 8:14], (0.5, 99.5), method="inverted_cdf").tolist()
        low, high = (np.full(24, limit) for limit in limits)
    low, high = low[:, None, None], high[:, None, None]
    levels = np.floor(255 * (slices.clip(low, high) - low) / (high - low) + 0.499999999)
    loaded = tf.saved_model.load(str(model))
    given = tf.constant(levels[..., None] / 255, tf.float32)
    unit = loaded.signatures["serving_default"](slices=given)["reconstruction"].numpy()[..., 0]
    expected = low + unit * (high - low)
    within = {"low": low, "high": high} if scaling == "volume" else {}
    raw = loaded.signatures["raw"](
        slices=tf.constant(slices, tf.float32),
        **{name: tf.constant(value.ravel(), tf.float32) for name, value in within.items()},
    )
    np.testing.assert_allclose(raw["reconstruction"].numpy(), expected, atol=0.02)
    to_psr = orientations.ornt_transform(
        orientations.axcodes2ornt("LPI"), orientations.axcodes2ornt("PSR")
    )
    for name, values in (("reconstruction", expected), ("anomaly", slices - expected)):
        written = nib.load(tmp_path / f"out/x_{name}.nii.gz").as_reoriented(to_psr)
        found = np.asarray(written.dataobj).transpose(2, 0, 1)
        np.testing.assert_allclose(found, values, atol=0.02)
        # A constant map would be told apart, and so would one that is cut off at 0.
        assert found.std() > 1
    assert found.min() < -1 and found.max() > 1
    facts = json.loads((tmp_path / "out/x_reconstruction.json").read_text())
    assert facts["range"] == limits and facts["scaling"] == scaling
    assert facts["input"] == "x.nii.gz" and facts["model"] == "model/1"
    assert facts["share_seen"] == 1 and not facts["resampled"]
    sizes = np.abs(slices - expected).mean(axis=(1, 2))
    for row, size in zip(facts["slices"], sizes, strict=True):
        assert row["mean_absolute_residual"] == pytest.approx(size, abs=0.02)


def test_what_the_model_does_not_see_is_nan_in_both_maps_and_0_in_the_third(tmp_path, capsys):
    config = dataclasses.replace(SMALL, size=(16, 24))
    model = write_copier(tmp_path / "half", config, SMALL_GEOMETRY, factor=0.75)
    voxels = head() + np.int16(100)
    path = write_head(tmp_path, "x", voxels=voxels, axes="LPI")
    assert reconstruct(model, path, tmp_path / "out") == 0
    seen = np.zeros(voxels.shape, np.uint8)
    seen[8:24, 4:28] = 1
    seen[8:24, 4:28, 8:14] = 2
    for name, factor in (("reconstruction", 0.75), ("anomaly", 0.25)):
        found = in_psr(tmp_path / f"out/x_{name}.nii.gz")
        np.testing.assert_array_equal(found, np.where(seen, factor * voxels, np.nan))
    written = nib.load(tmp_path / "out/x_seen.nii.gz")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(in_psr(tmp_path / "out/x_seen.nii.gz"), seen)
    facts = json.loads((tmp_path / "out/x_reconstruction.json").read_text())
    assert facts["share_seen"] == 0.375
    shown = capsys.readouterr()
    # The line about a scan tells of its window alone.
    mean = 0.25 * voxels[8:24, 4:28, 8:14].mean()
    assert f"residual in the window {mean:.4g}\n" in shown.out
    # Of the head, a ball of 0.9 of each side, more is seen than of the volume.
    share = facts["share_of_head_seen"]
    ball = head_of(voxels)
    assert share == pytest.approx((ball & (seen > 0)).sum() / ball.sum(), abs=0.02)
    assert 0.5 < share < 0.7 and f"{share:.0%} of the head seen" in shown.out
    warning = f"warning: {path}: the model saw only {share:.0%} of the head"
    assert shown.err.count(warning) == 1 and facts["warnings"][0] in shown.err


def in_psr(path):
    """The values of a file, turned to the axes of the dataset."""
    stored = nib.load(path)
    transform = orientations.ornt_transform(
        orientations.io_orientation(stored.affine), orientations.axcodes2ornt("PSR")
    )
    return np.asarray(stored.as_reoriented(transform).dataobj)


def head_of(voxels):
    return voxels > 100 + 0.1 * (voxels.max() - 100)


def test_a_head_that_is_seen_whole_gets_no_warning(copier, tmp_path, capsys):
    assert reconstruct(copier, write_head(tmp_path, "x"), tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert "100% of the head seen" in shown.out and "of the head" not in shown.err
    assert json.loads((tmp_path / "out/x_reconstruction.json").read_text())["warnings"] == []


def test_a_neck_in_the_file_takes_the_model_off_the_head_unless_its_config_is_in_mm(
    tmp_path, capsys
):
    """The middle of the file lies low; a config in mm looks for the head."""
    voxels = np.zeros((32, 56, 24), np.int16)
    voxels[:, 24:] = head()
    neck = np.random.default_rng(0).integers(300, 500, (12, 26, 10))
    voxels[10:22, :26, 7:17] = np.maximum(voxels[10:22, :26, 7:17], neck)
    path = write_head(tmp_path, "x", voxels=voxels, axes="RAS")
    shares = {}
    for config in (
        SMALL,
        SliceConfig("mm", None, (40, 44), (0, 8), "slice", (4.0,) * 3, (-16.0, 16.0), "background"),
    ):
        model = write_copier(tmp_path / config.name, config, SMALL_GEOMETRY)
        out = tmp_path / f"out_{config.name}"
        assert reconstruct(model, path, out) == 0
        facts = json.loads((out / "x_reconstruction.json").read_text())
        shares[config.name] = facts["share_of_head_seen"]
        warned = f"the model saw only {shares[config.name]:.0%} of the head"
        assert capsys.readouterr().err.count(warned) == (config is SMALL)
        padding = "scanner zeros" if config is SMALL else "background"
        assert facts["padding"] == padding
    assert shares["small"] < 0.75 and shares["mm"] > 0.99


@pytest.mark.parametrize("axes", ["PSR", "RAS"])
def test_a_window_off_its_place_in_the_heads_of_training_is_warned_of(tmp_path, axes, capsys):
    """Slices of air before the head move the window to its left side, unless it is in mm."""
    in_mm = SliceConfig(
        "mm", None, (40, 44), (0, 6), "slice", (4.0, 4.0, 5.0), (-20.0, 10.0), "background"
    )
    geometry = SMALL_GEOMETRY | {"off_middle": -7.5}
    models = [write_copier(tmp_path / c.name, c, geometry) for c in (SMALL, in_mm)]
    for air in (0, 1, 6):
        voxels = np.pad(head(), ((0, 0), (0, 0), (air, 0)))
        path = write_head(tmp_path, f"x{air}", voxels=voxels, axes=axes)
        off = []
        for model in models:
            assert reconstruct(model, path, tmp_path / f"out_{model.name}") == 0
            told = tmp_path / f"out_{model.name}/x{air}_reconstruction.json"
            facts = json.loads(told.read_text())
            off.append(facts["window_off_mm"])
            lies = f"the training window lies {abs(off[-1]):.0f} mm to the left of its place in"
            warning = f"{lies} the training heads, because slices are counted from the file's first"
            warned = model.name == "small" and air > 1
            assert capsys.readouterr().err.count(warning) == warned == len(facts["warnings"])
            assert facts["slices_in_window"] == facts["slices_of_window"] == 6
        assert off == pytest.approx([-5 * air, 0], abs=0.3)


def test_a_volume_that_ends_before_the_window_does_is_warned_of(copier, tmp_path, capsys):
    path = write_head(tmp_path, "x", voxels=head()[:, :, :11])
    assert reconstruct(copier, path, tmp_path / "out") == 0
    assert "has only 3 of the 6 slices of the training window" in capsys.readouterr().err


def test_each_scan_of_a_folder_gets_its_own_maps(tmp_path):
    model = write_copier(tmp_path / "half", SMALL, SMALL_GEOMETRY, factor=0.5)
    heads = {name: head(seed=seed) for seed, name in enumerate(["b", "a", "c"])}
    for name, voxels in heads.items():
        write_head(tmp_path / "in", name, voxels=voxels, axes="RAS" if name == "a" else "PSR")
    assert reconstruct(model, tmp_path / "in", tmp_path / "out") == 0
    for name, voxels in heads.items():
        facts = json.loads((tmp_path / f"out/{name}_reconstruction.json").read_text())
        assert facts["input"] == f"{name}.nii.gz"
        assert facts["slices"][11]["largest_absolute_residual"] == voxels[:, :, 11].max() / 2
        for suffix in ("reconstruction", "anomaly"):
            scan = nib.load(tmp_path / f"in/{name}.nii.gz")
            found = nib.load(tmp_path / f"out/{name}_{suffix}.nii.gz").get_fdata()
            np.testing.assert_array_equal(found, scan.get_fdata() / 2)


def test_slices_that_are_extrapolated_are_noted_whichever_scan_has_them(tmp_path, capsys):
    config = dataclasses.replace(SMALL, window=(0, 24))
    model = write_copier(tmp_path / "copy", config, SMALL_GEOMETRY)
    write_head(tmp_path / "in", "b")
    assert reconstruct(model, tmp_path / "in", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert "warning" not in captured.err and "note" not in captured.out
    assert "60 mm left to 60 mm right of the middle of the volume" in captured.out
    write_head(tmp_path / "in", "a", shape=(32, 32, 26))
    assert reconstruct(model, tmp_path / "in", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert captured.out.count("note: slices outside the window") == 1
    assert "warning" not in captured.err


def nan_where_bright(broken_maps):
    """Those of the two maps that are named are NaN in slices that reach 30000."""

    def outputs(slices):
        bright = tf.reduce_max(slices, axis=(1, 2), keepdims=True) > 30_000
        broken = tf.where(bright, np.nan, slices)
        return [
            broken if part in broken_maps else slices for part in ("reconstruction", "residual")
        ]

    return outputs


@pytest.mark.parametrize("broken_maps", [["reconstruction"], ["residual"]])
def test_a_model_that_gives_nan_for_a_slice_leaves_no_map_of_that_scan(
    tmp_path, broken_maps, capsys
):
    outputs = nan_where_bright(broken_maps)
    model = write_copier(tmp_path / "nan", SMALL, SMALL_GEOMETRY, outputs=outputs)
    voxels = head()
    voxels[16, 16, 18] = 32_000
    path = write_head(tmp_path / "in", "a", voxels=voxels)
    write_head(tmp_path / "in", "b")
    assert reconstruct(model, tmp_path / "in", tmp_path / "out") == 2
    (error,) = (e for e in capsys.readouterr().err.splitlines() if e.startswith("error: "))
    assert f"1 of 2 scans refused: {path}: " in error
    assert error.endswith("the model gives values that are not finite for slices 16 to 23")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    names = ["anomaly.nii.gz", "reconstruction.json", "reconstruction.nii.gz", "seen.nii.gz"]
    assert written == [f"b_{name}" for name in names]
    assert reconstruct(model, path, tmp_path / "alone") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and error.count("\n") == 1
    assert not list((tmp_path / "alone").iterdir())


def test_a_model_that_copies_gives_the_input_back_exactly(copier, tmp_path):
    path = write_head(tmp_path, "x", axes="SLA")
    assert reconstruct(copier, path, tmp_path / "out") == 0
    copy = nib.load(tmp_path / "out/x_reconstruction.nii.gz")
    np.testing.assert_array_equal(copy.get_fdata(), nib.load(path).get_fdata())
    assert not nib.load(tmp_path / "out/x_anomaly.nii.gz").get_fdata().any()


def test_another_voxel_size_is_resampled_there_and_back(copier, tmp_path, capsys):
    """What resampling loses is in the reconstruction, and not in the anomaly map."""
    voxels = head((43, 39, 40)).astype(np.float32)
    made = image(voxels)
    scaled = made.affine * [0.75, 0.8, 0.6, 1]
    nib.save(nib.Nifti1Image(voxels, scaled), tmp_path / "x.nii.gz")
    assert reconstruct(copier, tmp_path / "x.nii.gz", tmp_path / "out") == 0
    assert ", resampled" in capsys.readouterr().out
    copy = nib.load(tmp_path / "out/x_reconstruction.nii.gz").get_fdata()
    assert copy.shape == voxels.shape
    error = (copy - voxels)[4:-4, 4:-4]
    assert 0 < np.sqrt((error**2).mean()) < 0.1 * np.ptp(voxels)
    assert not nib.load(tmp_path / "out/x_anomaly.nii.gz").get_fdata().any()
    facts = json.loads((tmp_path / "out/x_reconstruction.json").read_text())
    assert facts["resampled"] and facts["share_seen"] == 1
    assert facts["pixel_mm"] == [3.0, 3.2] and facts["model_pixel_mm"] == [4.0, 4.0]
    assert (facts["slice_mm"], facts["model_slice_mm"]) == (3.0, 5.0)
    # 40 slices of 3 mm are 24 of 5 mm, as in training; 10 of the 40 lie in the window of 6.
    assert [row["in_window"] for row in facts["slices"]] == [8 <= i < 14 for i in range(24)]
    assert facts["window_mm"] == [-20, 10] and facts["window_mm_from"] == "middle of the volume"
    assert facts["window_file_slices"] == [13.667, 22]
    assert facts["slices"][13]["file_index"] == 22 and facts["slices"][13]["mm"] == 7.5
    seen = nib.load(tmp_path / "out/x_seen.nii.gz").get_fdata()
    np.testing.assert_array_equal(np.flatnonzero((seen == 2).all(axis=(0, 1))), np.arange(13, 23))
    assert seen.min() == 1


def test_the_text_on_the_anomaly_map_says_what_holds(tmp_path, capsys):
    """At sharp edges input minus a map that was resampled is far from the reconstruction."""
    model = write_copier(tmp_path / "half", SMALL, SMALL_GEOMETRY, factor=0.5)
    voxels = head().astype(np.float32)
    write_head(tmp_path / "in", "same", voxels=voxels)
    fine = image(voxels).affine * [0.6, 0.6, 0.6, 1]
    nib.save(nib.Nifti1Image(voxels, fine), tmp_path / "in/fine.nii.gz")
    assert reconstruct(model, tmp_path / "in", tmp_path / "out") == 0
    differences = {}
    for name in ("same", "fine"):
        copy, anomaly = (
            nib.load(tmp_path / f"out/{name}_{kind}.nii.gz").get_fdata()
            for kind in ("reconstruction", "anomaly")
        )
        differences[name] = np.abs(voxels - anomaly - copy).max() / np.ptp(voxels)
    assert differences["same"] == 0 and differences["fine"] > 0.2
    same, fine = (
        json.loads((tmp_path / f"out/{name}_reconstruction.json").read_text())["anomaly"]
        for name in ("same", "fine")
    )
    assert same == "input minus reconstruction, in the units of the input"
    assert "it is not input minus reconstruction" in fine and "model's grid" in fine
    assert run(["reconstruct", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "exactly, if the scan is not resampled" in said


@pytest.mark.parametrize("axes", ["PSR", "RAS", "LPI"])
def test_slices_outside_the_window_are_marked_by_their_place_in_the_file(
    tmp_path, axes, copier, capsys
):
    model = write_copier(tmp_path / "half", SMALL, SMALL_GEOMETRY, factor=0.5)
    path = write_head(tmp_path, "x", axes=axes)
    assert reconstruct(model, path, tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert "24 slices, 6 of them in the window" in shown.out
    assert shown.out.count("note: slices outside the window") == 1
    facts = json.loads((tmp_path / "out/x_reconstruction.json").read_text())
    anomaly = np.moveaxis(
        nib.load(tmp_path / "out/x_anomaly.nii.gz").get_fdata(), facts["slice_axis"], 0
    )
    assert len(facts["slices"]) == len(anomaly) == 24
    for index, row in enumerate(facts["slices"]):
        assert row["in_window"] == (8 <= index < 14)
        size = np.abs(anomaly[row["file_index"]])
        assert size.max() == pytest.approx(row["largest_absolute_residual"], rel=1e-6)
        assert size.mean() == pytest.approx(np.abs(head()[:, :, index]).mean() / 2, rel=1e-6)
        assert size.mean() == pytest.approx(row["mean_absolute_residual"], rel=1e-6)


def test_a_model_that_knows_no_voxel_size_says_so_and_never_resamples(tmp_path, capsys):
    model = write_copier(tmp_path / "old", SMALL, None)
    voxels = head()
    nib.save(nib.Nifti1Image(voxels, image(voxels).affine / [2, 2, 2, 1]), tmp_path / "x.nii.gz")
    assert reconstruct(model, tmp_path / "x.nii.gz", tmp_path / "out") == 0
    assert "does not tell the voxel size" in capsys.readouterr().err
    copy = nib.load(tmp_path / "out/x_reconstruction.nii.gz").get_fdata()
    np.testing.assert_array_equal(copy, voxels)


def write_bad(folder):
    """A file a fault, by what is said of it."""
    folder.mkdir()
    grid = image(head())
    nan = head().astype(np.float32)
    nan[3, 4, 5] = np.nan
    for name, voxels in {
        "flat": np.ones((32, 32), np.int16),
        "series": np.ones((32, 32, 24, 2), np.int16),
        "nan": nan,
        "constant": np.full((32, 32, 24), 7, np.int16),
    }.items():
        nib.save(nib.Nifti1Image(voxels, grid.affine), folder / f"{name}.nii.gz")
    (folder / "text.nii.gz").write_text("not an image")
    metres = grid.affine / [[1000.0], [1000.0], [1000.0], [1.0]]
    nib.save(nib.Nifti1Image(head(), metres), folder / "metres.nii.gz")
    write_head(folder, "shallow", shape=(32, 32, 8))
    return {
        "flat": "not a 3-D volume: its shape is (32, 32)",
        "series": "not a 3-D volume: its shape is (32, 32, 24, 2)",
        "nan": "1 voxels that are NaN inside the head",
        "constant": "every voxel of its window is 7",
        "text": "no valid header of a format that is read",
        "metres": "is its affine in millimetres?",
        "shallow": "has 8 sagittal slices, none of them in the window of training",
    }


def test_bad_scans_do_not_stop_the_others_and_are_named_in_the_end(copier, tmp_path, capsys):
    source = tmp_path / "scans"
    said = write_bad(source)
    write_head(source / "deeper", "good")
    write_head(source, "good_mask")
    assert reconstruct(copier, source, tmp_path / "out") == 2
    shown = capsys.readouterr()
    assert "passed over by name: 1, such as" in shown.out
    (error,) = (line for line in shown.err.splitlines() if line.startswith("error: "))
    assert "7 of 8 scans refused" in error
    for name, detail in said.items():
        assert f"{name}.nii.gz" in error and detail in error
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    names = ["anomaly.nii.gz", "reconstruction.json", "reconstruction.nii.gz", "seen.nii.gz"]
    assert written == [f"deeper/good_{name}" for name in names]


def test_one_bad_scan_gets_one_line(copier, tmp_path, capsys):
    for name, detail in write_bad(tmp_path / "scans").items():
        path = tmp_path / f"scans/{name}.nii.gz"
        assert reconstruct(copier, path, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}") and error.count("\n") == 1
        assert detail in error
        assert not list((tmp_path / "out").iterdir())


def test_all_sessions_of_a_bids_folder(copier, tmp_path):
    source = write_bids(tmp_path / "study", subjects=3)
    # Results beside the scans, twice: results are no scans.
    for _ in range(2):
        assert reconstruct(copier, source, source) == 0
    written = sorted(str(p.relative_to(source)) for p in source.rglob("*_anomaly.nii.gz"))
    assert written == [
        "sub-01/anat/sub-01_T1w_anomaly.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w_anomaly.nii.gz",
        "sub-02/ses-b/anat/sub-02_T1w_anomaly.nii.gz",
        "sub-03/anat/sub-03_T1w_anomaly.nii.gz",
        "sub-03/anat/sub-03_run-2_T1w_anomaly.nii.gz",
    ]
    flat = tmp_path / "flat"
    for path in source.rglob("sub-0[12]*_T1w.nii.gz"):
        flat.mkdir(exist_ok=True)
        shutil.copy(path, flat)
    for _ in range(2):
        assert reconstruct(copier, flat, flat, "--view") == 0
    assert len(list(flat.iterdir())) == 7 * len(list(flat.glob("*_T1w.nii.gz")))


def test_same_bytes_again(model, tmp_path):
    path = write_head(tmp_path, "x")
    for name in ("one", "two"):
        assert reconstruct(model, path, tmp_path / name, "--view") == 0
    for written in sorted((tmp_path / "one").iterdir()):
        assert written.read_bytes() == (tmp_path / "two" / written.name).read_bytes()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--input=nowhere.nii.gz", "--input=nowhere.nii.gz: no such file or folder"),
        ("--input={empty}", "no T1 volumes"),
        ("--saved_model=nowhere", "--saved_model=nowhere: no such file or folder"),
        ("--saved_model={empty}", "no SavedModel there"),
        ("--output_dir={scan}", "--output_dir"),
        ("--batch_size=0", "must be at least 1"),
        ("--data_dir=D", "data_dir"),
        ("stray", "'stray'"),
    ],
)
def test_bad_flags_get_one_line(flag, message, copier, tmp_path, capsys):
    path = write_head(tmp_path, "x")
    (tmp_path / "empty").mkdir()
    flag = flag.format(empty=tmp_path / "empty", scan=path)
    assert reconstruct(copier, path, tmp_path / "out", flag) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_missing_flags_and_unfit_models_get_one_line(copier, tmp_path, capsys):
    path = write_head(tmp_path, "x")
    assert run(["reconstruct", f"--input={path}"]) == 2
    assert "saved_model" in capsys.readouterr().err
    model = shutil.copytree(copier, tmp_path / "copy")
    (model / "assets.extra/model_card.json").write_text("{}")
    assert reconstruct(model, path, tmp_path / "out") == 2
    assert "does not tell what slices" in capsys.readouterr().err
    facts = facts_of(dataclasses.replace(SMALL, size=(64, 64)), None)
    other = {"datasets": {"ixi_t1/small": facts}}
    (model / "assets.extra/model_card.json").write_text(json.dumps(other))
    assert reconstruct(model, path, tmp_path / "out") == 2
    assert "takes slices of 32x32, its card tells of 64x64" in capsys.readouterr().err
    infinite = write_copier(tmp_path / "infinite", SMALL, SMALL_GEOMETRY, factor=np.inf)
    assert reconstruct(infinite, path, tmp_path / "out") == 2
    assert "not finite for slices 0 to 15" in capsys.readouterr().err
    double = tmp_path / "double"
    write_head(double, "x")
    shutil.copy(path, double / "x.nii")
    assert reconstruct(copier, double, tmp_path / "out") == 2
    assert "their results would be the same files" in capsys.readouterr().err


def test_help_is_that_of_the_command(capsys):
    assert run(["reconstruct", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--input" in shown and "--data_dir" not in shown
    assert run(["--help"]) == 0
    assert "reconstruct" in capsys.readouterr().out
