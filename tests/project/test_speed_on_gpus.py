"""`benchmarks/gpu.py`, which needs a card for its numbers, runs through without one."""

import pathlib
import subprocess
import sys

import pytest

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks/gpu.py"
SMALL = ("--rounds=2", "--side=16", "--batch_size=2", "--steps=1", "--pytorch=false")


def run(*flags):
    return subprocess.run([sys.executable, BENCHMARK, *flags], capture_output=True, text=True)


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert "error: there is no GPU to measure: runs on the CPU (" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_each_way_has_its_images_a_second():
    before = BENCHMARK.with_name("results.json").read_bytes()
    done = run("--cpu", "--models=small_resnet", "--precisions=bfloat16", *SMALL)
    assert done.returncode == 0, done.stderr
    ways = ("ours ", "ours, XLA ", "ours, XLA, clean inputs ")
    lines = done.stdout.splitlines()[1:]
    assert [any(f"bfloat16  {way}" in line for line in lines) for way in ways] == [True] * 3
    assert all(float(line.split(" images/s")[0].split()[-1]) > 0 for line in lines)
    assert BENCHMARK.with_name("results.json").read_bytes() == before
