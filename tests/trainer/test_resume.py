"""Killed at any moment, the same command goes on, and comes to the same to the bit."""

import csv
import functools
import json
import os
import random
import shutil

import forked
import pytest
import tensorflow as tf
import tiny_dataset

EPOCHS, STEPS = 6, 4
FLAGS = [
    *("--dataset=ixi_t1/tiny", "--batch_size=6", f"--epochs={EPOCHS}", "--learning_rate=0.02"),
    *("--model=resnet_like", "--stem_filters=8", "--stage_filters=16", "--stage_blocks=1"),
    # Too fast a rate, so that validation gets worse and the rate falls, on any machine.
    *("--augment_validation", "--jit_compile=off", "--optimizer=adam"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(root)
    return root


def start(data_dir, folder, *before):
    argv = [f"--data_dir={data_dir}", f"--workdir={folder / 'run'}", *FLAGS]
    return forked.start(argv, folder / "log.txt", *before)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    codes = forked.finish(start(data_dir, folder))
    assert codes == [0], (folder / "log.txt").read_text()
    return folder


def epochs_done(folder):
    path = folder / "run/state.json"
    return len(json.loads(path.read_text())["history"]) if path.exists() else 0


def outcome(folder):
    """All that a run leaves: bytes of its files, of its weights and of its exported model's."""
    workdir = folder / "run"
    model = workdir / "export/resnet_like/1"
    found = {path.name: path.read_bytes() for path in workdir.glob("*.*")}
    card = json.loads((model / "assets.extra/model_card.json").read_text())
    found["best"] = card["best"]
    prefixes = [path.with_suffix("") for path in (workdir / "checkpoints").glob("*.index")]
    for prefix in [*prefixes, model / "variables/variables"]:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in reader.get_variable_to_shape_map():
            # The graph of objects is bookkeeping.
            if "OBJECT_GRAPH" not in name:
                found[f"{prefix.name}/{name}"] = reader.get_tensor(name).tobytes()
    del found["config.json"]  # Holds the name of the folder.
    return found


def assert_same(folder, undisturbed):
    ours, theirs = outcome(folder), outcome(undisturbed)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_undisturbed_run_has_state_to_lose(undisturbed):
    with (undisturbed / "run/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert len(rows) == EPOCHS and rates[-1] < rates[0]
    assert any("optimizer" in name for name in outcome(undisturbed))


MERGE = "tensorflow.python.ops.gen_io_ops.merge_v2_checkpoints"
WRITE, RENAME = "pathlib.Path.write_bytes", "pathlib.Path.replace"

KILLS = [
    # In mid-epoch, first and later.
    (functools.partial(forked.die_at_step, 2), 0),
    (functools.partial(forked.die_at_step, STEPS + 3), 1),
    # The checkpoint's values are on the disk, under a name that does not count.
    (functools.partial(forked.die_in, MERGE, done=0), 1),
    # The checkpoint is whole, the state that names it is not written, or half, or not in place.
    (functools.partial(forked.die_in, MERGE, done=1), 1),
    (functools.partial(forked.die_in, WRITE, "state.json", done=0.5), 1),
    (functools.partial(forked.die_in, RENAME, "state.json", done=0), 1),
    # The state counts, history.csv is behind; and again while the next start makes up for that.
    (functools.partial(forked.die_in, RENAME, "state.json", done=1), 2),
    (functools.partial(forked.die_in, WRITE, "history.csv", done=0.5), 2),
    # Half of a checkpoint that has become superfluous is gone.
    (functools.partial(forked.die_in, "pathlib.Path.unlink", "epoch-", done=1), 3),
    # All is done but the export, or its last step.
    (functools.partial(forked.die_in, "tensorflow.saved_model.save", done=0), EPOCHS),
    (functools.partial(forked.die_in, "pathlib.Path.rename", "export", done=0), EPOCHS),
]


@pytest.mark.lanes
@pytest.mark.slow
def test_a_run_killed_at_every_kind_of_moment_comes_to_the_same(undisturbed, data_dir, tmp_path):
    for number, (kill, left) in enumerate(KILLS):
        codes = forked.finish(start(data_dir, tmp_path, kill))
        assert (codes, epochs_done(tmp_path)) == ([-9], left), (number, tmp_path / "log.txt")
    assert forked.finish(start(data_dir, tmp_path)) == [0]
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("SOAK_KILLS", "4")) // 4))
def test_a_run_killed_at_random_comes_to_the_same(undisturbed, data_dir, tmp_path, seed):
    moments = random.Random(seed)
    killed = 0
    for _ in range(4):
        # A run that is left alone has seconds to go from there on.
        moment = functools.partial(
            forked.die_after_step, moments.randrange(2, 6), moments.uniform(0, 1.5)
        )
        killed += forked.finish(start(data_dir, tmp_path, moment)) == [-9]
    assert killed
    assert forked.finish(start(data_dir, tmp_path)) == [0]
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_finished_run_exports_again_what_was_lost(undisturbed, data_dir, tmp_path):
    shutil.copytree(undisturbed / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/export")
    assert forked.finish(start(data_dir, tmp_path)) == [0]
    assert_same(tmp_path, undisturbed)
