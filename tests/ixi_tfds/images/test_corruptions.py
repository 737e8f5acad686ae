"""Corruptions: the tensor functions, and the table that the evaluator and the trainer read."""

import csv
import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
import tiny_dataset

import trainer.augmentation
from evaluator import __main__ as evaluator
from ixi_tfds.images import corruptions
from ixi_tfds.images.corruptions import CORRUPTIONS, Corruption, TrainingFlag
from ixi_tfds.system import commands, flags


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 16, 24, 1), dtype=np.float32)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7])
def test_blur_is_that_of_scipy(images, sigma):
    radius = int(np.ceil(3 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        images.astype(np.float64),
        (0, sigma, sigma, 0),
        mode="mirror",
        radius=(0, radius, radius, 0),
    )
    np.testing.assert_allclose(corruptions.gaussian_blur(images, sigma), expected, atol=1e-6)


def test_patches_are_black_where_told_and_nowhere_else(images):
    centers = np.float32([[[3, 5], [10, 20]], [[0, 0], [15, 23]], [[8, 8], [8, 8]]])
    sizes = np.float32([[4, 6], [4, 4], [0, 0]])
    expected = images.copy()
    expected[0, 1:5, 3:7] = 0
    expected[0, 7:13, 17:23] = 0
    expected[1, 0:2, 0:2] = 0
    expected[1, 13:16, 21:24] = 0
    np.testing.assert_array_equal(corruptions.zero_patches(images, centers, sizes), expected)


def test_dropout_at_half_resolution_makes_blocks_of_two_by_two(images):
    keep = np.ones((3, 8, 12), bool)
    keep[1, 2, 3] = False
    expected = images.copy()
    expected[1, 4:6, 6:8] = 0
    np.testing.assert_array_equal(corruptions.pixel_dropout(images, tf.constant(keep)), expected)


def test_dropout_at_full_resolution_takes_single_pixels(images):
    keep = np.random.default_rng(1).random(images.shape[:3]) < 0.9
    dropped = corruptions.pixel_dropout(images, tf.constant(keep))
    np.testing.assert_array_equal(dropped, images * keep[..., None])


def test_dropout_in_blocks_that_are_not_square(images):
    keep = np.random.default_rng(4).random((3, 4, 12)) < 0.7
    expected = images * np.kron(keep, np.ones((4, 2)))[..., None].astype(np.float32)
    np.testing.assert_array_equal(corruptions.pixel_dropout(images, tf.constant(keep)), expected)


def test_all_channels_lose_the_same_pixels(images):
    colours = np.concatenate([images, images / 2, images / 4], axis=-1)
    keep = tf.constant(np.random.default_rng(5).random((3, 8, 12)) < 0.7)
    centers, sizes = np.float32([[[3, 5]], [[9, 2]], [[15, 23]]]), np.float32([[4], [3], [5]])
    dropped = corruptions.pixel_dropout(colours, keep)
    patched = corruptions.zero_patches(colours, centers, sizes)
    for channel in range(3):
        one = colours[..., channel : channel + 1]
        np.testing.assert_array_equal(
            dropped[..., channel : channel + 1], corruptions.pixel_dropout(one, keep)
        )
        np.testing.assert_array_equal(
            patched[..., channel : channel + 1], corruptions.zero_patches(one, centers, sizes)
        )


def test_noise_is_added_to_the_slice(images):
    noise = np.random.default_rng(6).normal(0, 0.3, (2, *images.shape)).astype(np.float32)
    np.testing.assert_allclose(
        corruptions.gaussian_noise(images, noise[0]), np.clip(images + noise[0], 0, 1), atol=1e-6
    )
    magnitude = np.abs(images + noise[0] + 1j * noise[1])
    np.testing.assert_allclose(
        corruptions.rician_noise(images, noise[0], noise[1]), magnitude.clip(0, 1), atol=1e-6
    )


def test_noise_stays_in_range_and_rician_noise_brightens_black():
    noise = np.random.default_rng(2).normal(0, 0.2, (2, 2, 40, 40, 1)).astype(np.float32)
    black = np.zeros((2, 40, 40, 1), np.float32)
    gaussian = corruptions.gaussian_noise(black, noise[0]).numpy()
    np.testing.assert_array_equal(gaussian, np.clip(noise[0], 0, 1))
    rician = corruptions.rician_noise(black, noise[0], noise[1]).numpy()
    assert rician.max() <= 1
    # The magnitude of noise alone is Rayleigh distributed.
    assert rician.mean() == pytest.approx(0.2 * np.sqrt(np.pi / 2), rel=0.05)


def test_all_compile_under_xla_and_give_the_same(images):
    keep = tf.constant(np.random.default_rng(3).random((3, 8, 12)) < 0.8)
    centers, sizes = tf.fill((3, 2, 2), 7.0), tf.fill((3, 2), 5.0)

    def corrupt(values):
        values = corruptions.gaussian_blur(values, 1.0)
        values = corruptions.zero_patches(values, centers, sizes)
        values = corruptions.pixel_dropout(values, keep)
        values = corruptions.gaussian_noise(values, 0.1 * values)
        return corruptions.rician_noise(values, 0.1 * values, 0.1 * values)

    compiled = tf.function(corrupt, jit_compile=True)(tf.constant(images))
    np.testing.assert_allclose(compiled, corrupt(tf.constant(images)), atol=1e-5)


def test_the_table_is_read_without_tensorflow():
    code = "import sys, trainer.augmentation; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_two_flags_share_a_name_nor_two_draws():
    """Draws of one name would be the same numbers, and one would take the other's place."""
    found = [corruption.flag for corruption in CORRUPTIONS.values() if corruption.flag]
    config = trainer.augmentation.AugmentationConfig(fraction=0.5)
    others = trainer.augmentation.sample(
        config, seed=tf.constant([0, 0], tf.int64), shape=(1, 4, 4)
    )
    draws = [name for flag in found for name in flag.draws]
    assert len({*draws, *others, "count", "cutout_first", "share"}) == len(draws) + len(others) + 3
    assert len({flag.name for flag in found}) == len(found) == 2


def dim(slices, draw, amount):
    return slices * (1 - amount * draw(lambda random: random.random((1, 1, 1))))


@pytest.fixture
def dimmed():
    """A corruption that is known to the table only: a random factor, in training an offset, too."""
    flag = TrainingFlag(
        name="dimming",
        help="Most that a corrupted input is dimmed.",
        draws={
            "factor": lambda uniform, shape, strength: 1 - strength * uniform(shape[0], 1, 1, 1),
            "offset": lambda uniform, shape, strength: 0.01 * uniform(shape[0], 1, 1, 1),
        },
        apply=lambda images, factor, offset: images * factor + offset,
    )
    entry = Corruption(unit="most that is lost", severities=(0.25, 0.5), apply=dim, flag=flag)
    before = dict(CORRUPTIONS)
    # Neither the thesis's set nor these tests need the others, which take time.
    for name in ("coarse dropout", "Gaussian noise", "Rician noise"):
        del CORRUPTIONS[name]
    CORRUPTIONS["dimmed"] = entry
    yield
    CORRUPTIONS.clear()
    CORRUPTIONS.update(before)


def test_an_entry_in_the_table_is_scored_and_reported(dimmed, tmp_path):
    tiny_dataset.write_tiny_dataset(tmp_path / "data")
    model = tf.Module()
    spec = tf.TensorSpec((None, None, None, 1), tf.float32, name="slices")
    model.serve = tf.function(lambda slices: {"reconstruction": slices}, input_signature=[spec])
    signatures = {"serving_default": model.serve.get_concrete_function()}
    tf.saved_model.save(model, str(tmp_path / "model/1"), signatures=signatures)
    arguments = [f"--saved_model={tmp_path}/model", f"--data_dir={tmp_path}/data"]
    arguments += ["--dataset=ixi_t1/tiny", f"--output_dir={tmp_path}/out", "--robustness"]
    assert evaluator.run(arguments) == 0

    with (tmp_path / "out/robustness.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["corruption"] == "dimmed"]
    assert [(row["model"], row["severity"], float(row["amount"])) for row in rows] == [
        *(("corrupted input", "1", 0.25), ("corrupted input", "2", 0.5)),
        *(("model/1", "1", 0.25), ("model/1", "2", 0.5)),
    ]
    faint, strong, *_ = (float(row["psnr"]) for row in rows)
    # The same factors, twice as far from 1: an error twice as large.
    assert faint - strong == pytest.approx(20 * np.log10(2), abs=1e-3)
    page = (tmp_path / "out/report.html").read_text()
    assert "dimmed 0.25, 0.5 (most that is lost)" in page and "PSNR (dB), dimmed" in page
    assert "Rician noise" not in page


@pytest.fixture
def anew(dimmed, monkeypatch):
    """Modules of the trainer by name, imported with the entry in the table."""
    names = ("augmentation", "config", "train")
    # All are imported before one is removed: those that are put back must not know the entry.
    before = {name: importlib.import_module(f"trainer.{name}") for name in names}
    for name in names:
        monkeypatch.setattr(trainer, name, before[name])
        monkeypatch.delitem(sys.modules, f"trainer.{name}")
    return {name: importlib.import_module(f"trainer.{name}") for name in names}


def test_a_flag_in_the_table_is_one_of_the_trainer_and_changes_its_inputs(anew, capsys):
    command, augmentation = anew["train"].COMMAND, anew["augmentation"]
    assert commands.run(command, ["--help"]) == 0
    line = "--dimming: Most that a corrupted input is dimmed. (default 0.0)"
    assert line in capsys.readouterr().out
    flags_of_run = ["--data_dir=D", "--workdir=W"]
    assert commands.run(command, [*flags_of_run, "--dimming=2"]) == 2
    assert "--dimming=2.0: must be between 0 and 1" in capsys.readouterr().err
    run, _ = commands.parse(command, [*flags_of_run, "--dimming=0.5"])
    assert flags.as_flags(run)["dimming"] == 0.5
    config = run.corruptions
    assert dataclasses.asdict(config)["dimming"] == 0.5

    images = np.random.default_rng(7).random((6, 8, 8, 1), np.float32)
    index, keep = tf.range(6, dtype=tf.int64), {"seed": 1, "batch_size": 6}
    plain = dataclasses.replace(config, dimming=0.0)
    before = augmentation.augment(images, index, config=plain, **keep).numpy()
    after = augmentation.augment(images, index, config=config, **keep).numpy()
    # What else is drawn stays as it is.
    seed = tf.constant([1, 0], tf.int64)
    drawn = augmentation.sample(config, seed=seed, shape=(6, 8, 8))
    factor, offset = drawn["factor"].numpy(), drawn["offset"].numpy()
    np.testing.assert_allclose(after, before * factor + offset, rtol=1e-6)
    assert len(np.unique(factor)) == len(np.unique(offset)) == 6
    assert 0.5 < factor.min() < factor.max() < 1
    # Each draw has numbers of its own.
    assert np.abs(2 * (1 - factor) - 100 * offset).min() > 1e-4
