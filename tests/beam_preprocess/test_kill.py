"""SIGKILL at any moment: no reader sees half a result, and the same command again makes it whole.

Processes die at a touch of the file system by its number, drawn by a seed, which is the same moment
on any machine; and after a time, which also strikes inside of libraries. SOAK_KILLS gives the
number of kills of each kind, for `make soak`.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import threading
import time

import forked
import pytest
import tiny_dataset
import untrained
from tensorflow import keras
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort, write_head

from beam_preprocess import runner, shards
from ixi_tfds import integrity
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.documents import model_card
from trainer import models

real_work = runner._work
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


@pytest.fixture(scope="module")
def undisturbed(given, tmp_path_factory):
    """What the job makes of these scans when nobody kills it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    log = tmp_path_factory.mktemp("log") / "log"
    assert go(preprocess(given, folder), log) == 0, log.read_text()
    return folder


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
        manifest = manifests.read(folder)
        assert integrity.find_damage(folder, manifest) == []
        assert manifest.fingerprint in allowed


def fingerprint(out):
    return manifests.read(out / "ixi_t1/small/1.0.0").fingerprint


@pytest.mark.slow
def test_preprocessing_killed_at_any_touch(given, undisturbed, tmp_path):
    wanted = tree(undisturbed)
    allowed = {fingerprint(undisturbed)}
    kill_and_go_on(
        functools.partial(preprocess, given),
        tmp_path,
        lambda out: None,
        lambda out: check_dataset(out, allowed),
        wanted,
    )


@pytest.mark.slow
def test_replacing_a_dataset_killed_at_any_touch(given, undisturbed, tmp_path):
    other = functools.partial(preprocess, given, source="other")
    assert go(other(tmp_path / "new"), tmp_path / "new.txt") == 0
    allowed = {fingerprint(undisturbed), fingerprint(tmp_path / "new")}
    assert len(allowed) == 2
    kill_and_go_on(
        lambda out: preprocess(given, out, "--overwrite", source="other"),
        tmp_path,
        lambda out: shutil.copytree(undisturbed, out),
        lambda out: check_dataset(out, allowed),
        tree(tmp_path / "new"),
    )


TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.mark.slow
def test_two_workers_killed_at_any_time(given, undisturbed, tmp_path):
    """A job of worker processes goes on wherever its kill has fallen, also after its end."""
    started = time.monotonic()
    assert go(preprocess(given, tmp_path / "two", *TWO_WORKERS), tmp_path / "two.txt") == 0
    took, times = time.monotonic() - started, random.Random(1)
    for number in range(max(2, KILLS // 3)):
        out, log = tmp_path / str(number), tmp_path / f"{number}.txt"
        deadly = functools.partial(forked.die_after, times.uniform(0, took))
        assert go(preprocess(given, out, *TWO_WORKERS), log, deadly) in (-9, 0)
        check_dataset(out, {fingerprint(undisturbed)})
        assert go(preprocess(given, out, *TWO_WORKERS), log) == 0, log.read_text()
        assert tree(out) == tree(undisturbed)


def wait_for(path):
    """Until a file is there, which another process makes."""
    started = time.monotonic()
    while not path.exists():
        assert time.monotonic() - started < 200, f"{path} has not come"
        time.sleep(0.01)


def slow_work(told, moment, environment):
    """What a worker does that is slow to write, and slow to notice that its job is dead."""
    write_whole = shards._write_whole

    def halves(parts):
        first, *rest = parts
        yield first
        (told / f"{os.getpid()}.writing").touch()
        wait_for(told / "end")
        yield from rest

    def write(path, parts):
        (told / f"{os.getpid()}.reached").touch()
        if moment == "before it writes":
            wait_for(told / "write")
        try:
            return write_whole(path, halves(parts))
        finally:
            (told / f"{os.getpid()}.done").touch()
            # It does not come to the record of the shard, nor to another one.
            threading.Event().wait()

    shards._write_whole = write
    with contextlib.suppress(BaseException):
        real_work(environment)
    # Writing has a thread of its own, which would end with this one.
    if list(told.glob(f"{os.getpid()}.reached")):
        wait_for(told / f"{os.getpid()}.done")


def meanwhile(told, moment):
    """Called in the process of the next job: a worker of the last one writes while it publishes."""
    from beam_preprocess import publish

    real_publish = publish.publish

    def publish_beside_a_worker(config, plan, *rest):
        if moment == "before it writes":
            (told / "write").touch()
            for reached in told.glob("*.reached"):
                wait_for(reached.with_suffix(".writing"))
            assert list(plan.work_dir.glob(".partial-*"))
        else:
            (told / "end").touch()
            for reached in told.glob("*.reached"):
                wait_for(reached.with_suffix(".done"))
        return real_publish(config, plan, *rest)

    publish.publish = publish_beside_a_worker


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before it writes", "while it writes"])
def test_what_a_worker_writes_after_its_jobs_death_does_not_reach_the_dataset(
    moment, given, undisturbed, tmp_path
):
    """It is a process, which outlives the job for a moment: here until the next one publishes."""
    out, log, told = tmp_path / "out", tmp_path / "log", tmp_path / "told"
    told.mkdir()
    # With a second one there would be no knowing how far that is.
    job = preprocess(given, out, TWO_WORKERS[0], "--direct_num_workers=1")
    slow = functools.partial(give_workers, functools.partial(slow_work, told, moment))
    process = forked.start(job[1], log, slow, module=job[0])
    sign = "*.reached" if moment == "before it writes" else "*.writing"
    while not list(told.glob(sign)):
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    process.kill()
    assert forked.finish(process) == [-9]
    assert not list(out.glob("ixi_t1/small/[0-9]*")) and not list(told.glob("*.done"))
    assert go(job, log, functools.partial(meanwhile, told, moment)) == 0, log.read_text()
    assert tree(out) == tree(undisturbed)
    # The one that was let go while that job published is still at it.
    assert bool(list(told.glob("*.done"))) == (moment == "while it writes")
    (told / "end").touch()
    for reached in told.glob("*.reached"):
        wait_for(reached.with_suffix(".done"))
    assert tree(out) == tree(undisturbed)


def die_at_once(environment):
    forked.die()


def die_at_work(environment):
    framed = shards._framed

    def half(records):
        yield next(iter(framed(records)))
        forked.die()

    shards._framed = half
    real_work(environment)


def give_workers(work):
    """Called in the process of the job: what its workers do."""
    runner._work = work


@pytest.mark.parametrize("work", [die_at_once, die_at_work])
def test_a_killed_worker_ends_the_job_in_one_line(given, undisturbed, tmp_path, work):
    out, log = tmp_path / "out", tmp_path / "log"
    job = preprocess(given, out, *TWO_WORKERS)
    assert go(job, log, functools.partial(give_workers, work)) == 2
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert line.startswith("error: a worker has been killed") and "run the same command" in line
    assert "Traceback" not in log.read_text()
    assert not list(out.glob("ixi_t1/small/[0-9]*"))
    assert bool(list(out.rglob(".partial-*"))) == (work is die_at_work)
    assert go(job, log) == 0, log.read_text()
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
    network = models.build(models.ModelSpec(name="resnet_like", **shape), (32, 32))
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
    killed = 0
    for number in [*numbers, *times]:
        root = tmp_path / str(number)
        if replaces:
            shutil.copytree(tmp_path / "old", root)
        by_touch = functools.partial(forked.die_at_touch, root, number)
        deadly = by_touch if number in numbers else functools.partial(forked.die_after, number)
        run = spawn.Process(target=export_and_die, args=(root / "1", deadly))
        run.start()
        killed += forked.finish(run) == [-9]
        if (root / "1").exists():
            card = json.loads((root / "1" / model_card.CARD).read_text())
            assert card["digest"] == model_card.digest(root / "1")
        export(root / "1")
        assert tree(root) == wanted, number
    # Those by time may come when all is done.
    assert killed >= 0.8 * len(numbers)
