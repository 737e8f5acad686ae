"""What the operating system refuses: one line with the path, nothing published, and on it goes.

The faults are real: limits of the kernel in a process of its own, and small or read-only file
systems where this user may mount them.
"""

import contextlib
import errno
import functools
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess

import forked
import pytest
import tiny_dataset
import untrained
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort

from ixi_tfds import folders
from ixi_tfds.errors import UserError

KIB = 1024


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    write_cohort(root / "source")
    tiny_dataset.write_tiny_dataset(root / "data")
    untrained.export_untrained(root / "small_resnet/1")
    return root


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB (0: read-only) and gives its folder."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = f"size={size}k" if size else "ro"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder])
        if done.returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def limit(which, value):
    resource.setrlimit(which, (value, value))


no_long_files = functools.partial(limit, resource.RLIMIT_FSIZE)


def one_more_file():
    """Allow to open one file at a time besides those that are open: the lock takes that."""
    # Among these is the one by which they are listed.
    taken = {int(path.name) for path in pathlib.Path("/proc/self/fd").iterdir()}
    limit(resource.RLIMIT_NOFILE, next(n for n in itertools.count() if n not in taken))


def start(module, flags, given, out, log, *before):
    argv = [flag.format(given=given, out=out) for flag in flags]
    return forked.finish(forked.start(argv, log, *before, module=module))


PREPROCESS = ("beam_preprocess", ["--source_dir={given}/source", "--data_dir={out}", *SMALL])
TRAIN = (
    "trainer",
    [
        *("--data_dir={given}/data", "--dataset=ixi_t1/tiny", "--workdir={out}"),
        *("--batch_size=4", "--epochs=1", "--model=resnet_like", "--stem_filters=8"),
        *("--stage_filters=16", "--stage_blocks=1", "--jit_compile=off"),
    ],
)
EVALUATE = (
    "evaluator",
    [
        *("--saved_model={given}/small_resnet", "--data_dir={given}/data"),
        *("--dataset=ixi_t1/tiny", "--output_dir={out}"),
    ],
)
COHORT = ("ixi_tfds", ["cohort", "--output_dir={out}", "--subjects=1"])


