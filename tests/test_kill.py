"""SIGKILL at any moment: no reader sees half a result, and the same command again makes it whole.

Processes die at a touch of the file system by its number, drawn by a seed, which is the same moment
on any machine; and after a time, which also strikes inside of libraries. SOAK_KILLS gives the
number of kills of each kind, for `make soak`.
"""

import functools
import json
import os
import random
import shutil

import forked
import pytest
import tiny_dataset
import untrained
from tensorflow import keras
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort, write_head

from beam_preprocess import shards, workers
from ixi_tfds import bundle, datasets, integrity
from trainer import models

real_work = workers._work
KILLS = int(os.environ.get("SOAK_KILLS", "6"))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    write_cohort(root / "source", subjects=6)
    write_cohort(root / "other", subjects=6)
    write_head(root / "other", "IXI799-HH-0099-T1", seed=99)
    tiny_dataset.write_tiny_dataset(root / "data")
    untrained.export_untrained(root / "small_resnet/1")
    return root


def preprocess(given, out, *flags, source="source"):
    argv = [f"--source_dir={given / source}", f"--data_dir={out}", *SMALL]
    return "beam_preprocess", [*argv, "--volumes_per_shard=2", *flags]


def evaluate(given, out):
    data = (f"--data_dir={given / 'data'}", "--dataset=ixi_t1/tiny")
    return "evaluator", [f"--saved_model={given / 'small_resnet'}", *data, f"--output_dir={out}"]


def go(command, log, *before):
    module, argv = command
    (code,) = forked.finish(forked.start(argv, log, *before, module=module))
    return code


