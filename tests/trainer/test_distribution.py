"""Several replicas and several machines train as one does."""

import csv
import functools
import json
import socket
from collections import Counter

import forked
import numpy as np
import pytest
import tensorflow as tf
import tiny_dataset
from test_config import OTHERWISE, a_config

from ixi_tfds import config as configs
from ixi_tfds.system.errors import UserError
from trainer import data, distribution, thesis, tune
from trainer import run as training
from trainer.__main__ import run
from trainer.cluster import Cluster, read_cluster
from trainer.models import normalization

SLICES = {"train": 40, "validation": 10, "test": 5}
EPOCHS, STEPS, BATCH = 4, 5, 8
"""Of the 10 slices to validate the second batch gets 2, less than a worker's share."""

FLAGS = [
    *("--dataset=ixi_t1/tiny", f"--batch_size={BATCH}", f"--epochs={EPOCHS}"),
    *("--model=resnet_like", "--stem_filters=8", "--stage_filters=16,32", "--stage_blocks=1,1"),
    *("--optimizer=adam", "--augment_validation", "--profile_steps=2"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    config = configs.SliceConfig("tiny", size=(32, 32), window=(0, 5))
    subjects = {split: number // 5 for split, number in SLICES.items()}
    tiny_dataset.write_tiny_dataset(root, config, subjects=subjects)
    return root


def train(data_dir, folder, *flags):
    """One recorded process in `folder`."""
    folder.mkdir(exist_ok=True)
    argv = [f"--data_dir={data_dir}", f"--workdir={folder}/run", *FLAGS, *flags]
    recorded = functools.partial(forked.record, folder / "steps-0.txt")
    codes = forked.finish(forked.start(argv, folder / "log-0.txt", recorded))
    assert codes == [0], (folder / "log-0.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """One process, one replica."""
    return train(data_dir, tmp_path_factory.mktemp("alone"))


def tf_config(jobs, kind, index):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


def free_ports(number):
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def start_two(data_dir, folder, *before, flags=((), ())):
    """Two workers on this machine; `before` gives what each does first, besides recording, and
    `flags` what each has in addition."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index, extra in enumerate(before or ((), ())):
        workers.append(
            forked.start(
                [f"--data_dir={data_dir}", f"--workdir={folder}/run", *FLAGS, *flags[index]],
                folder / f"log-{index}.txt",
                functools.partial(forked.record, folder / f"steps-{index}.txt"),
                *extra,
                environment={"TF_CONFIG": tf_config({"worker": addresses}, "worker", index)},
            )
        )
    return workers


def logs(folder):
    return [path.read_text() for path in sorted(folder.glob("log-*.txt"))]


@pytest.fixture(scope="module")
def two_workers(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert forked.finish(*start_two(data_dir, folder)) == [0, 0], logs(folder)
    return folder


def step_losses(folder, steps=STEPS):
    """Loss of each global step, and the digests of its slices, from all processes' records."""
    rows = [row for path in folder.glob("steps-*") for row in forked.records(path, "train")]
    rows.sort()
    losses = np.array([loss for _, _, loss in rows]).reshape(EPOCHS * steps, BATCH)
    assert [index for index, _, _ in rows] == list(range(EPOCHS * steps * BATCH))
    return losses.mean(axis=1), [digest for _, digest, _ in rows]


def history(folder):
    with (folder / "run/history.csv").open() as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def assert_trained_alike(folder, alone, steps=STEPS):
    """The same slices in the same order; losses of 20 steps and of validation to 1e-5 of each."""
    (ours, our_slices), (theirs, their_slices) = (
        step_losses(folder, steps),
        step_losses(alone, steps),
    )
    assert our_slices == their_slices
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=0)
    for mine, other in zip(history(folder), history(alone), strict=True):
        for name in ("loss", "val_loss", "val_loss_augmented", "learning_rate"):
            assert mine[name] == pytest.approx(other[name], rel=1e-5), name


@pytest.mark.lanes
@pytest.mark.slow
def test_two_replicas_train_as_one_does(alone, data_dir, tmp_path):
    assert_trained_alike(train(data_dir, tmp_path, "--replicas=2"), alone)


@pytest.mark.slow
def test_two_replicas_train_as_one_does_in_epochs_of_a_number_of_steps(data_dir, tmp_path):
    folders = [tmp_path / name for name in "12"]
    for folder in folders:
        folder.mkdir()
        # Of the 5 that go through the data, so epochs end within a pass.
        train(data_dir, folder, f"--replicas={folder.name}", "--steps_per_epoch=3")
    assert_trained_alike(folders[1], folders[0], steps=3)


@pytest.mark.slow
def test_four_replicas_train_as_one_does(alone, data_dir, tmp_path):
    assert_trained_alike(train(data_dir, tmp_path, "--replicas=4"), alone)


@pytest.mark.lanes
@pytest.mark.slow
def test_xla_compiles_the_step_of_one_replica_and_trains_alike(alone, data_dir, tmp_path):
    # Not recorded, for XLA knows no strings.
    argv = [f"--data_dir={data_dir}", f"--workdir={tmp_path}/run", *FLAGS, "--jit_compile=on"]
    assert forked.finish(forked.start(argv, tmp_path / "log-0.txt")) == [0], logs(tmp_path)
    assert "runs on the CPU (" in logs(tmp_path)[0] and "float32, with XLA" in logs(tmp_path)[0]
    for mine, other in zip(history(tmp_path), history(alone), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.lanes
@pytest.mark.slow
def test_two_workers_train_as_one_process_does(alone, two_workers):
    assert_trained_alike(two_workers, alone)
    chief, other = logs(two_workers)
    assert "best: epoch" in chief and "best: epoch" not in other
    assert (two_workers / "run/export/resnet_like/1/saved_model.pb").exists()
    assert list(two_workers.glob("run/tensorboard/plugins/profile/*/*"))


@pytest.mark.lanes
@pytest.mark.slow
def test_workers_share_each_epoch_out_and_lose_nothing(two_workers, data_dir):
    half = BATCH // 2
    shares = []
    for worker in range(2):
        path = two_workers / f"steps-{worker}.txt"
        rows = forked.records(path, "train")
        # Its half of every global batch, in the order of the batches.
        assert [index for index, _, _ in rows] == [
            index for index in range(EPOCHS * STEPS * BATCH) if index % BATCH // half == worker
        ]
        shares.append(np.array([digest for _, digest, _ in rows]).reshape(EPOCHS, -1))
    everything = np.concatenate(shares, axis=1)
    assert everything.shape == (EPOCHS, SLICES["train"])
    for epoch in everything:
        assert len(set(epoch)) == SLICES["train"]
    assert len(np.unique(everything)) == SLICES["train"]
    assert len({tuple(epoch) for epoch in everything}) == EPOCHS
    # Validation: clean and corrupted, each slice once an epoch, what fills a batch up aside.
    seen = [
        (index, digest)
        for worker in range(2)
        for index, digest, _ in forked.records(two_workers / f"steps-{worker}.txt", "test")
        if index >= 0
    ]
    assert set(Counter(seen).values()) == {2 * EPOCHS}
    assert len({digest for _, digest in seen}) == len(set(seen)) == SLICES["validation"]


def variables(prefix):
    """Every variable of a checkpoint, the bytes of the bookkeeping aside."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}


@pytest.mark.slow
def test_when_a_worker_is_killed_the_other_says_so_and_all_can_go_on(
    two_workers, data_dir, tmp_path
):
    for dead, steps in ((1, STEPS + 2), (0, STEPS + 1)):
        before = [(), ()]
        before[dead] = (functools.partial(forked.die_at_step, steps),)
        said = logs(tmp_path) or ["", ""]
        workers = start_two(data_dir, tmp_path, *before)
        assert forked.finish(workers[dead]) == [-9], logs(tmp_path)
        # Far less than TensorFlow's own limits; a quiet machine takes about a second.
        assert forked.finish(workers[1 - dead], seconds=60) == [2], logs(tmp_path)
        survivor = logs(tmp_path)[1 - dead].removeprefix(said[1 - dead])
        # A process that is started in a cluster hides TensorFlow's own lines; these are forked.
        errors = [line for line in survivor.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].startswith("error: lost another worker"), survivor
        assert "Traceback" not in survivor
    assert forked.finish(*start_two(data_dir, tmp_path)) == [0, 0], logs(tmp_path)
    assert "resuming after epoch 2 of 4" in logs(tmp_path)[0]
    ours, theirs = tmp_path / "run", two_workers / "run"
    for name in ("history.csv", "state.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    prefixes = [path.with_suffix("") for path in theirs.glob("checkpoints/*.index")]
    for prefix in [*prefixes, theirs / "export/resnet_like/1/variables/variables"]:
        assert variables(ours / prefix.relative_to(theirs)) == variables(prefix), prefix


@pytest.mark.slow
def test_workers_started_with_other_flags_are_refused(data_dir, tmp_path):
    """Each in a folder of its own, for in the same one the second would be refused by itself."""
    flags = ((), (f"--workdir={tmp_path}/other", "--seed=1"))
    assert forked.finish(*start_two(data_dir, tmp_path, flags=flags)) == [2, 2], logs(tmp_path)
    errors = [log.splitlines()[-1] for log in logs(tmp_path)]
    # Who hears of it last may find the other gone.
    differ = "error: the workers differ in flags; make them the same"
    assert differ in errors, errors
    for error in errors:
        assert error == differ or error.startswith("error: lost another worker"), errors
    assert not list(tmp_path.glob("*/state.json")) and not list(tmp_path.glob("*/checkpoints"))
    assert not list(tmp_path.glob("*/export"))


class Gathering:
    """A strategy of two workers, of whom the other has what a test says."""

    def __init__(self, theirs):
        self.theirs = theirs
        self.asked = []

    def experimental_distribute_values_from_function(self, function):
        return function(None)

    def gather(self, mine, axis):
        self.asked.append(mine)
        return tf.concat([mine, self.theirs if self.theirs is not None else mine], axis)


def digests(what):
    strategy = Gathering(None)
    distribution.check_agreement(strategy, Cluster(2), what)
    return strategy.asked[0]


def test_workers_that_have_the_same_agree_and_others_hear_what_differs():
    mine = {"flags": "a", "dataset": "b", "state": "c"}
    distribution.check_agreement(Gathering(digests(mine)), Cluster(2, 1), mine)
    for change, differing in (
        ({"flags": "x"}, "flags"),
        ({"dataset": "x"}, "dataset"),
        ({"state": "c "}, "state"),
        ({"flags": "b", "dataset": "a"}, "flags and dataset"),
        ({"flags": "x", "dataset": "x", "state": "x"}, "flags and dataset and state"),
    ):
        with pytest.raises(UserError) as caught:
            distribution.check_agreement(Gathering(digests(mine | change)), Cluster(2), mine)
        assert str(caught.value) == f"the workers differ in {differing}; make them the same"
    # One process has nobody to ask.
    alone = Gathering(None)
    distribution.check_agreement(alone, Cluster(), mine)
    assert alone.asked == []


def agreement(config, fingerprint="abc"):
    """What `_agree_on_state` tells the other workers."""
    strategy = Gathering(None)
    opened = data.TrainingData(None, None, "slice", "1", fingerprint, {})
    training._agree_on_state(training._Run(config, opened, Cluster(2), strategy, None))
    return strategy.asked[0].numpy().ravel().tolist()


def test_flags_dataset_and_state_of_the_workers_are_compared(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    given = {"workdir": str(workdir), "model": "resnet50", "augment_validation": False}
    config = a_config(**given)
    flags, dataset, found = agreement(config)
    assert (
        agreement(config, "abd")[0::2] == [flags, found] and agreement(config, "abd")[1] != dataset
    )
    for name in OTHERWISE.keys() - {"data_dir", "verify", "learning_rate", "model"}:
        if name != "augment_validation":
            other = a_config(**given | {name: OTHERWISE[name]})
            assert agreement(other)[1:] == [dataset, found], name
            assert agreement(other)[0] != flags, name
    # Where the data is may have another name on each machine, and how much of it is checked.
    for name in ("data_dir", "verify"):
        other = a_config(**given | {name: OTHERWISE[name]})
        assert agreement(other) == [flags, dataset, found]
    row = {"epoch": 1, "learning_rate": 0.02, "loss": 1.0, "val_loss": 1.0}
    state = {"learning_rate": 0.02, "history": [row], "best_epoch": 1, "best_loss": 1.0}
    (workdir / "state.json").write_text(json.dumps(state))
    flags_again, dataset_again, other_found = agreement(config)
    assert (flags_again, dataset_again) == (flags, dataset) and other_found != found


class Dealing:
    """A strategy that hands out what each worker of several would read."""

    def __init__(self, replicas, workers):
        self.num_replicas_in_sync = replicas
        self.workers = workers

    def distribute_datasets_from_function(self, function):
        return [
            function(tf.distribute.InputContext(self.workers, worker, self.num_replicas_in_sync))
            for worker in range(self.workers)
        ]


@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (2, 2), (4, 2), (8, 2), (4, 4)])
def test_workers_with_several_replicas_each_read_their_own_rows(replicas, workers, data_dir):
    split = data.find_shards(data_dir / "ixi_t1/tiny/1.0.0", "validation")
    batches = data.evaluation_batches(split, batch_size=BATCH)
    shares = training._dealt(batches, BATCH, Dealing(replicas, workers))
    assert len(shares) == workers
    here, rows = replicas // workers, BATCH // replicas
    for worker, share in enumerate(shares):
        pieces = [piece["index"].tolist() for piece in share.as_numpy_iterator()]
        # Ten slices: a whole batch, and one of two that is filled up.
        first = worker * here * rows
        places = [*range(BATCH), 8, 9, *[-1] * 6]
        mine = places[first : first + here * rows] + places[BATCH + first :][: here * rows]
        assert pieces == [mine[at : at + rows] for at in range(0, len(mine), rows)]


def test_one_replica_reads_the_batches_as_they_are():
    batches = tf.data.Dataset.range(3)
    assert training._dealt(batches, 8, Dealing(1, 1)) is batches


class Beside:
    """A replica's context, in which the other replica's values are those that a test gives."""

    num_replicas_in_sync = 2

    def __init__(self, theirs):
        self.theirs = list(theirs)

    def all_reduce(self, operation, mine):
        assert operation == tf.distribute.ReduceOp.MEAN
        return (mine + self.theirs.pop(0)) / 2


def test_several_replicas_normalize_by_the_rows_of_all(monkeypatch):
    rows = np.random.default_rng(0).normal(3, 2, (8, 2, 3, 5)).astype(np.float32)
    rows[4:] *= 0.2
    mine, others = rows[:4], rows[4:]
    mean, variance = rows.mean(axis=(0, 1, 2)), rows.var(axis=(0, 1, 2))
    layer = normalization.Normalization(momentum=0.9, epsilon=1e-3)
    layer.build(rows.shape)
    theirs = (others.mean(axis=(0, 1, 2)), ((others - mean) ** 2).mean(axis=(0, 1, 2)))
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: Beside(theirs))
    normalized = layer.call(tf.constant(mine), training=True).numpy()
    np.testing.assert_allclose(normalized, (mine - mean) / np.sqrt(variance + 1e-3), atol=1e-4)
    # The moving averages begin with 0 and 1; that of the variance is of a sample, 48 of each.
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance * 48 / 47, rtol=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "x"),
        tf.errors.AbortedError(None, None, "x"),
        tf.errors.CancelledError(None, None, "x"),
        tf.errors.InternalError(None, None, "Collective ops is aborted by: x"),
        tf.errors.UnknownError(None, None, "no heartbeat"),
        tf.errors.InternalError(None, None, "coordination service"),
        tf.errors.InvalidArgumentError(None, None, "shapes"),
        ValueError("of our own"),
    ],
)
def test_only_a_lost_worker_of_a_cluster_is_called_lost(error):
    own = isinstance(error, ValueError | tf.errors.InvalidArgumentError)
    kind = type(error) if own else UserError
    with pytest.raises(kind) as caught, distribution.user_error_if_a_worker_is_lost(Cluster(2)):
        raise error
    if not own:
        assert str(caught.value) == (
            "lost another worker of the cluster; start all workers again to resume after the last "
            "whole epoch"
        )
    with pytest.raises(type(error)), distribution.user_error_if_a_worker_is_lost(Cluster()):
        raise error


def test_more_gpus_than_there_are_cannot_be_had(monkeypatch):
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: ["one", "two"] if kind == "GPU" else []
    )
    asked = []
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", asked.append)
    with pytest.raises(UserError, match=r"--replicas=3: there are 2 GPUs only"):
        distribution.make_strategy(3)
    for replicas in (0, 1, 2):
        distribution.make_strategy(replicas)
    assert asked == [["GPU:0", "GPU:1"], ["GPU:0"], ["GPU:0", "GPU:1"]]


def test_what_tf_config_says():
    hosts = {"chief": ["a:1"], "worker": ["b:1", "c:2"]}

    def read(*config):
        return read_cluster({"TF_CONFIG": tf_config(*config)})

    assert read_cluster({}) == read_cluster({"TF_CONFIG": " "}) == Cluster(1, 0, "")
    assert read_cluster({"TF_CONFIG": '{"cluster": {}}'}) == Cluster(1, 0, "")
    assert read(hosts, "chief", 0) == Cluster(3, 0, "a:1") and read(hosts, "chief", 0).is_chief
    assert read(hosts, "worker", 1) == Cluster(3, 2, "c:2")
    assert not read(hosts, "worker", 0).is_chief
    assert read({"worker": ["b:1", "c:2"]}, "worker", 0) == Cluster(2, 0, "b:1")


TWO = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON with a cluster and a task"),
        ("[]", "not JSON with a cluster and a task"),
        (json.dumps({"cluster": TWO}), "not JSON with a cluster and a task ('task')"),
        (json.dumps({"cluster": TWO, "task": {"type": "worker"}}), "a task ('index')"),
        (tf_config(TWO, "worker", "x"), "not JSON with a cluster and a task"),
        (tf_config(TWO, "worker", 2), "the cluster has no worker 2, which is its task"),
        (tf_config(TWO, "worker", -1), "the cluster has no worker -1"),
        (tf_config(TWO, "evaluator", 0), "the cluster has no evaluator 0"),
        (tf_config({"ps": ["a:1"]}, "ps", 0), "the cluster has a job 'ps'; give"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief", 0), "more than one chief"),
        (tf_config({"worker": ["a:1", "a:1"]}, "worker", 0), "the same address twice"),
        (tf_config({"worker": ["a", "b:1"]}, "worker", 0), "'a' of worker is not of the form"),
    ],
)
def test_slips_in_tf_config_get_one_line(text, message, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", text)
    assert run([f"--data_dir={data_dir}", f"--workdir={tmp_path / 'new'}", *FLAGS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: TF_CONFIG: ") and message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_cluster_and_replicas_exclude_each_other(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", tf_config(TWO, "worker", 0))
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path / 'new'}", *FLAGS]
    assert run([*command, "--replicas=2"]) == 2
    assert "error: --replicas=2: leave it out with TF_CONFIG" in capsys.readouterr().err


@pytest.mark.slow
def test_a_taken_port_and_uneven_batches_get_one_line(data_dir, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        hosts = [f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1"]
        argv = [f"--data_dir={data_dir}", f"--workdir={tmp_path / 'new'}", *FLAGS]
        environment = {"TF_CONFIG": tf_config({"worker": hosts}, "worker", 0)}
        process = forked.start(argv, tmp_path / "log-0.txt", environment=environment)
        assert forked.finish(process) == [2]
    assert f"error: TF_CONFIG: cannot listen at {hosts[0]}" in logs(tmp_path)[0].splitlines()[-1]
    uneven = forked.start([*argv, "--replicas=3"], tmp_path / "log-1.txt")
    assert forked.finish(uneven) == [2]
    assert logs(tmp_path)[1].splitlines() == [
        "error: --batch_size=8: must be divisible by the 3 replicas"
    ]
    assert not (tmp_path / "new").exists()


def test_a_search_takes_no_cluster(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", tf_config(TWO, "worker", 0))
    where = [f"--data_dir={data_dir}", f"--tuning_dir={tmp_path / 'new'}"]
    assert tune.run([*where, "--dataset=ixi_t1/tiny"]) == 2
    assert "error: TF_CONFIG: one process trains a trial" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_of_the_workers_the_chief_alone_scores_the_thesis(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", tf_config(TWO, "worker", 1))
    started, succeeds = [], True

    def start(module, arguments):
        started.append(module)
        return succeeds

    monkeypatch.setattr(thesis, "_run", start)
    command = ["--data_dir=D", f"--workdir={tmp_path}", "--recipes=small_mse,big_mse"]
    assert thesis.run(command) == 0
    assert started == ["trainer", "trainer"]
    # The next recipe would wait for the one who is gone.
    started.clear()
    succeeds = False
    assert thesis.run(command) == 2
    assert started == ["trainer"]
    assert "error: small_mse: not finished" in capsys.readouterr().err
