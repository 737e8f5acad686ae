import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import forked
import keras_tuner
import numpy as np
import pandas as pd
import pytest
import tiny_dataset
from keras_tuner.src.distribute import oracle_chief

from ixi_tfds.documents import manifest as manifests
from trainer import __main__ as trainer_main
from trainer import models, tune, workdir
from trainer import run as training
from trainer.callbacks import DivergedError
from trainer.search import config as search_config
from trainer.search import run as search
from trainer.search import space, tuner

FLAGS = [
    *("--dataset=ixi_t1/tiny", "--batch_sizes=4,8", "--max_parameters=450000"),
    *("--epochs=2", "--factor=2", "--max_trials=3"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The tiny dataset without the files of its test split, which a search must not miss."""
    root = tmp_path_factory.mktemp("data")
    for path in tiny_dataset.write_tiny_dataset(root).glob("ixi_t1-test*"):
        path.unlink()
    return root


@pytest.fixture(scope="module")
def searched(data_dir, tmp_path_factory):
    """Hyperband's first bracket: two trials of one epoch, the better one trained to two."""
    folder = tmp_path_factory.mktemp("search")
    assert tune.run([f"--data_dir={data_dir}", f"--tuning_dir={folder}", *FLAGS]) == 0
    return folder


def results(folder):
    """What a search came to, without the time that it took."""
    return pd.read_csv(folder / "trials.csv", dtype=str).drop(columns="seconds")


def points(count, batch_sizes=(8, 16), **chosen):
    drawn, generator = space.space(batch_sizes, **chosen), random.Random(0)
    for _ in range(count):
        yield {hp.name: hp.random_sample(generator.randrange(10**9)) for hp in drawn.space}


def shape_of(flags):
    return {name: flags[name] for name in space.SHAPE}


def test_every_point_is_a_model_within_its_share_of_the_limit():
    widest = 0
    for values in points(300):
        shape = shape_of(space.flags_of(values, 6_104_256))
        parameters = space.count_parameters(**shape)
        share = values["share"] * 6_104_256
        assert 0.85 * share < parameters <= min(1.001 * share, 6_104_256)
        widest = max(widest, *shape["stage_filters"])
    assert widest > 256


@pytest.mark.parametrize("seed", [0, 1])
def test_the_count_is_that_of_the_model_that_is_built(seed):
    values = list(points(2))[seed]
    shape = shape_of(space.flags_of(values, 500_000))
    network = models.build(models.ModelSpec(name="resnet_like", **shape), (16, 16))
    assert network.count_params() == space.count_parameters(**shape)


def test_models_of_fewer_stages_are_drawn_where_they_are_asked_for():
    numbers = []
    for values in points(60, stages=(1, 2)):
        shape = shape_of(space.flags_of(values, 10**6))
        number = len(shape["stage_filters"])
        assert len(shape["stage_blocks"]) == number == len(shape["upsampling_filters"]) - 1
        share = values["share"] * 10**6
        assert 0.8 * share < space.count_parameters(**shape) <= 1.001 * share
        numbers.append(number)
    assert set(numbers) == {1, 2} and 15 < numbers.count(1) < 45
    network = models.build(models.ModelSpec(name="resnet_like", **shape), (16, 16))
    assert network.count_params() == space.count_parameters(**shape)


def test_searches_that_ask_for_no_stages_draw_what_they_drew_before():
    names = {hp.name for hp in space.space((8, 16)).space}
    assert "stages" not in names
    assert {hp.name for hp in space.space((8, 16), stages=(3, 3)).space} == names
    assert {hp.name for hp in space.space((8, 16), stages=(2, 3)).space} == names | {"stages"}
    shapes = [shape_of(space.flags_of(values, 10**6)) for values in points(20)]
    assert {len(shape["stage_blocks"]) for shape in shapes} == {3}


@pytest.mark.parametrize(("blocks", "parameters"), [((2, 1, 1), 2_263_232), ((2, 2, 4), 6_104_256)])
def test_the_models_of_the_thesis_are_in_the_space(blocks, parameters):
    values = {"share": 1.0, "growth": 2.0, "stem": 0.5, "upsampling": 1.0}
    values |= dict(zip(("blocks_1", "blocks_2", "blocks_3"), blocks, strict=True))
    shape = shape_of(space.flags_of(next(points(1)) | values, parameters))
    assert shape["stage_filters"] == (64, 128, 256) and shape["stem_filters"] == 32
    assert shape["upsampling_filters"] == (256, 128, 64, 32)
    assert space.count_parameters(**shape) == parameters


def test_loss_and_augmentation_are_one_number_each():
    values = next(points(1))
    flags = [
        space.flags_of(values | {"dssim_weight": weight, "augment_fraction": part}, 10**6)
        for weight, part in ((0.0, 0.0), (1.0, 0.5), (0.03, 1.0))
    ]
    assert [each["loss"] for each in flags] == ["mse", "dssim", "mix"]
    assert [each["augment"] for each in flags] == [False, True, True]
    assert flags[2]["dssim_weight"] == 0.03 and flags[1]["augment_fraction"] == 0.5


def config_with(**given):
    """A search by its fields; those that are not given are made up."""
    made_up = {"data_dir": "d", "dataset": "ixi_t1/tiny", "tuning_dir": "t", "tuner": "hyperband"}
    made_up |= {"epochs": 3, "max_trials": 9, "factor": 3, "random_trials": 1, "seed": 0}
    made_up |= {"max_parameters": 10**6, "batch_sizes": (4,), "mixed_precision": False}
    made_up |= {"jit_compile": "off", "cache": False, "replicas": 1, "verify": "full"}
    return search_config.SearchConfig(**made_up | given)


class AskedError(Exception):
    """Carries the config instead of training by it."""


def test_a_flagfile_is_the_run_that_was_tried(tmp_path, monkeypatch):
    """The trainer's own command line reads it back, flag by flag."""

    def train(config):
        raise AskedError(config)

    monkeypatch.setattr(training, "train", train)
    shared = {"mixed_precision": True, "cache": True, "jit_compile": "on", "replicas": 2}
    for number, values in enumerate(points(20)):
        given = {"seed": 7 + number, "epochs": 11, **(shared if number % 2 else {})}
        asked = config_with(max_parameters=900_000, data_dir="data", **given)
        config = search.run_config(asked, values, "here/best")
        (tmp_path / "best.flags").write_text(search.flagfile(config))
        with pytest.raises(AskedError) as read:
            trainer_main.run([f"--flagfile={tmp_path / 'best.flags'}"])
        (read,) = read.value.args
        here = pathlib.Path.cwd()
        places = {"data_dir": str(here / "data"), "workdir": str(here / "here/best")}
        # Searching checks the dataset once; a run by itself checks it, too.
        assert read == dataclasses.replace(config, **places, verify="full")
        assert config.verify == "quick"
        for name in ("dataset", "seed", "epochs", "mixed_precision", "jit_compile", "cache"):
            assert getattr(read, name) == getattr(asked, name)
        assert (read.replicas, read.model.weights) == (asked.replicas, "none")
        for name in ("optimizer", "schedule", "batch_size"):
            assert getattr(read, name) == values[name]
        assert read.learning_rate == pytest.approx(values["learning_rate"], rel=0.006)
        blocks = tuple(values[f"blocks_{stage}"] for stage in (1, 2, 3))
        assert (read.model.name, read.model.stage_blocks) == ("resnet_like", blocks)


def test_half_of_the_rates_are_below_the_middle_of_their_decades():
    """Drawn evenly over magnitudes; evenly over numbers nine tenths would be above it."""
    drawn = list(points(400))
    assert 0.4 < np.mean([values["learning_rate"] < 1e-3 for values in drawn]) < 0.6
    assert 0.4 < np.mean([values["share"] < 0.5 for values in drawn]) < 0.6
    rates = [values["learning_rate"] for values in drawn]
    assert 1e-4 <= min(rates) < 1.1e-4 and 9e-3 < max(rates) <= 1e-2


def test_no_model_within_the_share_is_wider():
    """Four filters more in the first stage, and all that follows from them, are too many."""
    for values in points(100):
        shape = shape_of(space.flags_of(values, 10**6))
        share = float(f"{values['share']:.3g}") * 10**6
        first = shape["stage_filters"][0] + 4
        widths = [4 * round(first * values["growth"] ** stage / 4) for stage in range(3)]
        stem = 4 * round(first * values["stem"] / 4)
        ups = [4 * round(width * values["upsampling"] / 4) for width in (*widths[::-1], stem)]
        wider = {"stem_filters": stem, "stage_filters": widths, "upsampling_filters": ups}
        wider["stage_blocks"] = shape["stage_blocks"]
        assert space.count_parameters(**shape) <= share < space.count_parameters(**wider)


def test_bayesian_optimization_asks_for_nothing_twice(monkeypatch):
    """Where its model of the results comes to a point that was tried, it draws another."""
    monkeypatch.delenv("KERASTUNER_ORACLE_IP", raising=False)
    config = config_with(tuner="bayesian", max_trials=6)
    oracle = tuner.make_oracle(config, lambda oracle: None)
    monkeypatch.setattr(oracle, "_save_trial", lambda trial: None)
    monkeypatch.setattr(oracle, "save", lambda: None)
    first = oracle.create_trial("ada").hyperparameters.values
    stuck = {"status": "RUNNING", "values": dict(first)}
    monkeypatch.setattr(
        keras_tuner.oracles.BayesianOptimizationOracle, "populate_space", lambda *args: stuck
    )
    drawn = [oracle.create_trial(name).hyperparameters.values for name in ("emmy", "grace")]
    assert len({json.dumps(values, sort_keys=True) for values in (first, *drawn)}) == 3


def test_a_search_ends_with_a_table(searched):
    table = pd.read_csv(searched / "trials.csv", dtype={"trial": str, "goes_on": str})
    assert len(table) == 3
    assert list(table["psnr"]) == sorted(table["psnr"], reverse=True)
    assert (table["parameters"] <= 450_000).all()
    further = table.set_index("trial").loc["2"]
    first = table[table["trial"] != "2"]
    assert further["goes_on"] == first["trial"].iloc[0] and further["epochs"] == 2
    assert set(first["epochs"]) == {1}
    # Nothing stays that no one needs.
    assert not list(searched.glob("trials/trial_*/run/checkpoints"))


def test_the_flags_of_the_best_train_what_the_trial_trained(searched, data_dir, tmp_path):
    """The trial was trained in two pieces, this run is in one: the same to the last digit."""
    flags = f"--flagfile={searched / 'best.flags'}"
    assert trainer_main.run([flags, f"--workdir={tmp_path}"]) == 0
    run_state = workdir.read_state(tmp_path, 0.0)
    trial = json.loads((searched / "trials/trial_2/trial.json").read_text())
    of_trial = workdir.read_state(searched / "trials/trial_2/run", 0.0)
    assert run_state.history == of_trial.history
    assert trial["score"] == run_state.history[run_state.best_epoch - 1]["val_psnr"]
    # Left to itself it would have worked beside the table.
    lines = (searched / "best.flags").read_text().splitlines()
    assert f"--workdir={searched / 'best'}" in lines and f"--data_dir={data_dir}" in lines
    assert lines[0].startswith("# trial ")


DYING = """
import sys, forked
from trainer import tune
forked.die_at_step(int(sys.argv[1]))
sys.exit(tune.run(sys.argv[2:]))
"""


def start(code, *arguments, log=None, **variables):
    """A process of its own that runs code of the tests."""
    here = str(pathlib.Path(__file__).resolve().parents[2] / "support")
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with pathlib.Path(log or os.devnull).open("a") as output:
        command = [sys.executable, "-c", code, *arguments]
        environment = os.environ | {"PYTHONPATH": path} | variables
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


@pytest.mark.slow
def test_kill_9_loses_and_repeats_nothing(searched, data_dir, tmp_path, capsys):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]
    # In the second step of the second trial; the first has one epoch of 24 slices.
    batches = pd.read_csv(searched / "trials.csv").set_index("trial")["batch_size"]
    process = start(DYING, str(24 // batches[0] + 2), *flags)
    assert process.wait(timeout=600) == -signal.SIGKILL
    assert (tmp_path / "trials/trial_1/run/config.json").exists()
    assert not (tmp_path / "trials/trial_1/run/state.json").exists()
    first = (tmp_path / "trials/trial_0/run/state.json").read_bytes()
    assert tune.run(flags) == 0
    out = capsys.readouterr().out
    assert [out.count(f"trial {number}: until") for number in (0, 1, 2)] == [0, 1, 1]
    kept = tmp_path / "trials/trial_0/run/state.json"
    # It is where the third trial trains it further, if it does.
    assert not kept.exists() or kept.read_bytes() == first
    pd.testing.assert_frame_equal(results(tmp_path), results(searched))


@pytest.mark.slow
def test_a_trial_whose_process_died_twice_fails_and_the_search_goes_on(data_dir, tmp_path, capsys):
    flags = ["tune", f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS, *BAYESIAN]
    flags += ["--epochs=1"]
    # At each call for this trial, as a crash of a kernel in the step of its model does.
    deadly = functools.partial(forked.die_in, "trainer.run.train_until", "trial_1", done=0)
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    codes = [forked.finish(forked.start(flags, log, deadly)) for log in logs]
    assert codes == [[-signal.SIGKILL], [-signal.SIGKILL], [0]], logs[2].read_text()
    last = logs[2].read_text()
    assert "trial 1: the process died 2 times in this trial without finishing an epoch\n" in last
    assert "trial 1: no result; best of 2: trial 0, PSNR" in last
    assert "trial 2: until epoch 1" in last and "trial 0: until" not in last
    table = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False).set_index("trial")
    assert table["failure"].to_dict() == {0: "", 2: "", 1: "the process died twice in this trial"}
    assert table["psnr"][1] == 0.0 and table.index[-1] == 1
    # A table of an earlier search is read again, not the trial.
    assert trainer_main.run(flags) == 0
    assert "the process died twice in this trial" in capsys.readouterr().out


@pytest.fixture
def pretended(monkeypatch):
    """Trials that train nothing; gives a list of those that were run: name, until, epochs before.

    The last epoch has the highest PSNR, and the one before it the lowest loss.
    """
    ran = []

    def train_until(config, epoch):
        folder = pathlib.Path(config.workdir)
        done = folder / "epochs"
        ran.append((folder.parent.name, epoch, int(done.read_text()) if done.exists() else 0))
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        done.write_text(str(epoch))
        text = f"{config.learning_rate} {config.model.stage_filters} {config.schedule}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        rows = [
            {"val_psnr": 20 + number / 2**32 + row, "val_ssim": 0.5 + row / 64, "epoch": row + 1}
            for row in range(epoch)
        ]
        best = max(1, epoch - 1)
        return workdir.RunState(0.1, history=rows, best_epoch=best, best_loss=1.0)

    def read_only(path, mode):
        assert mode == "r", f"{path} is written in place"
        return pathlib.Path(path).open(mode)

    monkeypatch.setattr(training, "train_until", train_until)
    monkeypatch.setattr("keras_tuner.src.backend.io.File", read_only)
    return ran


def test_hyperband_trains_the_best_further_where_they_stopped(data_dir, tmp_path, pretended):
    """Four for one epoch, two of them to the second, one to the fourth."""
    options = ["--epochs=4", "--factor=2", "--max_trials=7"]
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS, *options]
    assert tune.run(flags) == 0
    assert [run[1:] for run in pretended] == [(1, 0)] * 4 + [(2, 1)] * 2 + [(4, 2)]
    table = pd.read_csv(tmp_path / "trials.csv", dtype={"trial": str, "goes_on": str})
    assert list(table["psnr"]) == sorted(table["psnr"], reverse=True)
    # Not the last epoch, but the one whose weights would be exported.
    assert (table["epoch"] == np.maximum(table["epochs"] - 1, 1)).all()
    assert (table["ssim"] == 0.5 + (table["epoch"] - 1) / 64).all()
    by_epochs = dict(list(table.groupby("epochs")))
    assert {epochs: len(rows) for epochs, rows in by_epochs.items()} == {1: 4, 2: 2, 4: 1}
    assert set(by_epochs[2]["goes_on"]) == set(by_epochs[1]["trial"][:2])
    assert set(by_epochs[4]["goes_on"]) == set(by_epochs[2]["trial"][:1])
    (longest,) = by_epochs[4].itertuples()
    fraction = longest.psnr % 1
    assert fraction == pytest.approx(by_epochs[1]["psnr"].max() % 1, abs=1e-6)
    # 20 and a bit in the first epoch, 2 dB more in the third.
    assert longest.psnr == pytest.approx(22 + fraction)
    comment = (tmp_path / "best.flags").read_text().splitlines()[0]
    assert comment.startswith(f"# trial {longest.trial}: ")
    assert comment.endswith(f"PSNR {longest.psnr:.2f} dB at epoch 3 of 4")


