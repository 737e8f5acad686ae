import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest
import tiny_dataset

from trainer import __main__ as trainer_main
from trainer import models, search, state, training, tune, tuning
from trainer.callbacks import DivergedError

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


def points(count, batch_sizes=(8, 16)):
    space, generator = search.space(batch_sizes), random.Random(0)
    for _ in range(count):
        yield {hp.name: hp.random_sample(generator.randrange(10**9)) for hp in space.space}


def shape_of(flags):
    return {name: flags[name] for name in search.SHAPE}


def test_every_point_is_a_model_within_its_share_of_the_limit():
    widest = 0
    for values in points(300):
        shape = shape_of(search.flags_of(values, 6_104_256))
        parameters = search.count_parameters(**shape)
        share = values["share"] * 6_104_256
        assert 0.85 * share < parameters <= min(1.001 * share, 6_104_256)
        widest = max(widest, *shape["stage_filters"])
    assert widest > 256


@pytest.mark.parametrize("seed", [0, 1])
def test_the_count_is_that_of_the_model_that_is_built(seed):
    values = list(points(2))[seed]
    shape = shape_of(search.flags_of(values, 500_000))
    network = models.build("resnet_like", (16, 16), **shape)
    assert network.count_params() == search.count_parameters(**shape)


@pytest.mark.parametrize(("blocks", "parameters"), [((2, 1, 1), 2_263_232), ((2, 2, 4), 6_104_256)])
def test_the_models_of_the_thesis_are_in_the_space(blocks, parameters):
    values = {"share": 1.0, "growth": 2.0, "stem": 0.5, "upsampling": 1.0}
    values |= dict(zip(("blocks_1", "blocks_2", "blocks_3"), blocks, strict=True))
    shape = shape_of(search.flags_of(next(points(1)) | values, parameters))
    assert shape["stage_filters"] == (64, 128, 256) and shape["stem_filters"] == 32
    assert shape["upsampling_filters"] == (256, 128, 64, 32)
    assert search.count_parameters(**shape) == parameters


def test_loss_and_augmentation_are_one_number_each():
    values = next(points(1))
    flags = [
        search.flags_of(values | {"dssim_weight": weight, "augment_fraction": part}, 10**6)
        for weight, part in ((0.0, 0.0), (1.0, 0.5), (0.03, 1.0))
    ]
    assert [each["loss"] for each in flags] == ["mse", "dssim", "mix"]
    assert [each["augment"] for each in flags] == [False, True, True]
    assert flags[2]["dssim_weight"] == 0.03 and flags[1]["augment_fraction"] == 0.5


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
    run_state = state.read_state(tmp_path, 0.0)
    trial = json.loads((searched / "trials/trial_2/trial.json").read_text())
    of_trial = state.read_state(searched / "trials/trial_2/run", 0.0)
    assert run_state.history == of_trial.history
    assert trial["score"] == run_state.history[run_state.best_epoch - 1]["val_psnr"]
    # Left to itself it would have worked beside the table.
    lines = (searched / "best.flags").read_text().splitlines()
    assert f"--workdir={searched / 'best'}" in lines and f"--data_dir={data_dir}" in lines
    assert lines[0].startswith("# trial ")


