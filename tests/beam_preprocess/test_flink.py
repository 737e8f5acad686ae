"""The job on a real Flink cluster against the same job without one: `make flink-test`."""

import hashlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
import types

import pytest

from ixi_tfds.demo.cohort import write_cohort

ROOT = pathlib.Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("flink", ROOT / "cluster/flink.py")
flink = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(flink)

HEADS, VOLUMES, DATASET = 6, 60, "ixi_t1/thesis"


def start(source, data, *options):
    command = [sys.executable, "-m", "beam_preprocess", f"--source_dir={source}"]
    flags = [f"--data_dir={data}", "--volumes_per_shard=1", "--allow_same_bytes", *options]
    return subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )


def finish(process):
    try:
        _, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, errors


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Volumes of full size for a job of some seconds: a few heads, under many names."""
    heads = write_cohort(tmp_path_factory.mktemp("heads"), subjects=HEADS, progress=False)
    folder = tmp_path_factory.mktemp("source")
    for number in range(VOLUMES):
        (folder / f"IXI{701 + number}-HH-{number:04d}-T1.nii.gz").hardlink_to(heads[number % HEADS])
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """The dataset without Flink, file by file."""
    data = tmp_path_factory.mktemp("direct")
    finish(start(source, data))
    return tree(data)


@pytest.fixture
def cluster():
    """A cluster of the test's own: each may break its machines, in any order of the tests."""
    if "IXI_FLINK" not in os.environ:
        pytest.skip(
            "IXI_FLINK is unset: that the job makes the same bytes on a Flink cluster, also when a "
            "machine of it dies, was not tested; make flink-test does"
        )
    flink.down()
    flink.up()
    yield
    flink.down()


@pytest.mark.slow
def test_the_bytes_are_those_of_the_direct_runner(cluster, source, expected, tmp_path):
    finish(start(source, tmp_path, *flink.OPTIONS))
    assert tree(tmp_path) == expected
    assert len([name for name in expected if "tfrecord" in name]) == VOLUMES


@pytest.mark.slow
def test_they_are_when_a_taskmanager_is_killed(cluster, source, expected, tmp_path):
    (victim,) = [p for p, command in flink.processes().items() if "=taskmanager-1" in command]
    job = start(source, tmp_path, *flink.OPTIONS)
    work = tmp_path / DATASET / ".incomplete-1.0.0"
    while len(list(work.glob("*.json"))) < 5:  # plan.json is one of them
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(victim, signal.SIGKILL)
    written = len(list(work.glob("*.tfrecord-*.json")))
    assert written < VOLUMES
    finish(job)
    assert tree(tmp_path) == expected
    # The machine did have a part of this job, which then ran elsewhere.
    latest = max(flink.rest("/jobs/overview")["jobs"], key=lambda job: job["start-time"])
    assert latest["state"] == "FINISHED"
    (failure,) = flink.rest(f"/jobs/{latest['jid']}/exceptions")["exceptionHistory"]["entries"]
    assert "taskmanager-1" in failure["stacktrace"]
    vertices = flink.rest(f"/jobs/{latest['jid']}")["vertices"]
    (write,) = [v["id"] for v in vertices if "Write shard" in v["name"]]
    subtasks = flink.rest(f"/jobs/{latest['jid']}/vertices/{write}")["subtasks"]
    assert [(s["taskmanager-id"], s["attempt"]) for s in subtasks] == [("taskmanager-2", 1)] * 2


@pytest.mark.slow
def test_shut_down_it_leaves_no_process(cluster):
    assert len(flink.processes()) >= 5
    flink.down()
    assert not flink.processes()
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(flink.RUN) not in commands


@pytest.fixture
def jars(tmp_path):
    folder = tmp_path / "jars"
    folder.mkdir()
    for name in ("b.jar", "a.jar", "c.txt"):
        (folder / name).write_bytes(name.encode() * 99)
    return folder


def test_the_digest_of_jars_is_that_of_their_list(jars):
    listed = subprocess.check_output("LC_ALL=C sha256sum *.jar", shell=True, cwd=jars)
    assert len(listed.splitlines()) == 2
    assert flink.digest(jars) == hashlib.sha256(listed).hexdigest()


@pytest.mark.parametrize("right", [True, False])
def test_other_jars_than_those_of_the_digest_are_not_taken(right, jars, tmp_path, monkeypatch):
    made = flink.digest(jars)
    monkeypatch.setattr(flink, "JOB_SERVER", tmp_path / "job-server")
    monkeypatch.setattr(flink, "JOB_SERVER_DIGEST", made if right else "0" * 64)
    called = []
    monkeypatch.setattr(flink, "_call", lambda *command: called.append(command))
    if right:
        flink._fetch_job_server(jars)
    else:
        with pytest.raises(SystemExit, match=f"^error: Maven gave jars of digest {made}"):
            flink._fetch_job_server(jars)
    assert (tmp_path / "job-server/a.jar").exists() == right
    assert "--strict-checksums" in called[0] and f"-DoutputDirectory={jars}" in called[0]