def test_a_search_among_models_of_one_stage(data_dir, tmp_path, pretended):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS, "--stages=1"]
    assert tune.run(flags) == 0
    assert len(pretended) == 3
    best = (tmp_path / "best.flags").read_text().splitlines()
    (filters,) = [line for line in best if line.startswith("--stage_filters=")]
    assert "," not in filters and int(filters.partition("=")[2]) > 0


def copies_at_each_write(monkeypatch, folder, copies):
    """Copy a folder before anything in it is put in place, moved or removed, and once at the end.

    That is what SIGKILL would leave of it at this moment: nothing is tidied up.
    """

    def spied(function):
        def copy_first(path, *args, **kwargs):
            if str(path).startswith(f"{folder}/"):
                copies.append(shutil.copytree(folder, folder.with_name(f"copy-{len(copies)}")))
            return function(path, *args, **kwargs)

        return copy_first

    for owner, name in (
        *((pathlib.Path, "replace"), (pathlib.Path, "rename"), (pathlib.Path, "unlink")),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, spied(getattr(owner, name)))


HYPERBAND = ["--epochs=3", "--factor=3", "--max_trials=4"]
BAYESIAN = ["--tuner=bayesian", "--random_trials=2", "--max_trials=3"]


@pytest.mark.parametrize(("options", "step"), [(HYPERBAND, 1), (BAYESIAN, 9)])
def test_a_kill_at_any_write_changes_nothing(
    options, step, data_dir, tmp_path, monkeypatch, pretended
):
    def flags(folder):
        return [f"--data_dir={data_dir}", f"--tuning_dir={folder}", *FLAGS, *options]

    copies = []
    with monkeypatch.context() as patch:
        copies_at_each_write(patch, tmp_path / "whole", copies)
        assert tune.run(flags(tmp_path / "whole")) == 0
    whole = results(tmp_path / "whole")
    ran_whole = {name: epochs for name, *epochs in pretended}
    assert len(whole) >= 3 and len(copies) > 20
    for folder in copies[::step]:
        statuses = {
            path.parent.name: json.loads(path.read_text())["status"]
            for path in folder.glob("trials/*/trial.json")
        }
        finished = {name for name, status in statuses.items() if status == "COMPLETED"}
        pretended.clear()
        assert tune.run(flags(folder)) == 0
        names = [name for name, *_ in pretended]
        assert len(names) == len(set(names)) and finished.isdisjoint(names)
        assert finished.union(names) == ran_whole.keys()
        pd.testing.assert_frame_equal(results(folder), whole)
        shutil.rmtree(folder)


