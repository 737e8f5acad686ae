"""Corrupted inputs: what is done to the slices, and what is made of the scores."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tiny_dataset

from evaluator import metrics, robustness, scoring
from ixi_tfds.errors import UserError

KEYS = ["IXI901/000", "IXI901/001", "IXI902/000"]
RANDOM = ["zeroed patches", "coarse dropout", "pixel dropout", "Gaussian noise", "Rician noise"]


def grey(count=3, side=64):
    return tf.fill((count, side, side, 1), 0.5)


@pytest.mark.parametrize("corruption", robustness.SEVERITIES)
def test_severities_grow_and_stay_in_range(corruption):
    slices = tf.random.stateless_uniform((3, 64, 64, 1), (1, 2))
    psnr = []
    for severity in range(1, 6):
        corrupted = robustness.corrupt(slices, KEYS, corruption, severity)
        assert corrupted.dtype == tf.float32 and corrupted.shape == slices.shape
        assert np.min(corrupted) >= 0 and np.max(corrupted) <= 1
        psnr.append(np.mean(metrics.psnr(slices, corrupted)))
    assert (np.diff(psnr) < 0).all()
    np.testing.assert_array_equal(robustness.corrupt(slices, KEYS, corruption, 0), slices)


@pytest.mark.parametrize("corruption", RANDOM)
def test_a_slice_is_corrupted_by_its_key_alone(corruption):
    together = robustness.corrupt(grey(), KEYS, corruption, 3).numpy()
    alone = robustness.corrupt(grey(1), KEYS[1:2], corruption, 3).numpy()
    np.testing.assert_array_equal(together[1], alone[0])
    assert (together[0] != together[1]).any()


@pytest.mark.parametrize("corruption", ["zeroed patches", "coarse dropout", "pixel dropout"])
def test_what_is_lost_stays_lost_at_higher_severities(corruption):
    before = np.zeros((3, 64, 64, 1), bool)
    for severity in range(1, 6):
        lost = robustness.corrupt(grey(), KEYS, corruption, severity).numpy() == 0
        assert (lost >= before).all()
        before = lost


def test_amounts_are_what_they_say():
    def corrupted(corruption, severity=3):
        return robustness.corrupt(grey(side=256), KEYS, corruption, severity).numpy()[..., 0]

    lost = corrupted("pixel dropout") == 0
    assert robustness.amount("pixel dropout", 3) == 0.1
    assert lost.mean() == pytest.approx(0.1, abs=0.004)
    blocks = (corrupted("coarse dropout", 5) == 0).reshape(3, 128, 2, 128, 2).mean(axis=(2, 4))
    assert set(np.unique(blocks)) == {0, 1}
    assert blocks.mean() == pytest.approx(0.2, abs=0.01)
    assert corrupted("Gaussian noise").std() == pytest.approx(0.05, rel=0.02)
    # Far from 0, a magnitude's noise is that of the real channel.
    assert corrupted("Rician noise").std() == pytest.approx(0.05, rel=0.02)
    zeroed = (corrupted("zeroed patches", 1) == 0).sum(axis=(1, 2))
    assert (zeroed <= 2 * 26**2).all() and (zeroed >= 26**2).all()


def test_odd_sides_lose_pixels_in_place_of_blocks():
    slices = tf.fill((1, 33, 64, 1), 0.5)
    lost = robustness.corrupt(slices, KEYS[:1], "coarse dropout", 5).numpy() == 0
    assert lost.mean() == pytest.approx(0.2, abs=0.04)


def model(name, function):
    return scoring.Model(name, None, "", {}, function, (None, None))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(folder)
    return scoring.open_split(folder, "ixi_t1/tiny", "test")


@pytest.fixture(scope="module")
def frame(split):
    models = [model("same", tf.identity), model("black", tf.zeros_like)]
    return robustness.score_corrupted(models, split, batch_size=5)


def test_every_slice_is_scored_against_the_clean_one(frame, split):
    assert len(frame) == 3 * 31 * 12
    rows = frame.set_index(["model", "corruption", "severity", "key"]).sort_index()
    clean = {}
    for batch in scoring.read_batches(split, 12):
        clean = dict(zip(scoring.batch_keys(batch), batch["image"].numpy() / 255, strict=True))
    key, image = next(iter(clean.items()))
    noised = robustness.corrupt(image[None].astype(np.float32), [key], "Gaussian noise", 4)
    expected = -10 * np.log10(np.mean((noised - image) ** 2))
    for name in ("same", robustness.INPUT):
        found = rows.loc[(name, "Gaussian noise", 4, key), "psnr"]
        assert found == pytest.approx(expected, abs=1e-4)
    # A black reconstruction is as far off whatever happened to the input.
    black = rows.loc["black"]["psnr"].unstack("key")
    np.testing.assert_allclose(black - black.iloc[0], 0, atol=1e-4)
    assert (rows.loc[("same", "none", 0), "psnr"] == metrics.PSNR_CAP).all()


def test_scores_do_not_depend_on_batches(frame, split):
    models = [model("same", tf.identity), model("black", tf.zeros_like)]
    again = robustness.score_corrupted(models, split, batch_size=12)
    pd.testing.assert_frame_equal(frame, again, atol=1e-4)


def test_curves_have_a_row_a_severity(frame):
    curves = robustness.curves(frame)
    assert len(curves) == 31 + 31 + 30
    assert not ((curves["model"] == robustness.INPUT) & (curves["corruption"] == "none")).any()
    row = curves[(curves["model"] == "same") & (curves["corruption"] == "blur")].iloc[1]
    assert (row["severity"], row["amount"], row["slices"], row["subjects"]) == (2, 1.0, 12, 3)
    assert row["psnr_low"] <= row["psnr"] <= row["psnr_high"]
    mine = frame.query("model == 'same' and corruption == 'blur' and severity == 2")
    assert row["ssim"] == pytest.approx(mine["ssim"].mean(), abs=1e-5)


def test_the_thesis_set_takes_two_slices_of_each_person():
    keys = [(f"IXI{n:03d}", f"IXI{n:03d}/{k:03d}") for n in range(40) for k in range(6)]
    chosen = robustness.thesis_set(keys)
    assert len(chosen) == 80 and chosen["key"].nunique() == 80
    kinds = chosen.groupby("subject")["corruption"].agg(set)
    assert all("zeroed patches" in kind and len(kind) == 2 for kind in kinds)
    tarnished = chosen["corruption"].value_counts()
    assert tarnished["zeroed patches"] == 40
    assert min(tarnished["blur"], tarnished["pixel dropout"]) > 8
    pd.testing.assert_frame_equal(robustness.thesis_set(keys[::-1]), chosen)


def test_the_thesis_set_is_scored(frame):
    scores = robustness.score_thesis_set(frame)
    zeroed = scores.set_index(["corruption", "model"]).loc["zeroed patches"]
    assert list(zeroed["slices"]) == [3, 3, 3]
    assert zeroed.loc["same", "psnr"] == pytest.approx(zeroed.loc[robustness.INPUT, "psnr"])
    chosen = robustness.thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    keys = chosen.loc[chosen["corruption"] == "zeroed patches", "key"]
    mine = frame.query("model == 'black' and corruption == 'zeroed patches' and severity == 3")
    expected = mine.loc[mine["key"].isin(keys), "psnr"].mean()
    assert zeroed.loc["black", "psnr"] == pytest.approx(expected)


def test_values_that_are_not_finite_are_refused(split):
    wrong = model("wrong", lambda slices: slices * np.nan)
    with pytest.raises(UserError, match="wrong gives values that are not finite for slice IXI9"):
        robustness.score_corrupted([wrong], split, batch_size=12)
