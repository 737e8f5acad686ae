"""`benchmarks/ablations.py`: a command of the project with one part of it changed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import tiny_brains
from changed_copies import ROOT
from test_brains import flags, write_people

from evaluator.brains import tally
from ixi_tfds.demo import cohort

SCRIPT = ROOT / "benchmarks/ablations.py"
RECIPE = ROOT / "trainer/recipes/lesions/denoise.flags"


def changed(change, package, *flags):
    command = [sys.executable, SCRIPT, change, package, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of runs of one epoch with each change of the network."""
    folder = tmp_path_factory.mktemp("changed")
    data = tiny_brains.write_tiny_brains(folder / "brains")
    for change in ("batch", "stretched"):
        where = [f"--data_dir={data}", f"--dataset={tiny_brains.NAME}"]
        small = [f"--workdir={folder / change}", "--epochs=1", "--nomixed_precision"]
        changed(change, "trainer", f"--flagfile={RECIPE}", *where, *small)
    return folder


@pytest.mark.slow
def test_the_network_normalizes_by_the_batch(trained):
    names = [
        name
        for name, _ in tf.train.list_variables(str(trained / "batch/checkpoints/epoch-00001"))
        if "optimizer" not in name
    ]
    assert sum("moving_mean" in name for name in names) == 2 * 7
    usual = tf.train.list_variables(str(trained / "stretched/checkpoints/epoch-00001"))
    assert not any("moving_mean" in name for name, _ in usual)


@pytest.mark.slow
def test_the_network_sees_slices_stretched_to_their_own_extrema(trained):
    """So half as bright a slice comes out half as bright."""
    exported = tf.saved_model.load(str(trained / "stretched/export/unet/1"))
    volume = np.random.default_rng(0).uniform(0.1, 1.2, (*tiny_brains.SIZE, 4)).astype(np.float32)
    one, half = (
        exported.signatures["volume"](volume=values, mask=np.ones_like(volume))["repaired"]
        for values in (volume, volume / 2)
    )
    assert np.abs(one - volume).max() > 1e-4
    np.testing.assert_allclose(half, one / 2, atol=1e-5)


@pytest.mark.slow
def test_slices_of_whole_heads_keep_what_is_outside_the_brain(tmp_path):
    cohort.write_cohort(tmp_path / "S", subjects=2, coarsen=2, brain_masks=tmp_path / "M")
    for change in ("whole_head", "batch"):
        where = [f"--source_dir={tmp_path / 'S'}", f"--brain_masks={tmp_path / 'M'}"]
        box = ["--scaling=tissue", "--spacing=4", "--size=56x48", "--slices=0:48"]
        data = f"--data_dir={tmp_path / change}"
        changed(change, "beam_preprocess", *where, data, "--config=small", "--splits=hash", *box)
    heads, brains = (
        [*_slices(tmp_path / change / "ixi_t1/small/1.0.0")] for change in ("whole_head", "batch")
    )
    assert len(heads) == len(brains) == 2 * 48
    for head, brain in zip(heads, brains, strict=True):
        inside = head["mask"] > 0
        np.testing.assert_array_equal(head["mask"], brain["mask"])
        np.testing.assert_array_equal(head["image"][inside], brain["image"][inside])
        assert not brain["image"][~inside].any()
    outside = np.concatenate([head["image"][head["mask"] == 0] for head in heads])
    # Scalp and fat.
    assert (outside > 100).mean() > 0.02


@pytest.mark.slow
def test_models_of_whole_heads_are_trained_and_scored_in_the_brain(tmp_path):
    people, data = write_people(tmp_path / "people"), tmp_path / "data"
    box = [f"--size={tiny_brains.SIZE[0]}x{tiny_brains.SIZE[1]}", "--slices=0:10", "--copies=1"]
    changed("whole_head", "beam_preprocess", *flags(people, data, *box))
    where = [f"--data_dir={data}", f"--dataset={tiny_brains.NAME}"]
    small = [f"--workdir={tmp_path / 'run'}", "--epochs=1", "--nomixed_precision"]
    repair = f"--flagfile={RECIPE.with_name('repair.flags')}"
    changed("whole_head", "trainer", repair, *where, *small)
    model = f"--saved_model={tmp_path / 'run/export/unet'}"
    joined = [f"--output_dir={tmp_path / 'joined'}"]
    changed("whole_head", "evaluator", "calibrate", *where, model, *joined)
    scored = [f"--saved_model={tmp_path / 'joined'}", f"--output_dir={tmp_path / 'scores'}"]
    changed("whole_head", "evaluator", "anomalies", *where, *scored)
    facts = json.loads((tmp_path / "scores/anomalies.json").read_text())
    # Only voxels of the brain are scored.
    (test,) = tfds.builder_from_directory(data / "ixi_t1/small/1.0.0").as_dataset(split=["test"])
    inside = sum(int((each["mask"] > 0).sum()) for each in tfds.as_numpy(test))
    assert facts["overall"][0]["pixels"] == tally.ROUNDS * inside


def _slices(folder):
    builder = tfds.builder_from_directory(folder)
    for split in sorted(builder.info.splits):
        yield from tfds.as_numpy(builder.as_dataset(split=split))


def test_what_is_no_change_gets_the_help(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "brighter", "trainer"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "- whole_head:" in done.stderr
