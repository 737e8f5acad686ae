"""A cohort at scale: seconds and memory of the whole command, with one and two workers.

Volumes of 256x256x150 int16 come from the cohort generator; those beyond `--distinct` are links to
them under other people's names. Each way is a process of its own, start-up included, whose memory
is the peak, sampled every two seconds, of what all of its processes hold together (shared pages
counted once). The files are in the page cache when the clock starts: they were just read.

    .venv/bin/python benchmarks/cohort.py [--volumes=581] [--ways=two,one,halves] [--scans=FOLDER]
    .venv/bin/python benchmarks/cohort.py --volumes=100 --ways=two,tfds

`two` and `one` are the Beam job by two and by one worker. `halves` is what two workers could reach
at best on these cores: two jobs of one worker at once, each with half of the volumes. `tfds` is
TFDS's own Beam writer with two workers: the same slices, by the same functions, handed to it one by
one. Ratios are taken round by round.
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import rounds as shared
import tqdm

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def make_scans(folder, volumes, distinct):
    """A folder of so many people's heads, made anew unless it is there."""
    made = sorted(folder.glob("**/*.nii.gz"))
    if len(made) == volumes:
        return
    command = [sys.executable, "-m", "ixi_tfds", "cohort", f"--output_dir={folder}"]
    subprocess.run([*command, f"--subjects={min(volumes, distinct)}"], check=True)
    made = sorted(folder.glob("**/*.nii.gz"))
    for number in range(len(made), volumes):
        original = made[number % len(made)]
        os.link(original, original.with_name(f"head{number:04d}-T1.nii.gz"))


def job(scans, data):
    """The Beam job by one worker."""
    command = [sys.executable, "-m", "beam_preprocess", f"--source_dir={scans}"]
    return [*command, f"--data_dir={data}", "--allow_same_bytes"]


def halves(scans, data):
    """Two jobs of one worker at once, with every other volume each, as one command."""
    jobs = []
    for number in (0, 1):
        half = scans.with_name(f"{scans.name}_half{number}")
        half.mkdir(exist_ok=True)
        for path in (*sorted(scans.glob("**/*.nii.gz"))[number::2], *scans.glob("*.xls")):
            if not (half / path.name).exists():
                os.link(path, half / path.name)
        jobs.append(shlex.join(job(half, data / str(number))))
    return ["bash", "-c", f"{jobs[0]} & {jobs[1]} && wait $!"]


def tfds_beam(source, data):
    """TFDS's own way: a builder whose examples go through Beam to its writer."""
    import apache_beam as beam
    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions

    from ixi_tfds.cohorts import DEFAULT
    from ixi_tfds.cohorts.catalog import find_scans
    from ixi_tfds.cohorts.roster import read_roster
    from ixi_tfds.config import THESIS
    from ixi_tfds.features import slice_features
    from ixi_tfds.slices import slices_of
    from ixi_tfds.splits import assign_splits

    class Slices(tfds.core.BeamBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tfds.core.Path(__file__).parent

        def _info(self):
            return self.dataset_info_from_configs(features=slice_features(THESIS.size))

        def _split_generators(self, dl_manager):
            scans = find_scans(source, DEFAULT).scans
            splits = assign_splits(scans, read_roster(DEFAULT.roster))
            return {
                split: beam.Create([scan for scan in scans if splits[scan.subject] == split])
                | f"slices {split}" >> beam.FlatMap(lambda scan: list(slices_of(scan, THESIS)))
                for split in sorted(set(splits.values()))
            }

    options = PipelineOptions(list(TWO_WORKERS))
    config = tfds.download.DownloadConfig(beam_options=options, beam_runner="DirectRunner")
    Slices(data_dir=data).download_and_prepare(download_config=config)


def measure(command, allowed=(0,), every=2.0):
    """Seconds until the command ends, and the peak of its processes' memory in bytes.

    It has to end with one of the exit codes that are allowed. The memory is looked at `every` so
    many seconds.
    """
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        root = psutil.Process(process.pid)
        running = True
        while running:
            held = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        held += each.memory_full_info().pss
            peak = max(peak, held)
            # Seldom, for it takes 40 ms of a core each time.
            try:
                process.wait(timeout=every)
                running = False
            except subprocess.TimeoutExpired:
                continue
    if process.returncode not in allowed:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.perf_counter() - started, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=581)
    parser.add_argument("--distinct", type=int, default=60)
    parser.add_argument("--ways", default="two,one,halves")
    parser.add_argument("--rounds", type=shared.several, default=5)
    parser.add_argument("--scans", help="folder to keep the volumes in")
    parser.add_argument("--be_tfds", help="folder for its dataset; for the benchmark itself")
    arguments = parser.parse_args()
    if arguments.be_tfds:
        tfds_beam(arguments.scans, arguments.be_tfds)
        return
    with tempfile.TemporaryDirectory() as folder:
        scans = pathlib.Path(arguments.scans or f"{folder}/scans")
        make_scans(scans, arguments.volumes, arguments.distinct)
        for path in tqdm.tqdm(sorted(scans.glob("**/*.nii.gz")), desc="warm the page cache"):
            path.read_bytes()
        data = pathlib.Path(folder, "data")
        commands = {
            "two": [*job(scans, data), *TWO_WORKERS],
            "one": job(scans, data),
            "halves": halves(scans, data),
            "tfds": [sys.executable, __file__, f"--scans={scans}", f"--be_tfds={data}"],
        }
        results = {way: [] for way in arguments.ways.split(",")}
        for _ in range(arguments.rounds):
            for way, measured in results.items():
                shutil.rmtree(data, ignore_errors=True)
                data.mkdir()
                measured.append(measure(commands[way]))
                seconds, peak = measured[-1]
                print(
                    f"{way:<7}{seconds:8.1f} s, {seconds / arguments.volumes:.4f} s a volume, "
                    f"peak {peak / 1e9:.2f} GB",
                    flush=True,
                )
    seconds = {way: [each for each, _ in measured] for way, measured in results.items()}
    held = {way: max(peak for _, peak in measured) for way, measured in results.items()}
    first, *others = seconds
    ratios = {
        way: shared.median_with_interval(np.divide(seconds[way], seconds[first])) for way in others
    }
    for way, (middle, low, high) in ratios.items():
        memory = held[first] / held[way]
        faster = f"{middle:.2f} times as fast ({low:.2f} to {high:.2f})"
        print(f"{first} against {way}: {faster}, {memory:.2f} of its memory")
    shared.record(
        f"cohort of {arguments.volumes}, {arguments.ways}",
        seconds={way: np.median(values) for way, values in seconds.items()},
        peak_bytes=held,
        times_as_fast=ratios,
        volumes=arguments.volumes,
        distinct=min(arguments.volumes, arguments.distinct),
        rounds=arguments.rounds,
        page_cache="warm",
    )


if __name__ == "__main__":
    main()
