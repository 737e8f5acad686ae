"""Corrupted inputs: what is done to the slices, and what is made of the scores."""

import io

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import scipy.ndimage
import tensorflow as tf
import tiny_dataset

from evaluator import robustness, scoring
from evaluator.models import Model
from evaluator.report import figures
from evaluator.report import robustness as robustness_report
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images import metrics
from ixi_tfds.images.corruptions import CORRUPTIONS, conditions
from ixi_tfds.system.errors import UserError

KEYS = ["IXI901/000", "IXI901/001", "IXI902/000"]
RANDOM = ["zeroed patches", "coarse dropout", "pixel dropout", "Gaussian noise", "Rician noise"]


def grey(count=3, side=64):
    return tf.fill((count, side, side, 1), 0.5)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
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
    return Model(name, None, "", ModelCard(), function, (None, None))


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
    assert (chosen["severity"] == 3).all()
    assert all(row.key.startswith(f"{row.subject}/") for row in chosen.itertuples())
    # A person's own are drawn by that person's name, whoever else is there.
    alone = robustness.thesis_set(keys[6:12]).to_dict("records")
    assert alone == chosen[chosen["subject"] == "IXI001"].to_dict("records")
    (single,) = robustness.thesis_set([("IXI001", "IXI001/000")]).to_dict("records")
    assert single["corruption"] in ("blur", "pixel dropout")


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


