"""Seconds a volume on one core: our preprocessing against the thesis's way, alternately in one run.

The thesis's way reads with nibabel's `get_fdata`, stretches each slice to 8 bits and writes it as a
PNG with imageio. Ours is `write_shard`, all that a worker of the Beam job does for a volume,
checksums included; starting Python and Beam counts on neither side (`cohort.py` has it in). The
limit is inflating the same files whole by libdeflate, checksum checked, and writing as many bytes
of output.
With `--rivals=nobrainer`, version 1.2.1, its last one for TensorFlow, converts the same volumes to
its TFRecords of float32 by `nobrainer.tfrecord.write`: packed, as it always does, and without. A
round is 16 volumes, as many as a shard has. They are made up, or with `--real` copies of the one of
IXI in `IXI_REAL_DATA`, whose bytes compress better.

    .venv/bin/python benchmarks/preprocess.py [--rivals=thesis] [--rounds=11] [--real]
"""

import argparse
import contextlib
import functools
import os
import pathlib
import shutil
import sys
import tempfile
import time
import types

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import rounds as shared

from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.config import THESIS
from ixi_tfds.demo.cohort import write_cohort


def thesis(source, output):
    for path in source.glob("*.nii.gz"):
        data = nib.load(path).get_fdata()
        for index in range(*THESIS.window):
            plane = data[:, :, index]
            low, high = plane.min(), plane.max()
            image = ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)
            iio.imwrite(output / f"{path.name[:6]}_{index}.png", image)


def ours(source, output):
    scans = find_scans(str(source), DEFAULT).scans
    where = (str(source), str(output))
    write_shard(ShardTask(DEFAULT.name, "train", 0, 1, scans, THESIS, *where))


NOBRAINER = """
import os, pathlib, shutil, sys, tempfile, time
import nobrainer.tfrecord, rounds, tensorflow as tf

if sys.argv[2] == "plain":
    # Its writer takes `compressed` and packs in any case.
    tf.io.TFRecordOptions = lambda **options: None

def one_round():
    pairs = [(str(path), 0) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.nii.gz"))]
    folder = tempfile.mkdtemp()
    started = time.perf_counter()
    nobrainer.tfrecord.write(pairs, folder + "/{shard}.tfrec", len(pairs), processes=1)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds

rounds.serve(one_round)
"""

LIMIT = """
import pathlib, shutil, struct, sys, tempfile, time
import deflate, rounds

def one_round():
    folder = pathlib.Path(tempfile.mkdtemp())
    started = time.perf_counter()
    for path in pathlib.Path(sys.argv[1]).glob("*.nii.gz"):
        packed = path.read_bytes()
        deflate.gzip_decompress(packed, *struct.unpack("<I", packed[-4:]))
        with (folder / path.name).open("wb") as file:
            file.write(bytes(int(sys.argv[2])))
            file.flush()
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds

rounds.serve(one_round)
"""


def timed(way, source):
    output = pathlib.Path(tempfile.mkdtemp())
    started = time.perf_counter()
    way(source, output)
    seconds = time.perf_counter() - started
    shutil.rmtree(output)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rivals", choices=("thesis", "nobrainer"), default="thesis")
    parser.add_argument("--volumes", type=int, default=16)
    parser.add_argument("--rounds", type=shared.several, default=11)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    real = pathlib.Path(os.environ.get("IXI_REAL_DATA", ""), "ixi/full")
    scans = sorted(real.glob("*.nii.gz")) if "IXI_REAL_DATA" in os.environ else []
    if arguments.real and not scans:
        parser.error("--real: set IXI_REAL_DATA to a folder with a volume in ixi/full")
    # One core, whatever a library would take.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = pathlib.Path(folder)
        if arguments.real:
            for number in range(arguments.volumes):
                shutil.copy(scans[0], source / f"head{number}-T1.nii.gz")
        else:
            write_cohort(str(source), subjects=arguments.volumes)

        def here(way):
            return types.SimpleNamespace(round=functools.partial(timed, way, source))

        def elsewhere(python, script, argument):
            command = [python, "-c", script, str(source), argument]
            path = {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
            return stack.enter_context(shared.Rival(command, path))

        if arguments.rivals == "thesis":
            bytes_out = str(THESIS.slices_per_volume * 256 * 256)
            limit = elsewhere(sys.executable, LIMIT, bytes_out)
            ways = {"ours": here(ours), "thesis": here(thesis), "limit": limit}
        else:
            python = shared.nobrainer_python()
            packed, plain = (elsewhere(python, NOBRAINER, how) for how in ("packed", "plain"))
            ways = {"ours": here(ours), "nobrainer": packed, "nobrainer, not packed": plain}
        table = shared.alternate(list(ways.values()), arguments.rounds)
        size = sum(path.stat().st_size for path in source.glob("*.nii.gz"))
    seconds = dict(zip(ways, table.T / arguments.volumes, strict=True))
    for name, values in seconds.items():
        print(f"{name:<24}{np.median(values):8.4f} s a volume")
    times = {
        name: shared.median_with_interval(values / seconds["ours"])
        for name, values in seconds.items()
        if name != "ours"
    }
    for name, ratio in times.items():
        print("ours against {}: {:.2f} ({:.2f} to {:.2f})".format(name, *ratio))
    shared.record(
        f"preprocess, {arguments.rivals}" + (", a real volume" if arguments.real else ""),
        seconds_a_volume={name: np.median(values) for name, values in seconds.items()},
        times_as_fast=times,
        volumes=arguments.volumes,
        bytes_a_volume=size / arguments.volumes,
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
