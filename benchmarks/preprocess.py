"""Seconds a volume: our preprocessing against the thesis's way, alternately in one run.

The thesis's way reads with nibabel's `get_fdata`, stretches each slice to 8 bits and writes it as a
PNG with imageio. Ours is `write_shard`, all that a worker of the Beam job does for a volume,
checksums included; starting Python and Beam counts on neither side. The limit is inflating the
same files whole with igzip, checksum checked, and writing the same bytes of output.

    .venv/bin/python benchmarks/preprocess.py [--volumes=6] [--rounds=5]
"""

import argparse
import json
import pathlib
import platform
import shutil
import statistics
import tempfile
import time

import imageio.v3 as iio
import nibabel as nib
import numpy as np
from isal import isal_zlib

from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.catalog import find_scans
from ixi_tfds.cohort import write_cohort
from ixi_tfds.configs import THESIS

RESULTS = pathlib.Path(__file__).with_name("results.json")


def theirs(source, output):
    for path in source.glob("*.nii.gz"):
        data = nib.load(path).get_fdata()
        for index in range(*THESIS.window):
            plane = data[:, :, index]
            low, high = plane.min(), plane.max()
            image = ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)
            iio.imwrite(output / f"{path.name[:6]}_{index}.png", image)


def ours(source, output):
    scans = find_scans(str(source)).scans
    write_shard(ShardTask("train", 0, 1, scans, THESIS, str(source), str(output)))


def limit(source, output):
    for path in source.glob("*.nii.gz"):
        isal_zlib.decompress(path.read_bytes(), 31)
        with (output / path.name).open("wb") as file:
            file.write(bytes(THESIS.slices_per_volume * 256 * 256))
            file.flush()


def timed(way, source):
    output = pathlib.Path(tempfile.mkdtemp())
    started = time.perf_counter()
    way(source, output)
    seconds = time.perf_counter() - started
    shutil.rmtree(output)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder)
        write_cohort(str(source), subjects=arguments.volumes)
        ways = (theirs, ours, limit)
        rounds = [[timed(way, source) for way in ways] for _ in range(arguments.rounds + 1)][1:]
    medians = [
        statistics.median(column) / arguments.volumes for column in zip(*rounds, strict=True)
    ]
    against_theirs = statistics.median(row[0] / row[1] for row in rounds)
    against_limit = statistics.median(row[2] / row[1] for row in rounds)
    for name, seconds in zip(("thesis's way", "ours", "limit"), medians, strict=True):
        print(f"{name:<14}{seconds:8.4f} s a volume")
    print(f"ours against the thesis's way: {against_theirs:.1f} times as fast")
    print(f"ours against the limit: {against_limit:.0%} of its speed")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["preprocess"] = {
        "seconds_a_volume": dict(zip(("thesis", "ours", "limit"), medians, strict=True)),
        "times_as_fast_as_the_thesis": against_theirs,
        "share_of_the_limit": against_limit,
        "volumes": arguments.volumes,
        "rounds": arguments.rounds,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one process",
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
