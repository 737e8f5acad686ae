"""Plants known bugs, one at a time, and shows that a test fails with each: `make planted`.

The bugs are tables in `tests/planted/*.toml`:

    [[bug]]
    what = "the last weights are exported, not the best"   # a sentence
    file = "trainer/training.py"
    find = "run_state.best_epoch)"           # a piece of the file that is in it once
    put = "run_state.epochs_done)"           # what takes its place
    test = "tests/test_trainer.py::test_the_best_weights_are_exported"
    survived = true                          # no test failed with it before this test was written

Each bug is planted in a copy of the project, so that the checkout stays as it is.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

from tqdm import tqdm

ROOT = pathlib.Path(__file__).parent.parent


def bugs(files):
    """Each bug of the tables, as a dict, in their order."""
    return [bug for file in files for bug in tomllib.loads(file.read_text())["bug"]]


def planted(bug, text):
    """The file's text with the bug in it."""
    if text.count(bug["find"]) != 1:
        raise SystemExit(f"{bug['file']}: has not exactly one {bug['find']!r} ({bug['what']})")
    return text.replace(bug["find"], bug["put"])


def copy_of_project(folder):
    """A copy of what git tracks or would track, in a new folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


def run_tests(project, tests, timeout=600):
    """The exit code of pytest in a copy of the project, None if it did not end; and its output."""
    path = os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "--no-header", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=project,
            env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def first_line(output):
    """The first line of the failure that pytest shows."""
    return next((line[1:].strip() for line in output.splitlines() if line.startswith("E ")), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="tables of bugs; default: all")
    parser.add_argument("-k", default="", help="only bugs whose sentence holds this text")
    parser.add_argument("--table", type=pathlib.Path, help="write the result as Markdown here")
    args = parser.parse_args()
    files = args.files or sorted((ROOT / "tests/planted").glob("*.toml"))
    chosen = [bug for bug in bugs(files) if args.k in bug["what"]]
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        project = pathlib.Path(folder)
        copy_of_project(project)
        for bug in tqdm(chosen, unit="bug"):
            file = project / bug["file"]
            text = file.read_text()
            started = time.monotonic()
            file.write_text(planted(bug, text))
            code, output = run_tests(project, [bug["test"]])
            file.write_text(text)
            line = first_line(output)
            caught = code == 1 and line
            missed += not caught
            tqdm.write(
                f"{'caught' if caught else 'MISSED'}  {bug['what']}\n    {bug['test']}\n    "
                f"{line or output[-300:] or 'no answer'}  ({time.monotonic() - started:.0f} s)"
            )
            before = "survived" if bug.get("survived") else "caught"
            cells = [bug["file"], bug["what"], before, bug["test"].removeprefix("tests/"), line]
            rows.append(" | ".join(cell.replace("|", "\\|")[:160] for cell in cells))
    if args.table:
        titles = ("file", "bug", "before", "test that fails", "first line of the failure")
        rows = [" | ".join(titles), "|".join("---" for _ in titles), *rows]
        args.table.write_text("".join(f"| {row} |\n" for row in rows))
    print(f"{len(chosen)} bugs planted, {len(chosen) - missed} caught, {missed} missed")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
