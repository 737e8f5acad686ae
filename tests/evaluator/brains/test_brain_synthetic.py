"""Synthetic lesions in three dimensions."""

import ast
import pathlib

import numpy as np
import pytest
from brain_models import made_up_brain
from scipy import ndimage

import evaluator
from evaluator.brains import maps, synthetic, tally
from evaluator.lesions import histograms
from evaluator.lesions.maps import INTENSITY
from ixi_tfds import config as configs
from ixi_tfds.images.brain import Brain, brain_mask, brain_of
from ixi_tfds.images.resampling import Places
from ixi_tfds.nifti import read_volume


@pytest.fixture(scope="module")
def brain():
    shape = (70, 56, 60)
    values, mask = made_up_brain("a", shape, 2.8)
    places = [Places(n, 2.8, 0.0) for n in shape]
    return Brain(values, mask, (places[0], places[1], places[2]), 0.0)


def test_they_follow_from_name_and_seed_only(brain):
    ill, numbers = synthetic.add_lesions(brain, name="a", seed=0)
    np.random.default_rng(9).random()
    again, same = synthetic.add_lesions(brain, name="a", seed=0)
    np.testing.assert_array_equal(ill.values, again.values)
    np.testing.assert_array_equal(numbers, same)
    for other in ({"name": "b", "seed": 0}, {"name": "a", "seed": 1}):
        assert (synthetic.add_lesions(brain, **other)[1] != numbers).any()


def test_they_lie_in_the_brain_and_change_nothing_elsewhere(brain):
    before = brain.values.copy()
    ill, numbers = synthetic.add_lesions(brain, name="a", seed=0)
    np.testing.assert_array_equal(brain.values, before)
    assert ill.values.dtype == np.float32
    assert ill.values.min() >= 0 and ill.values.max() <= 1.6
    assert not numbers[~brain.mask].any() and not ill.values[~brain.mask].any()
    changed = abs(ill.values - before) > 0
    near = ndimage.binary_dilation(numbers > 0, iterations=2)
    # Rough edges may leave a few soft specks.
    assert (changed & ~near).sum() < 0.05 * (numbers > 0).sum()
    assert changed[numbers > 0].mean() > 0.99


def test_each_is_a_solid_blob_of_a_few_ml_brighter_or_darker_than_its_place(brain):
    sizes, changes = [], []
    for seed in range(4):
        ill, numbers = synthetic.add_lesions(brain, name="a", seed=seed)
        assert set(np.unique(numbers)) <= {0, 1, 2, 3, 4}
        for number in range(1, 5):
            inside = numbers == number
            if inside.sum() < 4:
                continue
            pieces = ndimage.label(inside, np.ones((3, 3, 3)))[0]
            assert np.bincount(pieces.ravel())[1:].max() > 0.6 * inside.sum()
            sizes.append(inside.sum() * 2.8**3 / 1000)
            changes.append((ill.values - brain.values)[inside].mean())
    low, high = (4 / 3 * np.pi * radius**3 / 1000 for radius in synthetic.RADII_MM)
    assert 0.2 * low < min(sizes) and max(sizes) < 4 * high
    assert np.mean(np.array(changes) > 0) == pytest.approx(0.5, abs=0.25)
    assert np.median(np.abs(changes)) > synthetic.CONTRASTS[0] / 2


def modules_of(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_they_share_no_code_with_the_damage_of_training():
    ours = pathlib.Path(evaluator.__file__).parent
    for path in ours.rglob("*.py"):
        imported = [*modules_of(path)]
        assert not [name for name in imported if "damage" in name or name.startswith("trainer")]
    ours = {
        name
        for name in modules_of(ours / "brains/synthetic.py")
        if name.startswith(("ixi_tfds", "evaluator"))
    }
    assert ours == {"ixi_tfds.images.brain.Brain", "ixi_tfds.images.tissue.HIGHEST"}


@pytest.mark.slow
@pytest.mark.real_data
def test_plain_intensity_finds_them_poorly_in_real_heads(real_data):
    tallies = {}
    heads = sorted((real_data / "ixi/heads_2mm").glob("*.nii.gz"))[::10]
    assert len(heads) == 7
    for path in heads:
        label = real_data / "ixi/labels_2mm" / path.name.replace(".nii.gz", ".labels.nii.gz")
        volume = read_volume(str(path))
        mask = brain_mask(volume, str(path), read_volume(str(label)))
        healthy = brain_of(volume, str(path), mask, configs.CONFIGS["brain_2mm_axial"])
        for number in range(tally.ROUNDS):
            name = f"{path.name[:6]} {number}"
            ill, numbers = synthetic.add_lesions(healthy, name=name, seed=0)
            signed = maps.of_baselines(ill)[INTENSITY]
            scores = {INTENSITY: maps.judged(signed, ill)}
            tally.add(tallies, path.name[:6], scores, ill.mask, numbers > 0)
    counts = tallies[INTENSITY, "either"].overall
    assert 0.05 < float(histograms.statistics(counts, 0)["auprc"]) < 0.11
    assert 0.005 < float(histograms.prevalence(counts)) < 0.03