def test_flink_comes_from_pip_by_its_hash_and_stands_there_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(flink, "FLINK", tmp_path / "flink")
    folder = tmp_path / "folder"
    folder.mkdir()

    def download(*command):
        assert "--require-hashes" in command and "--no-deps" in command
        (tmp_path / "x/deps/lib").mkdir(parents=True)
        (tmp_path / "x/deps/lib/flink-dist-1.jar").write_bytes(b"jar")
        with tarfile.open(folder / "flink.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "x", "x")

    monkeypatch.setattr(flink, "_call", download)
    flink._fetch_flink(folder)
    assert (tmp_path / "flink/lib/flink-dist-1.jar").read_bytes() == b"jar"
    assert "--hash=sha256:" in (ROOT / "cluster/requirements.txt").read_text()


@pytest.mark.parametrize("command", [("no-such-program",), (sys.executable, "-c", "exit(3)")])
def test_a_program_that_fails_ends_the_fetching(command):
    with pytest.raises(SystemExit, match=f"^error: {command[0]}: "):
        flink._call(*command)


def test_processes_are_told_by_their_folder_and_stopped(tmp_path, monkeypatch):
    """Those that mind SIGTERM and those that do not, and none from elsewhere."""
    monkeypatch.setattr(flink, "RUN", tmp_path / "run")
    (tmp_path / "run").mkdir()
    # Half a second for those that end, not twenty.
    sleep = time.sleep
    monkeypatch.setattr(flink, "time", types.SimpleNamespace(sleep=lambda _: sleep(0.005)))
    ready = "print(1, flush=True); import time; time.sleep(600)"
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {ready}"
    flink._start("one", sys.executable, "-c", ready, "=one")
    flink._start("deaf", sys.executable, "-c", deaf, "=deaf")
    with subprocess.Popen([sys.executable, "-c", ready], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"1\n"
            for log in (tmp_path / "run/one.log", tmp_path / "run/deaf.log"):
                while log.read_text() != "1\n":
                    assert len(flink.processes()) == 2
                    time.sleep(0.01)
            found = flink.processes()
            assert sorted(command.split()[-1] for command in found.values()) == ["=deaf", "=one"]
            assert other.pid not in found
            flink.down()
            assert other.poll() is None and not flink.processes()
        finally:
            for process in (other.pid, *flink.processes()):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def down_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(flink, "RUN", tmp_path / "run")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(flink, "is_up", lambda: False)
    yield
    flink.down()


def test_a_process_that_ends_before_the_cluster_is_up_is_named_with_its_log(down_at_the_end):
    lives = flink._start("one", sys.executable, "-c", "import time; time.sleep(600)")
    ends = flink._start("two", sys.executable, "-c", "print('port taken'); exit(3)")
    with pytest.raises(SystemExit) as error:
        flink._wait([lives, ends])
    assert "its process two ended with exit code 3" in str(error.value)
    assert str(error.value).endswith("two.log:\nport taken")
    assert not flink.processes()


def test_a_cluster_that_is_never_up_is_given_up_and_stopped(down_at_the_end, monkeypatch):
    monkeypatch.setattr(flink, "_PATIENCE", 0)
    lives = flink._start("one", sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(SystemExit, match=r"^error: the cluster is not up after 0 s"):
        flink._wait([lives])
    assert not flink.processes()


def test_ports_are_none_that_linux_gives_to_connections():
    """One that a connection had in the last minute cannot be listened on."""
    usual = 32768
    assert max(flink.REST, flink.JOBS, flink.WORKERS) < usual


def test_the_page_gives_a_job_the_options_of_this_cluster():
    page = (ROOT / "docs/scaling.md").read_text()
    command = page[page.index("With the cluster running") :].split("```")[1]
    assert set(flink.OPTIONS) <= set(command.split())


def test_a_cluster_is_up_when_all_of_it_answers(monkeypatch):
    answering, machines, asked = set(), [], []

    class Connection:
        def close(self):
            pass

    def connect(address, timeout):
        asked.append(address)
        if address not in answering:
            raise ConnectionRefusedError
        return Connection()

    monkeypatch.setattr(flink.socket, "create_connection", connect)
    monkeypatch.setattr(flink, "rest", lambda path: {path[1:]: machines})
    for address in (("localhost", 8099), ("127.0.0.1", 8098), ("127.0.0.2", 8098)):
        machines[:] = ["taskmanager-1", "taskmanager-2"]
        assert not flink.is_up()
        answering.add(address)
    machines.pop()
    assert not flink.is_up()
    machines.append("taskmanager-2")
    assert flink.is_up() and set(asked) == answering