def test_the_seed_decides(data_dir, tmp_path, pretended):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path / name}", f"--seed={seed}"]
        assert tune.run([*flags, *FLAGS]) == 0
        tables.append(results(tmp_path / name))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[2].equals(tables[0])


def test_bayesian_optimization_may_go_on_for_longer(data_dir, tmp_path, pretended):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS, *BAYESIAN]
    assert tune.run([*flags, "--max_trials=2"]) == 0
    assert tune.run([*flags, "--max_trials=3"]) == 0
    assert [name for name, *_ in pretended] == ["trial_0", "trial_1", "trial_2"]
    assert len(results(tmp_path)) == 3


def test_trials_that_diverge_are_the_worst_ones(data_dir, tmp_path, monkeypatch, pretended, capsys):
    works = training.train_until

    def diverge_often(config, epoch):
        if len(pretended) < 4:
            pretended.append(("", epoch, 0))
            raise DivergedError("epoch 1: the loss is not finite any more")
        return works(config, epoch)

    monkeypatch.setattr(training, "train_until", diverge_often)
    flags = [f"--data_dir={data_dir}", *FLAGS, "--tuner=bayesian", "--random_trials=9"]
    assert tune.run([*flags, f"--tuning_dir={tmp_path / 'a'}", "--max_trials=5"]) == 0
    table = results(tmp_path / "a")
    assert list(table["failure"].fillna("")) == ["", *["diverged"] * 4]
    out = capsys.readouterr().out
    for number in range(4):
        assert f"trial {number}: epoch 1: the loss is not finite any more\n" in out
    assert table["trial"].iloc[0] == "4" and list(table["psnr"])[1:] == ["0.0"] * 4
    pretended.clear()
    capsys.readouterr()
    assert tune.run([*flags, f"--tuning_dir={tmp_path / 'b'}", "--max_trials=2"]) == 2
    assert "no trial has a result" in capsys.readouterr().err


