"""A coverage-guided fuzzer on the reading of scans, for `make soak`: needs atheris.

python tests/fuzz_reader.py CORPUS -max_total_time=600 [any option of libFuzzer]

CORPUS gets the good files to start from, and keeps what reached new code. The first byte of an
input says how the rest becomes a file: as it is (0), packed (1), or with its voxels cut off and
those of a good scan put behind it (2, and 3 packed).
"""

import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["ixi_tfds", "evaluator", "nibabel"]):
    import fuzzed_scans

SEED = fuzzed_scans.seed_file()


def try_file(data: bytes) -> None:
    """One input of the fuzzer; whatever is raised is a finding."""
    content = data[1:]
    how = data[0] % 4 if data else 0
    if how >= 2:
        content = content[: fuzzed_scans.HEADER] + SEED[fuzzed_scans.HEADER :]
    fuzzed_scans.outcome(fuzzed_scans.pack(content) if how % 2 else content, FOLDER)


if __name__ == "__main__":
    corpus = pathlib.Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, seed in {
        "plain": b"\0" + SEED,
        "packed": b"\1" + SEED,
        "stream": b"\0" + fuzzed_scans.pack(SEED),
        "header": b"\2" + SEED[: fuzzed_scans.HEADER],
        "packed-header": b"\3" + SEED[: fuzzed_scans.HEADER],
    }.items():
        (corpus / name).write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = pathlib.Path(folder)
        # A case that takes 20 s is a hang; one that takes 2 GB is a bomb.
        bounds = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096"]
        atheris.Setup([sys.argv[0], *bounds, *sys.argv[1:]], try_file)
        atheris.Fuzz()
