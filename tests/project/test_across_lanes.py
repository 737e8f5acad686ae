"""What one lane has made works in the other: datasets, runs, searches, exported models."""

import json
import os
import shutil
import sys

import in_lane
import numpy as np
import pandas as pd
import pytest
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort

from ixi_tfds import lanes

pytestmark = pytest.mark.slow

DATASET = "--dataset=ixi_t1/small"
MODEL = "export/resnet_like"
HERE, THERE = lanes.NAME, next(name for name in lanes.NAMES if name != lanes.NAME)
LOSSES = ["loss", "psnr", "val_loss", "val_psnr", "val_ssim", "val_loss_augmented"]


def train(lane, run, epochs):
    flags = [
        *("--batch_size=6", "--model=resnet_like", "--stem_filters=16", "--stage_filters=16"),
        *("--stage_blocks=1", "--loss=mix", "--optimizer=adam", "--augment_validation"),
    ]
    argv = [f"--data_dir={lane / 'data'}", DATASET, f"--workdir={run}", f"--epochs={epochs}"]
    return ("trainer", argv + flags, f"{run}.log")


def tune(lane, folder, trials):
    argv = [
        *("tune", f"--data_dir={lane / 'data'}", DATASET, f"--tuning_dir={folder}"),
        *("--tuner=bayesian", "--epochs=1", f"--max_trials={trials}", "--batch_sizes=8"),
        "--max_parameters=450000",
    ]
    return ("trainer", argv, f"{folder}.log")


def preprocess(scans, data):
    argv = [f"--source_dir={scans}", f"--data_dir={data}", *SMALL, "--volumes_per_shard=3"]
    return ("beam_preprocess", argv, f"{data}.log")