def test_an_error_of_ours_ends_the_search(data_dir, tmp_path, monkeypatch):
    def broken(config, epoch):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(training, "train_until", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        tune.run([f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tuner=grid"], "--tuner=grid: choose one of hyperband, bayesian"),
        (["--epochs=0"], "--epochs=0: must be at least 1"),
        (["--factor=1"], "--factor=1: must be at least 2"),
        (["--max_parameters=1000"], "--max_parameters=1000: must be at least"),
        (["--batch_sizes=4,x"], "--batch_sizes=4,x"),
        (["--batch_sizes=4,64"], "64 is more than the 24 slices"),
        (["--data_dir=/no/such/folder"], "/no/such/folder"),
        (["--dataset=ixi_t1/none"], "ixi_t1/none"),
        (["stray"], "stray"),
    ],
)
def test_slips_of_the_user_get_one_line(flags, message, data_dir, tmp_path, capsys):
    folder = tmp_path / "new"
    assert tune.run([f"--data_dir={data_dir}", f"--tuning_dir={folder}", *FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not folder.exists()


def spoil(name, text):
    return lambda folder: (folder / "trials" / name).write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(spoil("oracle.json", '{"ongoing_trials": '), id="oracle is cut off"),
        pytest.param(spoil("oracle.json", "[]"), id="oracle is another thing"),
        pytest.param(spoil("oracle.json", '{"ongoing_trials": {}}'), id="oracle lacks things"),
        pytest.param(spoil("trial_1/trial.json", '{"trial_id": "1"'), id="trial is cut off"),
        pytest.param(spoil("trial_1/trial.json", '{"trial_id": "1"}'), id="trial lacks things"),
        pytest.param(
            lambda folder: (folder / "trials/trial_1/trial.json").unlink(), id="trial is lost"
        ),
    ],
)
def test_a_damaged_search_gets_one_line(damage, data_dir, tmp_path, pretended, capsys):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]
    assert tune.run(flags) == 0
    damage(tmp_path)
    pretended.clear()
    capsys.readouterr()
    assert tune.run(flags) == 2
    error = capsys.readouterr().err
    assert "the state of the search in trials/ is damaged" in error and error.count("\n") == 1
    assert pretended == []


