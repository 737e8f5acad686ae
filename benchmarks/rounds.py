"""What the benchmarks share: rivals in processes of their own, alternating; ratios; the results."""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np

# TensorFlow is quiet, and has Keras 2, once our package is imported; rivals' environments lack it.
with contextlib.suppress(ImportError):
    import ixi_tfds  # noqa: F401

RIVALS = pathlib.Path(__file__).parents[1] / ".rivals"
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 40)}
"""Keeps glibc from giving memory back to the kernel, for rivals that this makes faster."""
RESULTS = pathlib.Path(__file__).with_name("results.json")


class Rival(contextlib.AbstractContextManager):
    """A process that does a round of its work for each line it is sent, and answers with seconds.

    Processes of their own keep rivals from sharing thread pools, memory and global settings.
    """

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        # Libraries print to stdout too.
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()


def torch_python():
    """The Python of PyTorch's environment, made from PyPI where it is not there."""
    return _environment("torch", "torch", "torchmetrics", "monai", "pillow", "numpy")


def nobrainer_python():
    """The Python of the environment of nobrainer 1.2.1, its last version for TensorFlow."""
    return _environment("nobrainer", "nobrainer==1.2.1")


def imgaug_python():
    """The Python of the environment of imgaug, which works with no NumPy of later than 2022."""
    return _environment(
        "imgaug", "tensorflow-cpu==2.12.1", "imgaug==0.4.0", "numpy==1.23.5", "pillow", "scipy"
    )


def other_lane_python():
    """The Python of the other lane of packages, from the environment beside this one."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests/support"))
    import in_lane

    return in_lane.other_python() or sys.exit("make the other lane first: make setup PYTHON=...")


def _environment(name, *packages):
    folder = RIVALS / name
    python, finished = folder / "bin/python", folder / "installed"
    if not finished.exists():
        print(f"installing {' '.join(packages)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        finished.touch()
    return str(python)


def asked():
    """The other end of `Rival`: wait for its turn; False when there will be no other."""
    return bool(sys.stdin.readline())


def answer(seconds):
    """What the round took."""
    print(f"\nseconds {seconds}", flush=True)


def serve(seconds_of_round):
    """Answer each turn with `seconds_of_round()`."""
    while asked():
        answer(seconds_of_round())


def alternate(rivals, rounds, warm_up=2):
    """Seconds, an array [rounds, rivals]; who begins changes from round to round."""
    import tqdm

    table = np.zeros((rounds + warm_up, len(rivals)))
    for number, row in enumerate(tqdm.tqdm(table, unit="round")):
        order = range(len(rivals)) if number % 2 else reversed(range(len(rivals)))
        for place in order:
            row[place] = rivals[place].round()
    return table[warm_up:]


def several(text):
    """A number of rounds for `argparse`; one round has no interval."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: give at least 2 rounds")
    return int(text)


def median_with_interval(values):
    """Median of the rounds and its 95% bootstrap interval."""
    # Not above: the environments of rivals lack it.
    import scipy.stats

    interval = scipy.stats.bootstrap(
        (np.asarray(values),), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(np.median(values)), float(interval.low), float(interval.high)]


def recorded(name):
    """What `results.json` has under a name; empty without it."""
    return json.loads(RESULTS.read_text()).get(name, {}) if RESULTS.exists() else {}


def record(name, **values):
    """Enter what came out under its name in `results.json`.

    A test compares the results with the table in docs: run `table.py` afterwards.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    results[name] = {**values, "machine": machine}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