@pytest.mark.slow
def test_kill_9_loses_and_repeats_nothing(searched, data_dir, tmp_path, capsys):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]
    process = subprocess.Popen([sys.executable, "-m", "trainer.tune", *flags])
    try:
        # In the middle of the second trial.
        wait_for(tmp_path / "trials/trial_1/run/config.json", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = (tmp_path / "trials/trial_0/run/state.json").stat()
    assert tune.run(flags) == 0
    out = capsys.readouterr().out
    assert "trial 0: until" not in out and "trial 1: until" in out
    if (searched / "trials/trial_0/run").exists():
        assert (tmp_path / "trials/trial_0/run/state.json").stat() == first
    pd.testing.assert_frame_equal(results(tmp_path), results(searched))


def wait_for(path, *processes, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert all(process.poll() is None for process in processes), "ended early"
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


class KilledError(BaseException):
    """Stands for kill -9: nothing of ours or keras-tuner's handles it."""


@pytest.fixture
def pretended(monkeypatch):
    """Trials that train nothing; gives a list of those that were run."""
    ran = []

    def train_until(config, epoch):
        folder = pathlib.Path(config.workdir)
        ran.append((folder.parent.name, epoch))
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        text = f"{config.learning_rate} {config.stage_filters} {config.schedule}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        rows = [
            {"val_psnr": 20 + number / 2**32 + row, "val_ssim": 0.5, "epoch": row + 1}
            for row in range(epoch)
        ]
        return state.RunState(0.1, history=rows, best_epoch=epoch, best_loss=1.0)

    def read_only(path, mode):
        assert mode == "r", f"{path} is written in place"
        return pathlib.Path(path).open(mode)

    monkeypatch.setattr(training, "train_until", train_until)
    monkeypatch.setattr("keras_tuner.src.backend.io.File", read_only)
    return ran


def kill_before_rename(monkeypatch, number):
    """End the process when it has written, but not yet put in place, its file `number`."""
    rename, seen = pathlib.Path.replace, []

    def replace(path, target):
        seen.append(target)
        if len(seen) == number:
            raise KilledError
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", replace)
    return seen


HYPERBAND = ["--epochs=3", "--factor=3", "--max_trials=4"]
BAYESIAN = ["--tuner=bayesian", "--random_trials=2", "--max_trials=3"]


@pytest.mark.parametrize(("options", "step"), [(HYPERBAND, 1), (BAYESIAN, 9)])
def test_a_kill_at_any_write_changes_nothing(
    options, step, data_dir, tmp_path, monkeypatch, pretended
):
    def flags(name):
        return [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path / name}", *FLAGS, *options]

    with monkeypatch.context() as patch:
        writes = kill_before_rename(patch, 0)
        assert tune.run(flags("whole")) == 0
        count = len(writes)
    whole = results(tmp_path / "whole")
    assert len(whole) >= 3 and count > 20
    for number in range(1, count + 1, step):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            kill_before_rename(patch, number)
            tune.run(flags(folder.name))
        finished = {
            path.parent.name
            for path in folder.glob("trials/*/trial.json")
            if json.loads(path.read_text())["status"] == "COMPLETED"
        }
        pretended.clear()
        assert tune.run(flags(folder.name)) == 0
        assert finished.isdisjoint(name for name, _ in pretended)
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
    assert [name for name, _ in pretended] == ["trial_0", "trial_1", "trial_2"]
    assert len(results(tmp_path)) == 3


def test_trials_that_diverge_are_the_worst_ones(data_dir, tmp_path, monkeypatch, pretended, capsys):
    works = training.train_until

    def diverge_often(config, epoch):
        if len(pretended) < 4:
            pretended.append(("", epoch))
            raise DivergedError("epoch 1: the loss is not finite any more")
        return works(config, epoch)

    monkeypatch.setattr(training, "train_until", diverge_often)
    flags = [f"--data_dir={data_dir}", *FLAGS, "--tuner=bayesian", "--random_trials=9"]
    assert tune.run([*flags, f"--tuning_dir={tmp_path / 'a'}", "--max_trials=5"]) == 0
    table = results(tmp_path / "a")
    assert table["trial"].iloc[0] == "4" and list(table["psnr"])[1:] == ["0.0"] * 4
    pretended.clear()
    capsys.readouterr()
    assert tune.run([*flags, f"--tuning_dir={tmp_path / 'b'}", "--max_trials=2"]) == 2
    assert "no trial came to a result" in capsys.readouterr().err


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


def test_a_damaged_search_gets_one_line(searched, data_dir, tmp_path, capsys):
    folder = shutil.copytree(searched, tmp_path / "search")
    (folder / "trials/oracle.json").write_text('{"ongoing_trials": ')
    assert tune.run([f"--data_dir={data_dir}", f"--tuning_dir={folder}", *FLAGS]) == 2
    error = capsys.readouterr().err
    assert "the state of the search in trials/ is damaged" in error and error.count("\n") == 1


def test_a_tuning_folder_belongs_to_one_search(data_dir, tmp_path, pretended, capsys):
    flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]
    assert tune.run(flags) == 0
    assert tune.run([*flags, "--tuner=bayesian", "--seed=3"]) == 2
    error = capsys.readouterr().err
    assert "--tuner=hyperband, --seed=0" in error and len(error.splitlines()) == 1


def test_half_of_the_variables_is_not_enough(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    assert tune.run([f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS]) == 2
    assert "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_PORT: set all" in capsys.readouterr().err


def test_a_chief_that_comes_back_leaves_each_worker_its_trial(data_dir, tmp_path, monkeypatch):
    for name, value in (("TUNER_ID", "chief"), ("ORACLE_IP", "::1"), ("ORACLE_PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    monkeypatch.setattr("keras_tuner.src.utils.save_json", tuning._save_json)
    config = search.SearchConfig(
        **{"data_dir": str(data_dir), "dataset": "ixi_t1/tiny", "tuning_dir": str(tmp_path)},
        **{"tuner": "hyperband", "epochs": 3, "max_trials": 9, "factor": 3, "random_trials": 1},
        **{"max_parameters": 10**6, "batch_sizes": (4,), "seed": 0, "mixed_precision": False},
        **{"jit_compile": "off", "cache": False, "replicas": 1, "verify": "full"},
    )

    def chief():
        oracle = tuning._make_oracle(config, lambda oracle: None)
        tuning._Tuner(oracle, config, {}, alone=False)
        return oracle

    def end(oracle, trial):
        metrics = {"val_psnr": 20.0, "val_ssim": 0.5, "epoch": 1, "until": 1}
        oracle.update_trial(trial.trial_id, metrics)
        trial.status = "COMPLETED"
        oracle.end_trial(trial)

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


@pytest.mark.slow
def test_a_chief_and_two_workers_search_together(searched, data_dir, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start(name):
        names = {"TUNER_ID": name, "ORACLE_IP": "127.0.0.1", "ORACLE_PORT": str(port)}
        environment = os.environ | {f"KERASTUNER_{key}": value for key, value in names.items()}
        flags = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path}", *FLAGS, "--max_trials=2"]
        with (tmp_path / f"{name}.log").open("a") as log:
            command = [sys.executable, "-m", "trainer.tune", *flags]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    processes = [start(name) for name in ("chief", "ada", "emmy")]
    try:
        # One worker dies over its trial and comes back under its name.
        wait_for(tmp_path / "trials/trial_0/run/config.json", *processes)
        log = (tmp_path / "ada.log").read_text()
        dead = 1 if "trial 0: until" in log else 2
        processes[dead].kill()
        processes[dead].wait()
        processes[dead] = start(("chief", "ada", "emmy")[dead])
        codes = [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in ("chief", "ada", "emmy")}
    assert codes == [0, 0, 0], logs
    assert all(logs[name].count(": until") for name in ("ada", "emmy"))
    assert "best: trial" in logs["chief"] and ": until" not in logs["chief"]
    assert (tmp_path / "best.flags").exists()
    ours, theirs = (
        pd.read_csv(folder / "trials.csv").set_index("trial").sort_index()
        for folder in (tmp_path, searched)
    )
    # The first two trials are those of a process alone, up to messages of 32 bits.
    alone = theirs.loc[[0, 1]].drop(columns="seconds")
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), alone, rtol=1e-5)
