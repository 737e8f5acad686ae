"""One command at a time writes to a folder, and what it writes there appears together."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import tiny_dataset
import untrained
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort, write_head

from ixi_tfds import folders
from ixi_tfds.errors import UserError


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """All that our commands take."""
    root = tmp_path_factory.mktemp("given")
    write_cohort(root / "source")
    write_head(root / "one", "head")
    tiny_dataset.write_tiny_dataset(root / "data")
    untrained.export_untrained(root / "small_resnet/1")
    return root


DATA = ("--data_dir={given}/data", "--dataset=ixi_t1/tiny")
MODEL = "--saved_model={given}/small_resnet"
COMMANDS = {
    "preprocess": ["beam_preprocess", "--source_dir={given}/source", "--data_dir={out}", *SMALL],
    "train": ["trainer", *DATA, "--workdir={out}", "--batch_size=4"],
    "tune": ["trainer.tune", *DATA, "--tuning_dir={out}", "--batch_sizes=4"],
    "thesis": ["trainer.thesis", *DATA, "--workdir={out}", "--recipes=small_mse"],
    "evaluate": ["evaluator", MODEL, *DATA, "--output_dir={out}"],
    "anomalies": ["evaluator", "anomalies", MODEL, *DATA, "--output_dir={out}"],
    "reconstruct": [
        *("evaluator", "reconstruct", MODEL, "--input={given}/one", "--output_dir={out}")
    ],
    "cohort": ["ixi_tfds", "cohort", "--output_dir={out}", "--subjects=1"],
    "download": ["ixi_tfds", "download", "--output_dir={out}"],
}


def run(name, given, out):
    module, *flags = (part.format(given=given, out=out) for part in COMMANDS[name])
    main = module if module.count(".") else f"{module}.__main__"
    return __import__(main, fromlist=["run"]).run(flags)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_in_use_is_left_alone(name, given, tmp_path, capsys):
    folder = tmp_path / "ixi_t1/small" if name == "preprocess" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 12 on ada")
        file.flush()
        before = tree(tmp_path)
        assert run(name, given, tmp_path) == 2
        error = capsys.readouterr().err
        last = error.splitlines()[-1]
        assert last.startswith(f"error: {folder}: process 12 on ada is writing there; wait")
        assert tree(tmp_path) == before


def test_of_two_jobs_one_wins_and_the_other_says_so(given, tmp_path):
    """The first one is stopped in the middle, so that they overlap however fast they are."""
    argv = [f"--source_dir={given / 'source'}", f"--data_dir={tmp_path / 'data'}", *SMALL]
    first = forked.start(argv, tmp_path / "first.txt", module="beam_preprocess")
    lock = tmp_path / "data/ixi_t1/small/.lock"
    while not lock.exists():
        assert first.is_alive()
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGSTOP)
    second = forked.start(argv, tmp_path / "second.txt", module="beam_preprocess")
    codes = forked.finish(second)
    os.kill(first.pid, signal.SIGCONT)
    assert codes + forked.finish(first) == [2, 0]
    said = (tmp_path / "second.txt").read_text().splitlines()[-1]
    assert "is writing there" in said and str(first.pid) in said
    alone = forked.start(
        [*argv[:1], f"--data_dir={tmp_path / 'alone'}", *SMALL],
        tmp_path / "alone.txt",
        module="beam_preprocess",
    )
    assert forked.finish(alone) == [0]
    assert tree(tmp_path / "data") == tree(tmp_path / "alone")


_HOLD = """
import sys, time
from ixi_tfds import folders
with folders.writing(sys.argv[1], "workdir"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(UserError, match=f"process {holder.pid} on .* is writing there"),
        folders.writing(tmp_path, "workdir"),
    ):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with folders.writing(tmp_path, "workdir"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_removed_while_one_waits_for_it_counts_no_more(tmp_path, monkeypatch):
    """Between opening the file and locking it, others may have finished, removed it and come."""
    lock, real = fcntl.flock, []

    def flock(file, how):
        if not real:
            real.append(file)
            (tmp_path / ".lock").unlink()
            (tmp_path / ".lock").touch()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folders.writing(tmp_path, "workdir"):
        with (tmp_path / ".lock").open() as file, pytest.raises(BlockingIOError):
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert len(real) == 1


def test_a_disk_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with folders.writing(tmp_path, "workdir"):
        pass
    assert "its file system has no locks" in capsys.readouterr().err


def test_files_that_belong_together_never_stand_beside_old_ones(tmp_path):
    """Died at every touch of the folder: whole files, all of them old or all of them new."""
    old, new = ({name: f"{age} {name}\n" * 99 for name in "abc"} for age in ("old", "new"))
    seen = set()
    for number in range(1, 60):
        folder = tmp_path / str(number)
        folder.mkdir()
        folders.write_files(folder, old)
        process = os.fork()
        if not process:
            try:
                forked.die_at_touch(folder, number)
                folders.write_files(folder, new)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(process, 0)
        there = {path.name: path.read_text() for path in folder.iterdir() if path.name[0] != "."}
        assert there.items() <= old.items() or there.items() <= new.items()
        seen.add(tuple(sorted(there)))
        folders.write_files(folder, new)
        assert {path.name: path.read_text() for path in folder.iterdir()} == new
        if status == 0:
            break
    assert status == 0 and len(seen) > 3


def test_a_replaced_folder_is_old_or_new_at_any_moment(tmp_path):
    for number in range(1, 40):
        root = tmp_path / str(number)
        for name, text in (("made", "new"), ("folder", "old")):
            (root / name).mkdir(parents=True)
            for part in "ab":
                (root / name / part).write_text(text)
        process = os.fork()
        if not process:
            try:
                forked.die_at_touch(root, number)
                folders.put_in_place(root / "made", root / "folder", "a")
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(process, 0)
        if (root / "folder").exists():
            assert len({path.read_text() for path in (root / "folder").iterdir()}) == 1
            assert len(list((root / "folder").iterdir())) == 2
        folders.recover(root / "folder")
        assert len(list((root / "folder").iterdir())) == 2
        if status == 0:
            break
    assert status == 0 and number > 4
