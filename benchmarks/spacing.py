"""What `--spacing` costs: CPU time a volume, resampled or as it is, alternately in one process.

`write_shard` on one core, as in `preprocess.py`. Of the same made-up heads there are files of 1 mm
and of 2 mm. Each way stores the same 72 mm around the middle, so what it writes depends on the
voxels of its slices alone.

    .venv/bin/python benchmarks/spacing.py [--rounds=11]
"""

import argparse
import os
import pathlib
import tempfile
import time

# As commands have it: a second thread only waits, and CPU time counts that.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import nibabel as nib
import nibabel.processing
import numpy as np
import rounds as shared
import tqdm

from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.config import SliceConfig
from ixi_tfds.demo.cohort import write_cohort

VOLUMES = 8
SHAPE = {1.0: (240, 240, 180), 2.0: (120, 120, 90)}


def make_scans(folder):
    """The same heads in 1 mm and in 2 mm, a folder each."""
    write_cohort(folder / "own", subjects=VOLUMES)
    for path in tqdm.tqdm(sorted((folder / "own").glob("**/*.nii.gz")), desc="make scans"):
        head = nib.as_closest_canonical(nib.load(path))
        for side, (n, _, slices) in SHAPE.items():
            made = nibabel.processing.conform(
                head, (slices, n, n), (side, side, side), order=1, out_class=nib.Nifti1Image
            )
            voxels = np.asanyarray(made.dataobj).round().astype(np.int16)
            (folder / f"{side:g}mm").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, made.affine), folder / f"{side:g}mm" / path.name)


def config(source, stored):
    """72 mm of slices with pixels of `stored` mm, of volumes with voxels of `source` mm."""
    n, _, slices = SHAPE[stored]
    size, half = (n, n), round(36 / stored)
    if source == stored:
        window = (slices // 2 - half, slices // 2 + half)
        return SliceConfig(name="as_it_is", in_plane=size, size=size, window=window)
    return SliceConfig(
        name="resampled",
        in_plane=None,
        size=size,
        window=(0, 2 * half),
        window_mm=(-36.0, 36.0),
        spacing=(stored, stored, stored),
    )


def seconds(scans, source, slices):
    """CPU time a volume, and the bytes of the shard a volume."""
    with tempfile.TemporaryDirectory() as work:
        task = ShardTask(DEFAULT.name, "train", 0, 1, scans, slices, source, work)
        before = time.process_time()
        write_shard(task)
        return (time.process_time() - before) / VOLUMES, task.path.stat().st_size / VOLUMES


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=shared.several, default=11)
    arguments = parser.parse_args()
    ways = [(1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (2.0, 1.0)]
    with tempfile.TemporaryDirectory() as folder:
        make_scans(pathlib.Path(folder))
        sources = {side: str(pathlib.Path(folder, f"{side:g}mm")) for side in SHAPE}
        scans = {side: find_scans(path, DEFAULT).scans for side, path in sources.items()}
        table, stored = np.zeros((arguments.rounds + 1, len(ways))), {}
        for row in tqdm.tqdm(table, unit="round"):
            for place, (source, side) in enumerate(ways):
                way = scans[source], sources[source], config(source, side)
                row[place], stored[source, side] = seconds(*way)
    table = table[1:]
    for place, (source, side) in enumerate(ways):
        print(
            f"{source:g} mm, slices of {side:g} mm: {np.median(table[:, place]) * 1000:.1f} ms and "
            f"{stored[source, side] / 1e6:.2f} MB a volume"
        )
    ratios = {
        "1 mm brought to 2 mm, against 1 mm as it is": table[:, 1] / table[:, 0],
        "2 mm brought to 1 mm, against the same slices of 1 mm": table[:, 3] / table[:, 0],
        "2 mm brought to 1 mm, against 2 mm as it is": table[:, 3] / table[:, 2],
    }
    for name, values in ratios.items():
        middle, low, high = shared.median_with_interval(values)
        print(f"{name}: {middle:.2f} times the time ({low:.2f} to {high:.2f})")
    shared.record(
        "spacing",
        milliseconds=(1000 * np.median(table, axis=0)).tolist(),
        ratios={name: shared.median_with_interval(values) for name, values in ratios.items()},
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
