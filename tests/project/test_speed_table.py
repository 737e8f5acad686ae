"""The table of docs/performance.md says what `benchmarks/results.json` says."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SHOW = "import table; print(table.table(), end='')"


def test_the_table_is_that_of_the_results():
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
    )
    rows = done.stdout.splitlines()
    assert len(rows) > 30 and all(row.count(" | ") == 7 for row in rows[2:])
    page = (ROOT / "docs/performance.md").read_text()
    shown = [line for line in page.partition("## The table")[2].splitlines() if line[:1] == "|"]
    assert shown[: len(rows)] == rows, "run benchmarks/table.py after a benchmark"
    # Those that are still to come.
    missing = [row for row in rows if "| not measured |" in row]
    assert all("bfloat16" in row or "of Big" in row for row in missing) and len(missing) <= 4
