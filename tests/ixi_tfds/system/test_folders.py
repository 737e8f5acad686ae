"""One command at a time writes to a folder, and what it writes there appears together."""

import errno
import fcntl
import functools
import os
import pathlib
import socket
import subprocess
import sys
import time

import forked
import pytest
import tiny_dataset
import untrained
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort, write_head

from ixi_tfds.system import folders
from ixi_tfds.system.errors import UserError


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
        said = capsys.readouterr().err.splitlines()
        (line,) = [line for line in said if not line.startswith("warning: ")]
        assert line.startswith(f"error: {folder}: process 12 on ada is writing there; wait")
        assert tree(tmp_path) == before


def names(folder):
    """What is in a folder of this machine."""
    return sorted(path.name for path in folder.iterdir())


def wait_at_work(here, go):
    """Have the job of this process say that it is about to write shards, and wait to be let go."""
    from beam_preprocess import job

    write_shards = job.write_shards

    def write(*args):
        here.touch()
        while not go.exists():
            time.sleep(0.01)
        write_shards(*args)

    job.write_shards = write


def test_of_two_jobs_one_wins_and_the_other_says_so(given, tmp_path):
    """The first one waits in the middle, so that they overlap however fast they are."""
    argv = [f"--source_dir={given / 'source'}", f"--data_dir={tmp_path / 'data'}", *SMALL]
    here, go = tmp_path / "here", tmp_path / "go"
    wait = functools.partial(wait_at_work, here, go)
    first = forked.start(argv, tmp_path / "first.txt", wait, module="beam_preprocess")
    while not here.exists():
        assert first.is_alive(), (tmp_path / "first.txt").read_text()
        time.sleep(0.01)
    before = tree(tmp_path / "data")
    second = forked.start(argv, tmp_path / "second.txt", module="beam_preprocess")
    codes = forked.finish(second)
    assert tree(tmp_path / "data") == before
    go.touch()
    assert codes + forked.finish(first) == [2, 0]
    said = (tmp_path / "second.txt").read_text().splitlines()[-1]
    assert f"process {first.pid} on {socket.gethostname()} is writing there" in said
    alone = forked.start(
        [*argv[:1], f"--data_dir={tmp_path / 'alone'}", *SMALL],
        tmp_path / "alone.txt",
        module="beam_preprocess",
    )
    assert forked.finish(alone) == [0]
    assert tree(tmp_path / "data") == tree(tmp_path / "alone")


_HOLD = """
import sys, time
from ixi_tfds.system import folders
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


def test_a_folder_is_locked_until_the_lock_file_is_gone(tmp_path, monkeypatch):
    """Else another process could take the lock, and lose its file to the one that has ended."""
    unlink, seen = pathlib.Path.unlink, []

    def unlink_locked(path, *args, **kwargs):
        if path.name == ".lock":
            with path.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(path)
        unlink(path, *args, **kwargs)

    monkeypatch.setattr("pathlib.Path.unlink", unlink_locked)
    with folders.writing(tmp_path / "new", "workdir"):
        assert names(tmp_path / "new") == [".lock"]
    assert seen == [tmp_path / "new/.lock"] and not names(tmp_path / "new")


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), folders.writing(tmp_path, "workdir"):
        raise ZeroDivisionError
    assert not names(tmp_path)
    with folders.writing(tmp_path, "workdir"):
        pass


def refuse_locks(monkeypatch, code):
    def flock(file, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_without_locks_gets_a_warning(code, tmp_path, monkeypatch, capsys):
    refuse_locks(monkeypatch, code)
    with folders.writing(tmp_path, "workdir"):
        (tmp_path / "result").touch()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}: its file system has no locks")
    assert names(tmp_path) == ["result"]


def test_a_disk_that_fails_at_the_lock_is_not_one_without_locks(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO)
    with (
        pytest.raises(UserError, match=rf"^--workdir={tmp_path}: {os.strerror(errno.EIO)}; see"),
        folders.writing(tmp_path, "workdir"),
    ):
        raise AssertionError("it is written to")


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
        # The last one is the last to appear.
        assert there.get("c") != new["c"] or there == new
        seen.add(tuple(sorted(there)))
        folders.write_files(folder, new)
        assert {path.name: path.read_text() for path in folder.iterdir()} == new
        if status == 0:
            break
    # Each of the three files is opened, removed and renamed.
    assert status == 0 and number - 1 == 9 and len(seen) > 3


def test_what_an_earlier_command_left_half_written_goes(tmp_path):
    """Also where it wrote other files: another command, or an earlier version of this one."""
    (tmp_path / ".other.html.partial").write_text("half of")
    (tmp_path / "mine.partial").write_text("not one of ours")
    folders.write_files(tmp_path, {"a": "ü\n"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": "ü\n".encode(),
        "mine.partial": b"not one of ours",
    }


def test_a_replaced_folder_is_old_or_new_at_any_moment(tmp_path):
    """Died at every touch: and what was left is put right by `recover`, to the last file."""
    seen = []
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
        stood = texts(root / "folder")
        assert stood in ({}, dict.fromkeys("ab", "old"), dict.fromkeys("ab", "new"))
        folders.recover(root / "folder")
        # The new one stays where it is in place, and where it is not, the old one is back.
        assert texts(root / "folder") == (stood or dict.fromkeys("ab", "old"))
        left = ["folder"] if "new" in stood.values() else ["folder", "made"]
        assert names(root) == left
        seen.append(stood.get("a"))
        if status == 0:
            break
    # Before and between the two renames, and while the two old files and their folder go.
    assert status == 0 and seen == ["old", None, *["new"] * 5]


def texts(folder):
    return {path.name: path.read_text() for path in folder.glob("*")}


def test_a_folder_put_where_none_stood_is_whole(tmp_path):
    for name in ("made", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "made/a").write_text("new")
    folders.recover(tmp_path / "folder")
    folders.put_in_place(tmp_path / "made", tmp_path / "folder", "a")
    assert names(tmp_path) == ["folder", "other"]
    assert texts(tmp_path / "folder") == {"a": "new"}
