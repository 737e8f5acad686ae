"""Worker processes on this machine, and what they must not do to the program that starts them."""

import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import types
from multiprocessing import connection

import grpc
import pytest
from volumes import SMALL, write_cohort

from beam_preprocess import runner, workers
from ixi_tfds.system.errors import UserError


def call(*command):
    """What a program prints, in an interpreter of its own."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


_SCRIPT = """
import pathlib, sys
with pathlib.Path("runs").open("a") as file:
    file.write(f"{__name__}\\n")
from beam_preprocess.__main__ import run
main = sys.modules["__main__"]
code = run(sys.argv[1:])
print("code", code, sys.modules["__main__"] is main)
"""


@pytest.mark.lanes
@pytest.mark.slow
def test_a_script_that_starts_workers_is_not_run_by_them(tmp_path, monkeypatch):
    """Though it does not mind its `__name__`."""
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path / "source", subjects=6)
    (tmp_path / "script.py").write_text(_SCRIPT)
    flags = (f"--source_dir={tmp_path / 'source'}", f"--data_dir={tmp_path / 'data'}", *SMALL)
    mode = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    said = call("script.py", *flags, *mode, "--volumes_per_shard=2")
    assert said.splitlines()[-1] == "code 0 True"
    assert (tmp_path / "runs").read_text() == "__main__\n"
    assert (tmp_path / "data/ixi_t1/small/1.0.0/manifest.json").exists()


_VARIABLES = """
import os
from beam_preprocess import workers

before = dict(os.environ)
workers.get_ready()
print(dict(os.environ) == before)
with workers.CONTEXT.Pool(1) as pool:
    print(*pool.map(os.getenv, ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"]))
"""


@pytest.mark.parametrize(("own", "in_workers"), [(None, "1"), ("4", "4")])
def test_workers_have_one_pool_of_memory_and_this_process_is_as_it_was(
    own, in_workers, monkeypatch
):
    """In a thread's own pool a volume takes longer; what the user has set stays."""
    for name in ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv("MALLOC_ARENA_MAX", own)
    assert call("-c", _VARIABLES) == f"True\n{in_workers} {1 << 25}\n"


def test_workers_start_without_a_word():
    """Beam warns on import of optional packages that are not there."""
    code = "import logging, beam_preprocess.workers as workers; __import__(workers.IMPORTED[0]); "
    command = [sys.executable, "-c", code + "logging.warning('a package is not there')"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_error_in_a_thread_is_told_unless_it_is_a_broken_connection(capsys):
    """Of those tells the thread that watches the worker."""
    for error in (grpc.RpcError("broken"), ValueError("wrong")):
        seen = type(error), error, None, threading.current_thread()
        runner._print_unless_disconnected(threading.ExceptHookArgs(seen))
    said = capsys.readouterr().err
    assert "ValueError: wrong" in said and "broken" not in said


@pytest.mark.parametrize("length", [10, 150])
def test_sockets_have_room_whatever_the_temporary_folder(length, tmp_path, monkeypatch):
    folder = tmp_path / ("t" * length)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with workers.room_for_sockets(), tempfile.TemporaryDirectory(prefix="pymp-") as private:
        # The name that multiprocessing gives a socket.
        address = tempfile.mktemp(prefix="listener-", dir=private)
        connection.Listener(address).close()
    assert tempfile.gettempdir() == str(folder)


@pytest.mark.parametrize(("code", "memory"), [(-signal.SIGKILL, True), (1, False)])
def test_memory_is_blamed_for_a_killed_worker_only(code, memory):
    answers = []
    handler = types.SimpleNamespace(
        control_conn=types.SimpleNamespace(
            _futures_by_id={"one": types.SimpleNamespace(set=answers.append)}
        ),
    )
    runner._fail_instructions(handler, code)
    (answer,) = answers
    with pytest.raises(UserError) as caught:
        runner.raise_worker_error(Exception(answer.error))
    assert ("memory ran out" in str(caught.value)) == memory
    assert memory or "ended with code 1" in str(caught.value)


def shards(count):
    return [types.SimpleNamespace(file_name=f"shard-{number}") for number in range(count)]


def test_a_worker_goes_on_to_the_shards_that_a_slower_one_has_not_begun(tmp_path, monkeypatch):
    others, written = threading.Event(), []

    def write(task):
        if task.file_name == "shard-0":
            assert others.wait(30), "the other worker has ended before"
        written.append(task.file_name)
        if len(written) == 5:
            others.set()

    monkeypatch.setattr(runner, "write_shard", write)
    tasks = shards(6)
    slow = threading.Thread(target=runner.write_unclaimed_shards, args=(0, tasks, str(tmp_path)))
    slow.start()
    while not any(tmp_path.iterdir()):
        pass
    runner.write_unclaimed_shards(3, tasks, str(tmp_path))
    slow.join()
    assert written == ["shard-3", "shard-4", "shard-5", "shard-1", "shard-2", "shard-0"]


def test_the_shards_of_a_job_are_claimed_once_not_once_for_each_shard(tmp_path, monkeypatch):
    tried, written = [], []
    touch = pathlib.Path.touch
    monkeypatch.setattr(runner, "write_shard", written.append)
    monkeypatch.setattr(
        pathlib.Path, "touch", lambda path, **flags: (tried.append(path), touch(path, **flags))
    )
    tasks = shards(50)
    for element in range(50):
        runner.write_unclaimed_shards(element, tasks, str(tmp_path))
    assert written == tasks and len(tried) == 50


def test_after_an_error_no_worker_begins_another_shard(tmp_path, monkeypatch):
    claims = tmp_path / "claims"
    claims.mkdir()
    begun = []

    def write(task):
        begun.append(task.file_name)
        raise UserError("this shard cannot be written")

    monkeypatch.setattr(runner, "write_shard", write)
    with pytest.raises(runner.WorkerError):
        runner.write_unclaimed_shards(1, shards(3), str(claims))
    runner.write_unclaimed_shards(0, shards(3), str(claims))
    assert begun == ["shard-1"]
