"""The job on a real Flink cluster against the same job without one: `make flink-test`."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ixi_tfds.cohort import write_cohort

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "cluster"))
import flink  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("IXI_FLINK" not in os.environ, reason="make flink-test sets IXI_FLINK"),
]

HEADS, VOLUMES, DATASET = 6, 60, "ixi_t1/thesis"


def start(source, data, *options):
    command = [sys.executable, "-m", "beam_preprocess", f"--source_dir={source}"]
    flags = [f"--data_dir={data}", "--volumes_per_shard=1", *options]
    return subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )


def finish(process):
    _, errors = process.communicate(timeout=900)
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


@pytest.fixture(scope="module")
def cluster():
    flink.down()
    flink.up()
    yield
    flink.down()


def test_the_bytes_are_those_of_the_direct_runner(cluster, source, expected, tmp_path):
    finish(start(source, tmp_path, *flink.OPTIONS))
    assert tree(tmp_path) == expected
    assert len([name for name in expected if "tfrecord" in name]) == VOLUMES


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


def test_shut_down_it_leaves_no_process(cluster):
    assert len(flink.processes()) >= 5
    flink.down()
    assert not flink.processes()
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(flink.RUN) not in commands