@pytest.mark.parametrize("severity", range(1, 6))
def test_patches_are_two_squares_in_the_middle_of_the_slice(severity):
    """Of a share of the height, whatever the width, their centres in the middle three fifths."""
    keys = [f"IXI{number:03d}/000" for number in range(300)]
    slices = tf.fill((300, 40, 100, 1), 0.5)
    zeroed = robustness.corrupt(slices, keys, "zeroed patches", severity).numpy()[..., 0] == 0
    side = {1: 4, 2: 6, 3: 8, 4: 10, 5: 12}[severity]
    assert {1: 0.1, 2: 0.15, 3: 0.2, 4: 0.25, 5: 0.3}[severity] * 40 == pytest.approx(side)
    areas = zeroed.sum(axis=(1, 2))
    assert areas.max() == 2 * side**2 and areas.min() >= side**2
    # Only where they overlap is less lost than both.
    assert np.median(areas) == 2 * side**2
    rows, columns = (np.flatnonzero(zeroed.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    for places, length in ((rows, 40), (columns, 100)):
        first, last = 0.2 * length - side / 2, 0.8 * length + side / 2
        assert first <= places[0] < first + 0.05 * length
        assert last - 0.05 * length < places[-1] + 1 <= last + 1


@pytest.mark.parametrize(("severity", "deviation"), enumerate((0.01, 0.02, 0.05, 0.1, 0.2), 1))
def test_noise_in_the_dark_is_that_of_a_magnitude(severity, deviation):
    black = tf.zeros((3, 128, 128, 1))
    rician = robustness.corrupt(black, KEYS, "Rician noise", severity).numpy() / deviation
    # Two channels of noise make a Rayleigh distribution.
    assert rician.mean() == pytest.approx(np.sqrt(np.pi / 2), rel=0.02)
    assert rician.std() == pytest.approx(np.sqrt(2 - np.pi / 2), rel=0.03)
    # Half of Gaussian noise is below black.
    gaussian = robustness.corrupt(black, KEYS, "Gaussian noise", severity).numpy() / deviation
    assert (gaussian == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert gaussian.mean() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=0.03)


@pytest.mark.parametrize("corruption", ["Gaussian noise", "Rician noise"])
def test_more_noise_is_the_same_noise_louder(corruption):
    faint, loud = (
        robustness.corrupt(grey(), KEYS, corruption, severity).numpy() - 0.5 for severity in (1, 2)
    )
    np.testing.assert_allclose(loud, 2 * faint, atol=0.006)


@pytest.mark.parametrize(("severity", "share"), enumerate((0.025, 0.05, 0.1, 0.2, 0.4), 1))
def test_pixels_are_lost_as_often_as_it_says(severity, share):
    def lost(corruption):
        return robustness.corrupt(grey(side=256), KEYS, corruption, severity).numpy()[..., 0] == 0

    assert lost("pixel dropout").mean() == pytest.approx(share, abs=0.005)
    blocks = {1: 0.01, 2: 0.02, 3: 0.05, 4: 0.1, 5: 0.2}[severity]
    assert lost("coarse dropout").mean() == pytest.approx(blocks, abs=0.006)


@pytest.mark.parametrize(("severity", "sigma"), enumerate((0.5, 1.0, 1.5, 2.0, 3.0), 1))
def test_blur_is_that_of_its_sigma(severity, sigma):
    slices = np.random.default_rng(0).random((3, 32, 48, 1), np.float32)
    radius = int(np.ceil(3 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        slices[..., 0].astype(float), (0, sigma, sigma), mode="mirror", radius=(0, radius, radius)
    )
    blurred = robustness.corrupt(slices, KEYS, "blur", severity).numpy()[..., 0]
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_every_condition_is_scored_once():
    assert conditions() == [("none", 0)] + [
        (name, severity) for name in CORRUPTIONS for severity in (1, 2, 3, 4, 5)
    ]
    assert set(CORRUPTIONS) == {"blur", *RANDOM}


def test_curves_are_means_over_people():
    """Of whom one has three slices and the other one."""
    frame = pd.DataFrame(
        {
            "model": "m",
            "corruption": ["none"] * 4 + ["blur"] * 4,
            "severity": [0] * 4 + [5] * 4,
            "key": ["a/0", "a/1", "a/2", "b/0"] * 2,
            "subject": ["a", "a", "a", "b"] * 2,
            "psnr": [1.0, 2, 3, 6, 10, 20, 30, 40],
            "ssim": [0.1, 0.2, 0.3, 0.6, 0.9, 0.9, 0.9, 0.5],
        }
    )
    own = frame[frame["corruption"] == "none"].assign(model=robustness.INPUT)
    rows = robustness.curves(pd.concat([own, frame])).to_dict("records")
    means = {"psnr": 30, "psnr_low": 20, "psnr_high": 40}
    means |= {"ssim": 0.7, "ssim_low": 0.5, "ssim_high": 0.9}
    facts = {"model": "m", "corruption": "blur", "severity": 5, "amount": 3.0}
    assert rows[0] == pytest.approx(facts | {"slices": 4, "subjects": 2} | means)
    means = {"psnr": 4, "psnr_low": 2, "psnr_high": 6}
    means |= {"ssim": 0.4, "ssim_low": 0.2, "ssim_high": 0.6}
    facts = {"model": "m", "corruption": "none", "severity": 0, "amount": 0.0}
    assert rows[1] == pytest.approx(facts | {"slices": 4, "subjects": 2} | means)
    assert len(rows) == 2


def test_every_score_is_that_of_its_slice_and_person(frame, split):
    """Against black, whatever the corruption: a number that tells the slices apart."""
    expected = {}
    for batch in scoring.read_batches(split, 12):
        images = batch["image"].numpy() / 255
        errors = np.mean(images**2, axis=(1, 2, 3))
        expected |= dict(zip(scoring.batch_keys(batch), -10 * np.log10(errors), strict=True))
    mine = frame[frame["model"] == "black"]
    assert len(set(np.round(list(expected.values()), 3))) == len(expected) == 12
    for row in mine.itertuples():
        assert row.psnr == pytest.approx(expected[row.key], abs=1e-3)
        assert row.key.startswith(f"{row.subject}/")


def test_plots_show_one_corruption_each(monkeypatch):
    monkeypatch.setattr(figures, "_png", lambda figure: figure)
    rows = [
        *((robustness.INPUT, "blur", 0.5, 9.0), (robustness.INPUT, "blur", 3.0, 7.0)),
        *((robustness.INPUT, "noise", 0.1, 5.0), ("m", "none", 0.0, 30.0)),
        *(("m", "blur", 3.0, 10.0), ("m", "blur", 0.5, 20.0), ("m", "noise", 0.1, 15.0)),
    ]
    curves = pd.DataFrame(rows, columns=["model", "corruption", "amount", "psnr"])
    curves = curves.assign(psnr_low=curves["psnr"] - 1, psnr_high=curves["psnr"] + 2)
    (axes,) = figures.robustness_curve(curves, "blur", "psnr", "sigma").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        robustness.INPUT: [[0.5, 9], [3, 7]],
        "m": [[0, 30], [0.5, 20], [3, 10]],
    }
    bands = [each.get_paths()[0].vertices for each in axes.collections]
    assert {tuple(corner) for corner in bands[1]} >= {(0, 29), (0, 32), (3, 9), (3, 12)}
    assert (axes.get_title(), axes.get_xlabel()) == ("blur", "sigma")
    assert axes.get_ylabel() == "PSNR (dB) against the clean slice"


@pytest.fixture(scope="module")
def section(frame, split):
    """The section of the report, its plots replaced by what they are to show."""
    models = [model("same", tf.identity), model("black", tf.zeros_like)]
    keys = robustness_report.collage_slices(frame)["key"]
    slices = scoring.read_slices(split, dict.fromkeys(keys), batch_size=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "robustness_curve", lambda *asked: asked[1:])
        return robustness_report.robustness_section(frame, robustness.curves(frame), models, slices)


def test_every_corruption_has_a_plot_of_each_metric(section):
    for figure, (metric, label) in zip(
        section.figures, (("psnr", "PSNR (dB)"), ("ssim", "SSIM")), strict=False
    ):
        assert figure.caption == f"{label} of reconstructions of corrupted slices"
        assert figure.panels == {
            f"{label}, {name}": (name, metric, corruption.unit)
            for name, corruption in CORRUPTIONS.items()
        }
    severities = (
        "blur 0.5, 1, 1.5, 2, 3 (sigma in pixels); zeroed patches 0.1, 0.15, 0.2, 0.25, 0.3"
    )
    assert severities in section.notes[0]
    assert "(sigma 1.5) or with 10% of its pixels lost" in section.notes[1]


def test_the_table_of_the_thesis_set_has_its_scores(section, frame):
    (table,) = section.tables.values()
    chosen = robustness.thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    assert len(chosen["corruption"].unique()) >= 2
    columns = {}
    for corruption, mine in chosen.groupby("corruption"):
        rows = frame[(frame["corruption"] == corruption) & (frame["severity"] == 3)]
        rows = rows[rows["key"].isin(mine["key"])]
        means = rows.groupby("model", observed=True)[["psnr", "ssim"]].mean()
        columns[f"{corruption} ({len(mine)} slices)"] = {
            name: f"{row.psnr:.2f} / {row.ssim:.4f}" for name, row in means.iterrows()
        }
    assert table[""].tolist() == [robustness.INPUT, "same", "black"]
    assert set(table.columns) == {"", *columns}
    for title, cells in columns.items():
        assert dict(zip(table[""], table[title], strict=True)) == cells


def test_collages_show_the_corrupted_slice_and_what_is_made_of_it(section, frame, split):
    clean = {}
    for batch in scoring.read_batches(split, 12):
        clean |= dict(zip(scoring.batch_keys(batch), batch["image"].numpy() / 255, strict=True))
    chosen = robustness.thesis_set(list(zip(frame["subject"], frame["key"], strict=True)))
    firsts = chosen.groupby("corruption")["key"].first()
    collages = {figure.caption: figure.panels for figure in section.figures[2:]}
    assert collages.keys() == {
        f"{key}, {corruption}: reconstructions" for corruption, key in firsts.items()
    }
    for corruption, key in firsts.items():
        image = clean[key].astype(np.float32)
        damaged = robustness.corrupt(image[None], [key], corruption, 3).numpy()[0]
        assert np.abs(damaged - image).max() > 0.05
        panels = collages[f"{key}, {corruption}: reconstructions"]
        expected = {"clean": image, robustness.INPUT: damaged, "same": damaged, "black": 0 * image}
        assert list(panels) == list(expected)
        for label, shown in expected.items():
            pixels = np.asarray(PIL.Image.open(io.BytesIO(panels[label])))
            np.testing.assert_allclose(pixels, 255 * np.rot90(shown[..., 0]), atol=0.6)