def moments(count, seed):
    """Which touches to die at: the last ones, where results are put in place, and random ones."""
    last = list(range(max(1, count - KILLS // 2 + 1), count + 1))
    earlier = random.Random(seed).sample(range(1, count + 1), min(KILLS, count))
    return sorted({*last, *earlier})


def kill_and_go_on(command_for, tmp_path, prepare, check, wanted):
    """Kill a command at many moments, each in a folder of its own, and run it again."""
    out = tmp_path / "counted"
    prepare(out)
    count = functools.partial(forked.count_touches, out, tmp_path / "count")
    assert go(command_for(out), tmp_path / "counted.txt", count) == 0
    assert tree(out) == wanted
    numbers = moments(int((tmp_path / "count").read_text()), seed=0)
    killed = 0
    for number in numbers:
        out = tmp_path / f"at{number}"
        prepare(out)
        log = tmp_path / f"{number}.txt"
        deadly = functools.partial(forked.die_at_touch, out, number)
        killed += go(command_for(out), log, deadly) == -9
        check(out)
        assert go(command_for(out), log) == 0, log.read_text()
        # Nothing besides, nothing left over.
        assert tree(out) == wanted, (number, sorted(tree(out)))
    assert killed >= 0.8 * len(numbers)


def check_dataset(out, allowed):
    """A dataset that stands there is whole, and one of those that may."""
    folder = out / "ixi_t1/small/1.0.0"
    if folder.exists():
        manifest = datasets.read_manifest(folder)
        assert integrity.find_damage(folder, manifest) == []
        assert manifest["fingerprint"] in allowed


def fingerprint(out):
    return datasets.read_manifest(out / "ixi_t1/small/1.0.0")["fingerprint"]


@pytest.mark.slow
def test_preprocessing_killed_at_any_touch(given, tmp_path):
    assert go(preprocess(given, tmp_path / "alone"), tmp_path / "alone.txt") == 0
    wanted = tree(tmp_path / "alone")
    allowed = {fingerprint(tmp_path / "alone")}
    kill_and_go_on(
        functools.partial(preprocess, given),
        tmp_path,
        lambda out: None,
        lambda out: check_dataset(out, allowed),
        wanted,
    )


@pytest.mark.slow
def test_replacing_a_dataset_killed_at_any_touch(given, tmp_path):
    assert go(preprocess(given, tmp_path / "old"), tmp_path / "old.txt") == 0
    other = functools.partial(preprocess, given, source="other")
    assert go(other(tmp_path / "new"), tmp_path / "new.txt") == 0
    allowed = {fingerprint(tmp_path / name) for name in ("old", "new")}
    assert len(allowed) == 2
    kill_and_go_on(
        lambda out: preprocess(given, out, "--overwrite", source="other"),
        tmp_path,
        lambda out: shutil.copytree(tmp_path / "old", out),
        lambda out: check_dataset(out, allowed),
        tree(tmp_path / "new"),
    )


@pytest.mark.slow
def test_two_workers_killed_at_any_time(given, tmp_path):
    """The workers are processes, which outlive the job for a moment."""
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert go(preprocess(given, tmp_path / "alone"), tmp_path / "alone.txt") == 0
    times, killed = random.Random(1), 0
    for number in range(max(2, KILLS // 3)):
        out, log = tmp_path / str(number), tmp_path / f"{number}.txt"
        deadly = functools.partial(forked.die_after, times.uniform(0.5, 6))
        killed += go(preprocess(given, out, *workers), log, deadly) == -9
        check_dataset(out, {fingerprint(tmp_path / "alone")})
        assert go(preprocess(given, out, *workers), log) == 0, log.read_text()
        assert tree(out) == tree(tmp_path / "alone")
    assert killed


def die_at_once(environment):
    forked.die()


def die_at_work(environment):
    shards._framed = lambda records: forked.die()
    real_work(environment)


def give_workers(work):
    """Called in the process of the job: what its workers do."""
    workers._work = work


@pytest.mark.parametrize("work", [die_at_once, die_at_work])
def test_a_killed_worker_ends_the_job_in_one_line(given, tmp_path, work):
    out, log = tmp_path / "out", tmp_path / "log"
    two = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    job = preprocess(given, out, *two)
    assert go(job, log, functools.partial(give_workers, work)) == 2
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a worker has been killed") and "run the same command" in line
    assert "Traceback" not in log.read_text()
    assert not list(out.glob("ixi_t1/small/[0-9]*"))
    assert go(job, log) == 0, log.read_text()
    undisturbed = tmp_path / "undisturbed"
    assert go(preprocess(given, undisturbed), log) == 0
    assert tree(out) == tree(undisturbed)


@pytest.mark.slow
def test_scoring_killed_at_any_touch(given, tmp_path):
    """Over results of another model, which may stand there, too, but not beside new ones."""
    assert go(evaluate(given, tmp_path / "alone"), tmp_path / "alone.txt") == 0
    wanted = tree(tmp_path / "alone")
    old = dict.fromkeys(wanted, "0" * 64)

    def prepare(out):
        out.mkdir()
        for name in wanted:
            (out / name).write_text("old")

    def check(out):
        there = {name: sha for name, sha in tree(out).items() if name[0] != "."}
        new = there.items() <= wanted.items()
        assert new or {(out / name).read_text() for name in there} == {"old"}, sorted(there)

    assert old.keys() == {"scores.csv", "summary.json", "report.html"}
    kill_and_go_on(functools.partial(evaluate, given), tmp_path, prepare, check, wanted)


def export(folder, filters=8):
    """A model whose export takes little time."""
    keras.utils.set_random_seed(0)
    keras.backend.reset_uids()
    shape = {"stem_filters": filters, "stage_filters": (8,), "stage_blocks": (1,)}
    network = models.build("resnet_like", (32, 32), **shape)
    untrained.export_network(network, folder, "resnet_like")


def export_and_die(folder, deadly):
    """In a process of its own."""
    deadly()
    export(folder)


@pytest.mark.slow
@pytest.mark.parametrize("replaces", [False, True])
def test_an_export_killed_at_any_touch_or_time(replaces, given, tmp_path):
    """A version folder that stands there is a whole model, the one of its card."""
    import multiprocessing

    spawn = multiprocessing.get_context("forkserver")
    export(tmp_path / "alone/1")
    export(tmp_path / "old/1", filters=4)
    wanted = tree(tmp_path / "alone")
    counter = tmp_path / "count"
    if replaces:
        shutil.copytree(tmp_path / "old", tmp_path / "counted")
    count = functools.partial(forked.count_touches, tmp_path / "counted", counter)
    run = spawn.Process(target=export_and_die, args=(tmp_path / "counted/1", count))
    run.start()
    assert forked.finish(run) == [0]
    numbers = moments(int(counter.read_text()), seed=int(replaces))
    times = [random.Random(seed).uniform(0, 3) for seed in range(KILLS // 2)]
    for number in [*numbers, *times]:
        root = tmp_path / str(number)
        if replaces:
            shutil.copytree(tmp_path / "old", root)
        by_touch = functools.partial(forked.die_at_touch, root, number)
        deadly = by_touch if number in numbers else functools.partial(forked.die_after, number)
        run = spawn.Process(target=export_and_die, args=(root / "1", deadly))
        run.start()
        forked.finish(run)
        if (root / "1").exists():
            card = json.loads((root / "1" / bundle.CARD).read_text())
            assert card["digest"] == bundle.digest(root / "1")
        export(root / "1")
        assert tree(root) == wanted, number
