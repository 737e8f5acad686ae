"""How cost grows with a cohort: time and memory of commands over 10 to 5,000 volumes, and a plot.

Volumes are links to 60 made-up heads, brought to 2 mm, so that 5,000 of them fit into half an hour
and three gigabytes; `cohort.py` has the time of volumes of full size. Each command is a process of
its own, start-up included. The search trains two small models for 20 steps each, and so shows what
it takes besides the training: checking the dataset, and validation on a tenth of the volumes.
Slopes are those between the two largest numbers, in which start-up no longer counts.

    .venv/bin/python benchmarks/growth.py [--volumes=10,100,581,5000] [--picture=growth.png]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import nibabel as nib
import nibabel.processing
import numpy as np
import rounds as shared
import tqdm
from cohort import TWO_WORKERS, measure
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

DISTINCT = 60
SHAPE = (90, 120, 120)
GEOMETRY = ("--config=two", "--in_plane=120x120", "--size=128x128", "--slices=30:66")
SEARCH = (
    *("--tuner=bayesian", "--max_trials=2", "--random_trials=2", "--epochs=1"),
    *("--steps_per_epoch=20", "--batch_sizes=8", "--max_parameters=450000"),
)
STYLES = (("o", "#0072B2"), ("s", "#D55E00"), ("^", "#009E73"), ("D", "#000000"))
"""Marker and colour of each command, told apart with every common colour blindness."""

READ = """
import os, sys, tensorflow_datasets as tfds, ixi_tfds
made = tfds.load("ixi_t1/two", data_dir=sys.argv[1], split="all", download=False)
print(sum(1 for _ in made.batch(32)), flush=True)
# TensorFlow 2.15 may print an error while Python shuts down.
os._exit(0)
"""


def make_scans(folder, volumes):
    """Links to heads of 2 mm, under other people's names."""
    heads = folder / "heads"
    if not heads.exists():
        own = [sys.executable, "-m", "ixi_tfds", "cohort", f"--output_dir={folder / 'own'}"]
        subprocess.run([*own, f"--subjects={DISTINCT}"], check=True, stdout=subprocess.DEVNULL)
        heads.mkdir()
        for path in tqdm.tqdm(sorted((folder / "own").glob("**/*.nii.gz")), desc="make scans"):
            head = nib.as_closest_canonical(nib.load(path))
            made = nibabel.processing.conform(head, SHAPE, (2.0, 2.0, 2.0), order=1)
            voxels = np.asanyarray(made.dataobj).round().astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, made.affine), heads / path.name)
    originals, scans = sorted(heads.iterdir()), folder / f"scans{volumes}"
    scans.mkdir()
    for number in range(volumes):
        os.link(originals[number % len(originals)], scans / f"head{number:05d}-T1.nii.gz")
    return scans


def costs(folder, volumes):
    """Each command with its seconds and peak bytes over a number of volumes, as they end."""
    scans, data = make_scans(folder, volumes), folder / "data"
    beam = [sys.executable, "-m", "beam_preprocess"]
    where, source = f"--data_dir={data}", f"--source_dir={scans}"
    commands = {
        "preprocess, two workers": [*beam, source, where, *GEOMETRY, "--allow_same_bytes"],
        "verify": [*beam, "verify", where, "--dataset=ixi_t1/two"],
        "read": [sys.executable, "-c", READ, str(data)],
        "search": [
            *(sys.executable, "-m", "trainer", "tune", where, "--dataset=ixi_t1/two"),
            *(f"--tuning_dir={data / 'search'}", *SEARCH),
        ],
    }
    commands["preprocess, two workers"] += TWO_WORKERS
    for what, command in commands.items():
        # Links of one head may be in several splits, which verify tells by its exit code.
        yield what, measure(command, (0, 2) if what == "verify" else (0,), every=0.5)
    shutil.rmtree(data)
    shutil.rmtree(scans)


def draw(table, path):
    """Time and memory against volumes, both axes logarithmic."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, place, label, unit in zip(
        figure.subplots(1, 2), (0, 1), ("seconds", "peak memory, GB"), (1, 1e9), strict=True
    ):
        for (what, found), (marker, colour) in zip(table.items(), STYLES, strict=True):
            values = [each[place] / unit for each in found.values()]
            axes.loglog(list(found), values, marker=marker, color=colour, label=what)
        axes.set(xlabel="volumes", ylabel=label)
        axes.xaxis.set_major_formatter("{x:,g}")
        # Memory stays within a decade, which alone would have one number beside it.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=160)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", default="10,100,581,5000")
    parser.add_argument("--picture", help="file of the plot")
    arguments = parser.parse_args()
    numbers = sorted(int(text) for text in arguments.volumes.split(","))
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for volumes in numbers:
            for what, (seconds, peak) in costs(pathlib.Path(folder), volumes):
                table.setdefault(what, {})[volumes] = (seconds, peak)
                print(f"{volumes:6} {what:<24}{seconds:8.1f} s, {peak / 1e9:.2f} GB", flush=True)
    for what, found in table.items():
        (fewer, before), (more, after) = list(found.items())[-2:]
        slope = (np.array(after) - before) / (more - fewer)
        print(f"{what}: {1000 * slope[0]:.1f} ms and {slope[1] / 1e3:.0f} kB a further volume")
    if arguments.picture:
        draw(table, arguments.picture)
    shared.record("growth", commands=table)


if __name__ == "__main__":
    main()