def last_line(log):
    """The error, which is the last line and the only one of its kind; there is no traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text
    assert text.count("error: ") == 1
    return text.splitlines()[-1]


def results(command, out):
    """What a reader would take for a result."""
    found = {
        "beam_preprocess": "ixi_t1/small/1.0.0",
        "trainer": "export/*/1",
        "evaluator": "*.*",
    }[command[0]]
    return [path for path in out.glob(found) if path.name[0] != "."]


@pytest.mark.parametrize(("command", "size"), [(PREPROCESS, 8), (TRAIN, 8), (EVALUATE, 2)])
def test_a_file_that_cannot_grow(command, size, given, tmp_path):
    """As on a full disk: the kernel refuses to make any file longer than this."""
    out, log = tmp_path / "out", tmp_path / "log.txt"
    assert start(*command, given, out, log, functools.partial(no_long_files, size * KIB)) == [2]
    line = last_line(log)
    assert os.strerror(errno.EFBIG) in line and str(out) in line and "make room" in line
    assert not results(command, out)
    assert start(*command, given, out, tmp_path / "again.txt") == [0]
    assert results(command, out)
    assert not [p for p in out.rglob("*") if p.suffix in (".tmp", ".partial") or p.name == ".lock"]


@pytest.mark.parametrize(("command", "size"), [(PREPROCESS, 60), (TRAIN, 200), (EVALUATE, 100)])
def test_a_full_disk(command, size, given, tmp_path, small_disk):
    disk, log = small_disk(size), tmp_path / "log.txt"
    assert start(*command, given, disk, log) == [2]
    line = last_line(log)
    assert os.strerror(errno.ENOSPC) in line and str(disk) in line and "make room" in line
    assert not results(command, disk)
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    assert start(*command, given, disk, tmp_path / "again.txt") == [0]
    assert results(command, disk)


@pytest.mark.parametrize("command", [PREPROCESS, TRAIN, EVALUATE, COHORT])
def test_a_read_only_folder(command, given, tmp_path, small_disk):
    disk, log = small_disk(0), tmp_path / "log.txt"
    assert start(*command, given, disk, log) == [2]
    line = last_line(log)
    assert os.strerror(errno.EROFS) in line and str(disk) in line and "writable" in line


def test_too_few_open_files(given, tmp_path):
    """No scan is refused for it: with a good limit the dataset has everyone."""
    out, log = tmp_path / "out", tmp_path / "log.txt"
    assert start(*PREPROCESS, given, out, log, one_more_file) == [2]
    assert "ulimit -n" in last_line(log)
    assert not results(PREPROCESS, out)
    assert start(*PREPROCESS, given, out, tmp_path / "again.txt") == [0]
    manifest = json.loads((out / "ixi_t1/small/1.0.0/manifest.json").read_text())
    assert len(manifest["volumes"]) == 12 and not manifest["rejected"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_a_fault_in_reading_is_no_fault_of_the_scan(code, given, tmp_path, monkeypatch):
    """Else one bad moment would leave people out of the dataset, unnoticed among the refused."""
    from beam_preprocess import shards

    task = tasks(given / "source", tmp_path)[0]

    def read_bytes(path):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", read_bytes)
    with pytest.raises(OSError, match=os.strerror(code)):
        shards.write_shard(task)
    assert not list((tmp_path / "work").glob("*tfrecord*"))


def tasks(source, tmp_path):
    import dataclasses

    from beam_preprocess.job import JobConfig, plan_job
    from ixi_tfds.configs import SliceConfig

    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    plan = plan_job(JobConfig(source_dir=str(source), data_dir="unused", slices=config))
    (tmp_path / "work").mkdir()
    return [dataclasses.replace(task, work_dir=str(tmp_path / "work")) for task in plan.tasks]


def lose_a_scan(path):
    """Remove a file once the job has been planned."""
    from beam_preprocess import job

    plan_job = job.plan_job

    def plan(config):
        planned = plan_job(config)
        path.unlink()
        return planned

    job.plan_job = plan


def test_a_scan_that_vanishes_stops_the_job(given, tmp_path):
    source = shutil.copytree(given / "source", tmp_path / "source")
    path = sorted(source.glob("*.nii.gz"))[0]
    content, out = path.read_bytes(), tmp_path / "out"
    lose = functools.partial(lose_a_scan, path)
    assert start(*PREPROCESS, tmp_path, out, tmp_path / "log.txt", lose) == [2]
    line = last_line(tmp_path / "log.txt")
    assert f"{path}: {os.strerror(errno.ENOENT)}" in line
    assert not results(PREPROCESS, out)
    path.write_bytes(content)
    assert start(*PREPROCESS, tmp_path, out, tmp_path / "again.txt") == [0]
    assert start(*PREPROCESS, given, tmp_path / "alone", tmp_path / "alone.txt") == [0]
    assert tree(out) == tree(tmp_path / "alone")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # As TensorFlow and Beam pass them on.
        (
            "{{node Save}} /w/checkpoints/x; No space left on device [Op:Save]",
            "/w/checkpoints/x: No",
        ),
        ("Traceback\nOSError: [Errno 28] No space left on device: '/w/a b'\n", "/w/a b: No space"),
        ("shape (3,) and (4,)", None),
    ],
)
def test_the_words_of_the_system_are_known_in_the_errors_of_libraries(text, said):
    with contextlib.ExitStack() as stack:
        if said:
            stack.enter_context(pytest.raises(UserError, match=f"^{said}"))
        else:
            stack.enter_context(pytest.raises(RuntimeError, match="shape"))
        with folders.telling_faults("/w", "workdir"):
            raise RuntimeError(text)