def score(lane, model, into):
    where = [f"--data_dir={lane / 'data'}", DATASET, f"--output_dir={into}", "--robustness"]
    return ("evaluator", [*where, f"--saved_model={model}"], f"{into}.log")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder for each lane, with a dataset `data`, a run `run` of one epoch, a search `search` of
    one trial, and what came of going on:

    `run_<maker>`: a second epoch of the run that the lane `maker` had begun; `scores_<maker>`: of
    the model of that run's first epoch. From the other lane alone: `data_<maker>`, made again;
    `exported_<maker>`, the model of its first epoch, exported here; `search_<maker>`, a second
    trial. `outputs`: of both lanes' models, and of the one exported here.
    """
    other = in_lane.other_python()
    if not other:
        reason = f"no environment of the {THERE} lane beside this one (CONTRIBUTING.md)"
        assert "IXI_EVERY_PYTHON" not in os.environ, reason
        pytest.skip(reason)
    pythons = {HERE: sys.executable, THERE: other}
    root = tmp_path_factory.mktemp("lanes")
    scans = write_cohort(root / "scans")
    begun = []
    for name, python in pythons.items():
        lane = root / name
        lane.mkdir()
        commands = [preprocess(scans, lane / "data"), train(lane, lane / "run", 1)]
        begun.append(
            in_lane.start(python, lane / "begin.json", [*commands, tune(lane, lane / "search", 1)])
        )
    in_lane.finish(*begun)
    gone_on = []
    for name, python in pythons.items():
        (other,) = {*lanes.NAMES} - {name}
        commands = going_on(root, name, other, scans)
        runs = [root / maker / "run" for maker in lanes.NAMES] + [root / name / f"exported_{other}"]
        models = [str(run / MODEL / "1") for run in runs]
        into = str(root / name / "outputs")
        plan = root / name / "go_on.json"
        gone_on.append(in_lane.start(python, plan, commands, models=models, into=into))
    in_lane.finish(*gone_on)
    return root


def going_on(root, name, other, scans):
    """The commands of the lane `name` after the first ones of both."""
    lane = root / name
    (lane / "outputs").mkdir()
    commands = []
    for maker in lanes.NAMES:
        shutil.copytree(root / maker / "run", lane / f"run_{maker}")
        model = root / maker / "run" / MODEL
        commands += [
            train(lane, lane / f"run_{maker}", 2),
            score(lane, model, lane / f"scores_{maker}"),
        ]
    for what, copy in (("data", "data"), ("run", "exported"), ("search", "search")):
        shutil.copytree(root / other / what, lane / f"{copy}_{other}")
    exported = lane / f"exported_{other}"
    shutil.rmtree(exported / "export")
    commands += [
        preprocess(scans, lane / f"data_{other}"),
        train(lane, exported, 1),
        tune(lane, lane / f"search_{other}", 2),
    ]
    return commands


def off_by(values, others):
    """The largest difference of two tables of numbers."""
    return float(np.nanmax(np.abs(np.subtract(values, others, dtype=np.float64))))


def test_both_lanes_make_the_same_dataset_to_the_byte(work):
    here, there = (tree(work / name / "data") for name in (HERE, THERE))
    assert here == there and any("tfrecord" in name for name in here)


@pytest.mark.parametrize("maker", lanes.NAMES)
def test_a_dataset_of_one_lane_is_made_already_in_the_other(maker, work):
    (lane,) = {*lanes.NAMES} - {maker}
    assert "nothing to do" in (work / lane / f"data_{maker}.log").read_text()
    assert tree(work / lane / f"data_{maker}") == tree(work / maker / "data")


@pytest.mark.parametrize("maker", lanes.NAMES)
def test_a_run_of_one_lane_goes_on_in_the_other(maker, work):
    """To the losses that the second epoch has in the lane of the first."""
    (lane,) = {*lanes.NAMES} - {maker}
    assert "resuming after epoch 1 of 2" in (work / lane / f"run_{maker}.log").read_text()
    moved, stayed = (
        pd.read_csv(work / name / f"run_{maker}/history.csv") for name in (lane, maker)
    )
    first = pd.read_csv(work / maker / "run/history.csv")
    pd.testing.assert_frame_equal(moved.iloc[:1], first)
    assert list(moved["epoch"]) == [1, 2] and list(moved) == list(stayed)
    assert list(moved["learning_rate"]) == list(stayed["learning_rate"])
    relative = moved[LOSSES] / stayed[LOSSES] - 1
    print(f"second epoch, from {maker} to {lane}: off by {np.abs(relative).max().max():.1e}")
    assert np.abs(relative).max().max() < 1e-4


@pytest.mark.parametrize("maker", lanes.NAMES)
def test_exports_of_the_same_weights_agree_in_both_lanes(maker, work):
    (lane,) = {*lanes.NAMES} - {maker}
    number = lanes.NAMES.index(maker)
    one, *others = (
        dict(np.load(work / path))
        for path in (
            f"{maker}/outputs/{number}.npz",
            f"{lane}/outputs/{number}.npz",
            f"{lane}/outputs/2.npz",
        )
    )
    assert set(one) == {"unit", "reconstruction", "residual"}
    assert all(values.std() > 0.01 for values in one.values())
    worst = max(off_by(one[name], other[name]) for other in others for name in one)
    print(f"exports of the {maker} lane's weights: off by {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.parametrize("maker", lanes.NAMES)
def test_a_model_has_the_same_scores_in_both_lanes(maker, work):
    folders = [work / lane / f"scores_{maker}" for lane in lanes.NAMES]
    for name in ("scores.csv", "robustness.csv"):
        one, two = (pd.read_csv(folder / name) for folder in folders)
        numbers = list(one.select_dtypes("number"))
        print(
            f"{name} of the {maker} lane's model: off by {off_by(one[numbers], two[numbers]):.1e}"
        )
        pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-3)


@pytest.mark.parametrize("maker", lanes.NAMES)
def test_a_model_card_of_the_other_lane_gives_no_warning(maker, work):
    for lane in lanes.NAMES:
        assert "warning" not in (work / lane / f"scores_{maker}.log").read_text().lower()
    (other,) = {*lanes.NAMES} - {maker}
    folders = {maker: work / maker / "run", other: work / other / f"exported_{maker}"}
    cards = [
        json.loads((folders[lane] / MODEL / "1/assets.extra/model_card.json").read_text())
        for lane in lanes.NAMES
    ]
    assert "tensorflow-addons" in cards[0]["versions"] and "tf_keras" in cards[1]["versions"]
    for card in cards:
        del card["versions"], card["digest"]
    assert cards[0] == cards[1]


def test_a_search_of_one_lane_goes_on_in_the_other(work):
    """The second trial is the same in both directions."""
    tables = []
    for maker, lane in (lanes.NAMES, lanes.NAMES[::-1]):
        table = pd.read_csv(work / lane / f"search_{maker}/trials.csv")
        table = table.sort_values("trial", ignore_index=True)
        first = pd.read_csv(work / maker / "search/trials.csv")
        pd.testing.assert_frame_equal(table.iloc[:1], first)
        tables.append(table)
    assert list(tables[0]["trial"]) == [0, 1]
    one, two = (table.drop(columns=["seconds", "psnr", "ssim"]) for table in tables)
    pd.testing.assert_frame_equal(one, two)
    worst = off_by(tables[0]["psnr"], tables[1]["psnr"])
    print(f"PSNR of a search's trials: off by {worst:.1e} dB")
    assert worst < 0.1
