"""Statistics over slices and people, and the thesis's published rows."""

import math

import numpy as np
import pandas as pd
import pytest

from evaluator import bootstrap, statistics
from evaluator.published import published_for
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.thesis_results import published


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
        [low[0], high[0]], values.mean() + np.array([-error, error]), atol=0.02
    )


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        low, high = statistics.interval(random.normal(size=(30, 1)), draws=400)
        covered += low[0] <= 0 <= high[0]
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_is_that_of_2000_draws_from_a_fixed_seed():
    # So many people that hardly two draws have the same mean, and another seed another interval.
    values = np.random.default_rng(5).normal(size=(20, 2))
    counts = np.random.default_rng(0).multinomial(20, [0.05] * 20, size=2000)
    means = np.sort([[(count * column).sum() / 20 for column in values.T] for count in counts], 0)
    # 0.025 and 0.975 of the way through the 2000 places, which are numbered from 0.
    expected = [
        means[49] + 0.975 * (means[50] - means[49]),
        means[1949] + 0.025 * (means[1950] - means[1949]),
    ]
    np.testing.assert_allclose(statistics.interval(values), expected)
    np.testing.assert_array_equal(
        statistics.interval(values), statistics.interval(values, draws=statistics.DRAWS)
    )
    assert (statistics.DRAWS, bootstrap.CONFIDENCE) == (2000, 0.95)


def test_two_people_have_an_interval():
    """A quarter of the draws are the one twice, a quarter the other twice."""
    low, high = statistics.interval(np.array([[0.0, 5.0], [1.0, 3.0]]))
    np.testing.assert_array_equal([low, high], [[0, 3], [1, 5]])


def test_nobody_has_no_interval():
    low, high = statistics.interval(np.zeros((0, 3)))
    assert low.shape == high.shape == (3,)
    assert np.isnan([low, high]).all()


def test_people_are_drawn_and_not_slices():
    one, many = table(20, 1), table(20, 1).loc[np.repeat(np.arange(20), 50)]
    expected = statistics.by_subject(one).loc["psnr"]
    pd.testing.assert_series_equal(statistics.by_subject(many).loc["psnr"], expected)
    assert expected["subjects"] == 20


def test_each_person_counts_once_whatever_their_slices():
    frame = pd.concat([table(1, 9).assign(psnr=20.0), table(2, 1).iloc[1:].assign(psnr=30.0)])
    assert statistics.by_subject(frame).loc["psnr", "mean"] == 25
    assert statistics.by_slice(frame).loc["psnr", "mean"] == 21


