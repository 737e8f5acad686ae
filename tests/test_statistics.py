"""Statistics over slices and people, and the thesis's published rows."""

import math

import numpy as np
import pandas as pd
import pytest

from evaluator import statistics
from evaluator.published import published, published_for


def table(subjects, slices, model="a", seed=0):
    """Scores of `slices` slices of each of `subjects` people; people differ more than slices."""
    random = np.random.default_rng(seed)
    hardness = np.repeat(random.normal(scale=2.0, size=subjects), slices)
    return pd.DataFrame(
        {
            "model": model,
            "subject": np.repeat([f"IXI{n:03d}" for n in range(subjects)], slices),
            "key": [f"IXI{n:03d}/{k:03d}" for n in range(subjects) for k in range(slices)],
            "psnr": 30 + hardness + random.normal(scale=0.1, size=subjects * slices),
            "ssim": 0.9,
            "ms_ssim": 0.95,
            "mae": 0.01,
        }
    )


def test_interval_is_the_normal_one_where_that_holds():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=(400, 1))
    low, high = statistics.interval(values)
    error = 1.96 * values.std() / math.sqrt(400)
    np.testing.assert_allclose(
        [low[0], high[0]], values.mean() + np.array([-error, error]), atol=0.04
    )


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        low, high = statistics.interval(random.normal(size=(30, 1)), draws=400)
        covered += low[0] <= 0 <= high[0]
    assert 0.90 <= covered / 300 <= 0.98


def test_people_are_drawn_and_not_slices():
    one, many = table(20, 1), table(20, 1).loc[np.repeat(np.arange(20), 50)]
    expected = statistics.by_subject(one).loc["psnr"]
    pd.testing.assert_series_equal(statistics.by_subject(many).loc["psnr"], expected)
    assert expected["subjects"] == 20


def test_each_person_counts_once_whatever_their_slices():
    frame = pd.concat([table(1, 9).assign(psnr=20.0), table(2, 1).iloc[1:].assign(psnr=30.0)])
    assert statistics.by_subject(frame).loc["psnr", "mean"] == 25
    assert statistics.by_slice(frame).loc["psnr", "mean"] == 21


def test_one_person_has_no_interval():
    row = statistics.by_subject(table(1, 5)).loc["psnr"]
    assert np.isnan([row["low"], row["high"]]).all()
    assert np.isfinite(row["mean"])


def test_a_shift_of_every_person_is_found_exactly():
    first = table(15, 4)
    second = first.assign(model="b", psnr=first["psnr"] + 0.5).sample(frac=1, random_state=0)
    found = statistics.paired_differences(pd.concat([first, second]), "a")
    assert list(found["metric"]) == list(statistics.METRICS)
    row = found.set_index("metric").loc["psnr"]
    assert (row["model"], row["subjects"]) == ("b", 15)
    np.testing.assert_allclose([row["mean"], row["low"], row["high"]], 0.5)
    # Unpaired, the same difference drowns in how much people differ.
    apart = statistics.by_subject(first).loc["psnr"]
    assert apart["high"] - apart["low"] > 1


def test_models_of_different_people_are_not_compared():
    frame = pd.concat([table(5, 2), table(4, 2, model="b")])
    with pytest.raises(ValueError, match="b and a were not scored on the same subjects"):
        statistics.paired_differences(frame, "a")
    with pytest.raises(ValueError, match="no model 'c' among a, b"):
        statistics.paired_differences(frame, "c")


def test_age_bands():
    ages = pd.Series([19.9, 39.99, 40.0, 59.9, 60.0, 86.0, math.nan])
    expected = ["under 40"] * 2 + ["40 to 59"] * 2 + ["60 and over"] * 2 + ["unknown"]
    assert list(statistics.age_bands(ages)) == expected


def test_every_run_of_the_thesis_is_known_by_its_card():
    for name, row in published().iterrows():
        flags = row[["model", "weights", "loss", "optimizer", "batch_size", "epochs"]].to_dict()
        found = published_for({"flags": flags})
        assert (found["recipe"], found["differing"]) == (name, "")
        assert found["psnr_mean"] == row["psnr_mean"]
        if flags["weights"] == "imagenet":
            assert published_for({"flags": flags | {"weights": "f.h5"}})["recipe"] == name


def test_a_run_trained_otherwise_says_so():
    flags = {"model": "small_resnet", "loss": "mse", "optimizer": "adam", "batch_size": 8}
    found = published_for({"flags": flags})
    assert found["recipe"] == "small_mse"
    assert found["differing"] == "optimizer adam instead of rmsprop, batch_size 8 instead of 32"


@pytest.mark.parametrize(
    "card", [{}, {"flags": {}}, {"flags": {"model": "small_resnet", "loss": "mix"}}]
)
def test_other_models_have_no_published_row(card):
    assert published_for(card) is None
