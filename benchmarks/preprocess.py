"""Seconds a volume on one core: our preprocessing against the thesis's way, alternately in one run.

The thesis's way reads with nibabel's `get_fdata`, stretches each slice to 8 bits and writes it as a
PNG with imageio. Ours is `write_shard`, all that a worker of the Beam job does for a volume,
checksums included; starting Python and Beam counts on neither side (`cohort.py` has it in). The
limit is inflating the same files whole with igzip, checksum checked, and writing the same bytes of
output. Volumes are made up, or with `--real` copies of the one of IXI in `IXI_REAL_DATA`, whose
bytes compress better.

    .venv/bin/python benchmarks/preprocess.py [--volumes=6] [--rounds=11] [--real]
"""

import argparse
import os
import pathlib
import shutil
import tempfile
import time

import imageio.v3 as iio
import nibabel as nib
import numpy as np
import rounds as shared
from isal import isal_zlib

from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.catalog import find_scans
from ixi_tfds.cohort import write_cohort
from ixi_tfds.configs import THESIS


def thesis(source, output):
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


WAYS = (ours, thesis, limit)


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
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    # One core, whatever a library would take.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder)
        if arguments.real:
            (scan,) = pathlib.Path(os.environ["IXI_REAL_DATA"], "ixi/full").glob("*.nii.gz")
            for number in range(arguments.volumes):
                shutil.copy(scan, source / f"head{number}-T1.nii.gz")
        else:
            write_cohort(str(source), subjects=arguments.volumes)
        table = [[timed(way, source) for way in WAYS] for _ in range(arguments.rounds + 1)][1:]
        size = sum(path.stat().st_size for path in source.glob("*.nii.gz"))
    seconds = np.array(table) / arguments.volumes
    medians = dict(zip(("ours", "thesis", "limit"), np.median(seconds, axis=0), strict=True))
    for name, value in medians.items():
        print(f"{name:<8}{value:8.4f} s a volume")
    faster = shared.median_with_interval(seconds[:, 1] / seconds[:, 0])
    share = shared.median_with_interval(seconds[:, 2] / seconds[:, 0])
    print("{:.1f} ({:.1f} to {:.1f}) times as fast as the thesis's way".format(*faster))
    print("{:.0%} ({:.0%} to {:.0%}) of the limit's speed".format(*share))
    shared.record(
        "preprocess, a real volume" if arguments.real else "preprocess",
        seconds_a_volume=medians,
        times_as_fast_as_the_thesis=faster,
        share_of_the_limit=share,
        volumes=arguments.volumes,
        bytes_a_volume=size / arguments.volumes,
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
