"""What commands take: CPU seconds, seconds and memory, also compared with an earlier checkout.

    .venv/bin/python benchmarks/commands.py [--before=CHECKOUT] [--rounds=5]
    .venv/bin/python benchmarks/commands.py --before=CHECKOUT -- evaluator reconstruct \\
      --saved_model=M --input=a.nii.gz --output_dir=OUT --view=false

With `--before` it is recorded, under the command's words or those of `--name`. Without a command it
is `--help` of each. Every run is a process of its own, start-up included. Both checkouts take
turns, and the ratio is taken round by round. CPU seconds are those of all threads, so that other
work on the machine counts little. Memory is the peak of the process; peaks below 130 MB are those
of this script, from which it was forked. OUT in a command is an empty folder. What is printed and
what is written there has to be the same from both, `.gz` files after unpacking; but help may have
changed, if it ends with 0, and with `--ignore_stdout` what is printed may.

CHECKOUT is a folder, or a commit, whose checkout is made in `.rivals`.
"""

import argparse
import gzip
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import rounds as shared

HERE = pathlib.Path(__file__).resolve().parents[1]
HELP = (
    "ixi_tfds",
    "ixi_tfds download",
    "ixi_tfds cohort",
    "beam_preprocess",
    "beam_preprocess verify",
    "trainer",
    "trainer tune",
    "trainer thesis",
    "evaluator",
    "evaluator reconstruct",
    "evaluator anomalies",
    "evaluator calibrate",
)


def checkout(before):
    """The folder of an earlier checkout, made where a commit is given."""
    if pathlib.Path(before).is_dir():
        return before
    folder = shared.RIVALS / before
    if not folder.exists():
        packed = subprocess.run(["git", "archive", before], cwd=HERE, capture_output=True)
        if packed.returncode:
            raise SystemExit(f"--before={before}: {packed.stderr.decode().strip()}")
        unpacked = folder.with_name(f"{before}.part")
        unpacked.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-x"], cwd=unpacked, input=packed.stdout, check=True)
        unpacked.rename(folder)
    return str(folder)


def run(folder_of_code, command, ignore_stdout=False):
    """CPU seconds, seconds and peak bytes of a command, and what came of it, by name."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        arguments = [part.replace("OUT", folder) for part in command]
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder_of_code,
            stdout=printed,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        made = {"exit code": process.returncode}
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                unpacked = gzip.decompress(content) if path.suffix == ".gz" else content
                made[str(path.relative_to(folder))] = unpacked
        printed.seek(0)
        is_help = "--help" in command
        if is_help and process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        if not is_help and not ignore_stdout:
            made["standard output"] = printed.read().replace(folder.encode(), b"OUT")
    return [used.ru_utime + used.ru_stime, seconds, used.ru_maxrss * 1024], made


def compare(command, checkouts, rounds, ignore_stdout=False):
    """CPU seconds, seconds and peak bytes of alternate runs, [rounds, checkouts, 3]."""
    table = np.zeros((rounds + 1, len(checkouts), 3))
    for number, row in enumerate(table):
        made = {}
        order = range(len(checkouts)) if number % 2 else reversed(range(len(checkouts)))
        for place in order:
            row[place], made[place] = run(checkouts[place], command, ignore_stdout)
        for place in range(1, len(checkouts)):
            differ = {
                name for name in made[0] | made[place] if made[0].get(name) != made[place].get(name)
            }
            if differ:
                raise SystemExit(f"{' '.join(command)}: not the same: {', '.join(sorted(differ))}")
    # The first round compiled modules and read files into the page cache.
    return table[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="folder of an earlier checkout, or a commit")
    parser.add_argument("--rounds", type=shared.several, default=5)
    parser.add_argument("--name", help="words for the command in the results")
    parser.add_argument("--ignore_stdout", action="store_true", help="what is printed may differ")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    checkouts = [HERE, *([checkout(arguments.before)] if arguments.before else [])]
    commands = (
        [arguments.command] if arguments.command else [[*each.split(), "--help"] for each in HELP]
    )
    for command in commands:
        table = compare(command, checkouts, arguments.rounds, arguments.ignore_stdout)
        medians = np.median(table, axis=0).tolist()
        named = arguments.name if arguments.command else None
        name = named or " ".join(each for each in command if "=" not in each)
        shown = [f"{cpu:.2f} s CPU, {s:.2f} s, {peak / 1e6:.0f} MB" for cpu, s, peak in medians]
        print(f"{name}: {', before '.join(shown)}", flush=True)
        if arguments.before:
            ratio = shared.median_with_interval(table[:, 1, 0] / table[:, 0, 0])
            print("  {:.2f} times as fast ({:.2f} to {:.2f})".format(*ratio), flush=True)
            cpu, seconds, peaks = np.transpose(medians)
            shared.record(
                f"command, {name}",
                cpu_seconds=dict(zip(("now", "before"), cpu, strict=True)),
                seconds=dict(zip(("now", "before"), seconds, strict=True)),
                peak_bytes=dict(zip(("now", "before"), peaks, strict=True)),
                times_as_fast={"before": ratio},
                rounds=arguments.rounds,
            )


if __name__ == "__main__":
    main()