OTHER = {
    "dataset": "ixi_t1/same",
    "tuner": "bayesian",
    "epochs": "3",
    "steps_per_epoch": "2",
    "factor": "3",
    "max_trials": "4",
    "random_trials": "2",
    "max_parameters": "500000",
    "batch_sizes": "4",
    "stages": "1,2",
    "seed": "3",
    "mixed_precision": "true",
    "cache": "true",
}
FREE = {"jit_compile": "off", "replicas": "1", "verify": "quick"}


def test_a_tuning_folder_belongs_to_one_search(data_dir, tmp_path, pretended, capsys):
    """Whatever changes what is searched for is refused, and nothing else is."""
    root, folder = tmp_path / "data", tmp_path / "search"
    dataset = tiny_dataset.write_tiny_dataset(root)
    shutil.copytree(root / "ixi_t1/tiny", root / "ixi_t1/same")
    flags = [f"--tuning_dir={folder}", *FLAGS]
    # The same slices elsewhere are the same.
    assert tune.run([*flags, f"--data_dir={data_dir}"]) == 0
    flags.append(f"--data_dir={root}")
    # Other tasks need a dataset of brains.
    assert {*OTHER, *FREE, "data_dir", "tuning_dir", "task"} == {
        field.name for field in dataclasses.fields(search_config.SearchConfig)
    }
    before = tree(folder)
    pretended.clear()
    for name, value in OTHER.items():
        capsys.readouterr()
        assert tune.run([*flags, f"--{name}={value}"]) == 2, name
        error = capsys.readouterr().err
        assert f"belongs to a run with --{name}=" in error and error.count("\n") == 1
        # And with nothing else.
        assert error.count("--") == 3, error
    assert tune.run([*flags, "--tuner=bayesian", "--seed=3"]) == 2
    assert "with --tuner=hyperband, --seed=0; give" in capsys.readouterr().err
    # Other slices under the same name.
    manifest = manifests.read(dataset)
    manifests.write(dataset, dataclasses.replace(manifest, fingerprint="of others"))
    assert tune.run(flags) == 2
    assert "--dataset (other contents)" in capsys.readouterr().err
    manifests.write(dataset, manifest)
    assert tree(folder) == before and pretended == []
    assert tune.run([*flags, *(f"--{name}={value}" for name, value in FREE.items())]) == 0
    assert pretended == []


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_half_of_the_variables_is_not_enough(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    assert tune.run([f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]) == 2
    assert "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_PORT: set all" in capsys.readouterr().err


@pytest.fixture
def chief(data_dir, tmp_path, monkeypatch):
    """Makes the oracle that a chief of several workers has, from what is in the folder."""
    for name, value in (("TUNER_ID", "chief"), ("ORACLE_IP", "::1"), ("ORACLE_PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    monkeypatch.setattr("keras_tuner.src.utils.save_json", tuner.save_whole)

    def chief(**given):
        config = config_with(data_dir=str(data_dir), tuning_dir=str(tmp_path), **given)
        oracle = tuner.make_oracle(config, lambda oracle: None)
        tuner.Tuner(oracle, config.tuning_dir, None, None)
        return oracle

    return chief


def end(oracle, trial):
    metrics = {"val_psnr": 20.0, "val_ssim": 0.5, "epoch": 1, "until": 1}
    oracle.update_trial(trial.trial_id, metrics)
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def test_a_chief_that_came_back_waits_until_its_workers_have_asked_again(chief):
    """Who hands in a result and finds nobody to ask for more would wait for an hour."""
    trials = [chief(max_trials=2).create_trial("ada")]
    trials.append(chief(max_trials=2).create_trial("emmy"))
    after = chief(max_trials=2)
    for name, trial in zip(("ada", "emmy"), trials, strict=True):
        assert after.create_trial(name).trial_id == trial.trial_id
        end(after, trial)
    assert not oracle_chief.exit_chief(after)
    assert after.create_trial("ada").status == "STOPPED"
    assert not oracle_chief.exit_chief(after)
    assert after.create_trial("emmy").status == "STOPPED"
    assert oracle_chief.exit_chief(after)


def test_a_chief_that_comes_back_leaves_each_worker_its_trial(chief, monkeypatch):
    before = chief()
    mine, other = before.create_trial("ada"), before.create_trial("emmy")
    end(before, other)
    after = chief()
    # Ada, who never stopped, hands in what she has; Emmy's is done.
    assert after.create_trial("ada").trial_id == mine.trial_id
    third = after.create_trial("emmy")
    assert third.trial_id not in (mine.trial_id, other.trial_id)
    end(after, mine)
    again = chief()
    assert {trial.status for trial in again.trials.values()} == {"COMPLETED", "RUNNING"}
    assert again.create_trial("emmy").trial_id == third.trial_id
    assert again.create_trial("ada").trial_id not in again.end_order
    # A process alone takes up what all of them had.
    monkeypatch.delenv("KERASTUNER_ORACLE_IP")
    alone = chief()
    running = [name for name, trial in alone.trials.items() if trial.status == "RUNNING"]
    taken = []
    for _ in running:
        taken.append(alone.create_trial("alone"))
        end(alone, taken[-1])
    assert sorted(trial.trial_id for trial in taken) == sorted(running)


HOLDING = """
import os, pathlib, sys, time
from trainer import run as training
from trainer import tune
folder = pathlib.Path(sys.argv[1])
works = training.train_until

def held(config, epoch):
    state = works(config, epoch)
    (folder / (os.environ["KERASTUNER_TUNER_ID"] + ".trained")).touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return state

training.train_until = held
sys.exit(tune.run(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_chief_and_two_workers_search_together(searched, data_dir, tmp_path):
    """The chief and a worker die while both workers hold a trial; both come back."""
    folder = tmp_path / "search"
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={folder}", *FLAGS, "--max_trials=2"]
    with socket.socket() as reserved:
        # Nobody else gets the port while the chief, which shares it, is away.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        address = {"ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(reserved.getsockname()[1])}

        def begin(name):
            names = {"TUNER_ID": name, **address}
            variables = {f"KERASTUNER_{key}": value for key, value in names.items()}
            log = tmp_path / f"{name}.log"
            return start(HOLDING, str(tmp_path), *flags, log=log, **variables)

        processes = {name: begin(name) for name in ("chief", "ada", "emmy")}
        lost = []
        try:
            wait_for(tmp_path / "ada.trained", *processes.values())
            wait_for(tmp_path / "emmy.trained", *processes.values())
            for name in ("chief", "ada"):
                lost.append(processes[name])
                lost[-1].kill()
                assert lost[-1].wait() == -signal.SIGKILL
            # Emmy hands in her result while nobody listens, and waits.
            (tmp_path / "go").touch()
            processes |= {name: begin(name) for name in ("chief", "ada")}
            codes = [process.wait(timeout=600) for process in processes.values()]
        finally:
            for process in (*processes.values(), *lost):
                process.kill()
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in processes}
    assert codes == [0, 0, 0], logs
    begun = {name: re.findall(r"trial (\d): until", log) for name, log in logs.items()}
    # Each has kept its trial: Ada took hers up again under her name, Emmy never stopped.
    assert begun["chief"] == [] and begun["ada"] == 2 * begun["ada"][:1]
    assert sorted(begun["ada"][:1] + begun["emmy"]) == ["0", "1"]
    assert "resuming after epoch 1" in logs["ada"] and "best: trial" in logs["chief"]
    assert (folder / "best.flags").exists()
    ours, theirs = (
        pd.read_csv(where / "trials.csv").set_index("trial").sort_index()
        for where in (folder, searched)
    )
    # The first two trials are those of a process alone, up to messages of 32 bits.
    alone = theirs.loc[[0, 1]].drop(columns="seconds")
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), alone, rtol=1e-5)


def wait_for(path, *processes):
    """Until a file is there; the limit is for processes that hang."""
    end = time.monotonic() + 600
    while not path.exists():
        assert all(process.poll() is None for process in processes), "ended early"
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)