def test_statistics_of_five_slices_worked_out_by_hand():
    frame = table(1, 5).assign(
        psnr=[1.0, 2, 3, 4, 10], ssim=[0.5] * 5, ms_ssim=[0, 0, 0, 0, 1.0], mae=[5, 4, 3, 2, 1.0]
    )
    found = statistics.by_slice(frame)
    assert list(found.index) == ["psnr", "ssim", "ms_ssim", "mae"]
    assert list(found.columns) == ["mean", "std", "min", "max"]
    expected = [[4, 10**0.5, 1, 10], [0.5, 0, 0.5, 0.5], [0.2, 0.4, 0, 1], [3, 2**0.5, 1, 5]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert list(statistics.by_slice(frame, ["mae"]).index) == ["mae"]


def test_people_of_unlike_numbers_of_slices_worked_out_by_hand():
    frame = pd.concat([table(1, 3).assign(psnr=[1.0, 2, 6]), table(2, 1).iloc[1:].assign(psnr=9.0)])
    found = statistics.by_subject(frame)
    assert list(found.index) == ["psnr", "ssim", "ms_ssim", "mae"]
    assert list(found.columns) == ["mean", "low", "high", "subjects"]
    assert list(found.loc["psnr"]) == [6, 3, 9, 2]
    np.testing.assert_allclose(found.loc["mae"], [0.01, 0.01, 0.01, 2])


def test_one_person_has_no_interval():
    frame = statistics.by_subject(table(1, 5))
    assert np.isnan(frame[["low", "high"]]).all(axis=None)
    assert np.isfinite(frame["mean"]).all()
    assert (frame["subjects"] == 1).all()


def test_a_shift_of_every_person_is_found_exactly():
    first = table(15, 4)
    second = first.assign(model="b", psnr=first["psnr"] + 0.5).sample(frac=1, random_state=0)
    found = statistics.paired_differences(pd.concat([first, second]), "a")
    assert list(found["metric"]) == ["psnr", "ssim", "ms_ssim", "mae"]
    row = found.set_index("metric").loc["psnr"]
    assert (row["model"], row["subjects"]) == ("b", 15)
    np.testing.assert_allclose([row["mean"], row["low"], row["high"]], 0.5)
    # Unpaired, the same difference drowns in how much people differ.
    apart = statistics.by_subject(first).loc["psnr"]
    assert apart["high"] - apart["low"] > 1


def test_every_model_is_compared_with_the_reference():
    """Each with it, whatever stands between them, above or below it in the alphabet."""
    reference = table(6, 3, model="mean").assign(mae=lambda frame: frame["psnr"] / 100)
    others = [
        reference.assign(model=model, psnr=reference["psnr"] + psnr, mae=reference["mae"] + mae)
        for model, psnr, mae in (("z", 1.0, -0.01), ("a", -2.0, 0.03), ("q", 4.0, 0.05))
    ]
    frame = pd.concat([others[0], reference, *others[1:]], ignore_index=True)
    found = statistics.paired_differences(frame, "".join(["me", "an"]))
    assert list(found["model"]) == ["z"] * 4 + ["a"] * 4 + ["q"] * 4
    assert list(found["metric"]) == ["psnr", "ssim", "ms_ssim", "mae"] * 3
    assert (found["subjects"] == 6).all()
    expected = [1, 0, 0, -0.01, -2, 0, 0, 0.03, 4, 0, 0, 0.05]
    for column in ("mean", "low", "high"):
        np.testing.assert_allclose(found[column], expected, atol=1e-9)
    assert list(found) == ["model", "metric", "mean", "low", "high", "subjects"]


def test_the_interval_of_a_difference_is_that_of_the_people():
    """Two people of whom one gains 1 and one gains 3, of unlike numbers of slices."""
    first = pd.concat([table(1, 3), table(2, 1).iloc[1:]])
    gain = np.where(first["subject"] == "IXI000", 1.0, 3.0)
    frame = pd.concat([first, first.assign(model="b", psnr=first["psnr"] + gain)])
    row = statistics.paired_differences(frame, "a", ["psnr"]).iloc[0]
    np.testing.assert_allclose([row["mean"], row["low"], row["high"]], [2, 1, 3])


def test_groups_count_people_and_slices():
    frame = pd.concat([table(2, 3), table(3, 1).iloc[2:]]).assign(age=[30.0] * 6 + [math.nan])
    frame = frame.assign(psnr=[1.0, 2, 3, 4, 5, 9, 7], site=["Guys"] * 6 + [""])
    frame["band"] = statistics.age_bands(frame["age"])
    both = pd.concat([frame, frame.assign(model="b", psnr=0.0)])
    for column, names in (("band", ["under 40", "unknown"]), ("age", [30.0, math.nan])):
        found = statistics.by_group(both, [column, "model"])
        pd.testing.assert_frame_equal(
            found[[column, "model", "subjects", "slices", "psnr"]].astype({column: object}),
            pd.DataFrame(
                {
                    column: pd.Series([names[0]] * 2 + [names[1]] * 2, dtype=object),
                    "model": ["a", "b"] * 2,
                    "subjects": [2, 2, 1, 1],
                    "slices": [6, 6, 1, 1],
                    "psnr": [4.0, 0, 7, 0],
                }
            ),
        )
    together = statistics.by_group(both, ["site"], ["psnr"])
    assert together.to_numpy().tolist() == [["", 1, 1, 3.5], ["Guys", 2, 6, 2.0]]


def test_models_of_different_people_are_not_compared():
    frame = pd.concat([table(5, 2), table(4, 2, model="b")])
    with pytest.raises(ValueError, match="b and a were not scored on the same subjects"):
        statistics.paired_differences(frame, "a")
    with pytest.raises(ValueError, match="no model 'c' among a, b"):
        statistics.paired_differences(frame, "c")


def test_age_bands():
    ages = pd.Series([-1.0, 19.9, 39.99, 40.0, 59.9, 60.0, 86.0, math.nan])
    expected = ["under 40"] * 3 + ["40 to 59"] * 2 + ["60 and over"] * 2 + ["unknown"]
    bands = statistics.age_bands(ages)
    assert list(bands) == expected
    assert list(bands.sort_values().unique()) == [*dict.fromkeys(expected)]


def test_every_run_of_the_thesis_is_known_by_its_card():
    for name, row in published().iterrows():
        flags = row[["model", "weights", "loss", "optimizer", "batch_size", "epochs"]].to_dict()
        found = published_for(ModelCard(flags=flags))
        assert (found["recipe"], found["differing"]) == (name, "")
        assert found["psnr_mean"] == row["psnr_mean"]
        if flags["weights"] == "imagenet":
            assert published_for(ModelCard(flags=flags | {"weights": "f.h5"}))["recipe"] == name


def test_a_run_trained_otherwise_says_so():
    flags = {"model": "small_resnet", "loss": "mse", "optimizer": "adam", "batch_size": 8}
    found = published_for(ModelCard(flags=flags))
    assert found["recipe"] == "small_mse"
    assert found["differing"] == "optimizer adam instead of rmsprop, batch_size 8 instead of 32"


@pytest.mark.parametrize(
    "card", [ModelCard(), ModelCard(flags={"model": "small_resnet", "loss": "mix"})]
)
def test_other_models_have_no_published_row(card):
    assert published_for(card) is None
