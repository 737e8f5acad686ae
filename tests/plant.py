"""Plants known bugs, one at a time, and shows that a test fails with each: `make planted`.

The bugs are tables in `tests/planted/*.toml`:

    [[bug]]
    what = "the last weights are exported, not the best"   # a sentence
    file = "trainer/run.py"
    find = "run_state.best_epoch)"           # a piece of the file that is in it once
    put = "run_state.epochs_done)"           # what takes its place
    test = "tests/trainer/test_trainer.py::test_the_best_weights_are_exported"
    survived = true                          # no test failed with it before this test was written
"""

import argparse
import html
import pathlib
import re
import sys
import tomllib

# The project comes before this folder, which has folders of its packages' names.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).with_name("support")))
from changed_copies import ROOT, Change, try_all

PAGE = """# Planted bugs

`make planted FLAGS=--table=docs/planted_bugs.md` planted each of these {bugs} bugs alone, ran
the test named beside it, and wrote this page: {caught} tests failed, with the line in the last
column. "None" under "before" says that no test noticed the bug until this one was written or
made stronger ({survived} of them; found by running the tests of that time on the same theme, in
part by reading them). Where nothing stands there a test noticed it already, or it was not
tried.

"""


def bugs(files):
    """Each bug of the tables, as a dict, in their order."""
    return [bug for file in files for bug in tomllib.loads(file.read_text())["bug"]]


def planted(bug, text):
    """The file's text with the bug in it."""
    if text.count(bug["find"]) != 1:
        raise SystemExit(f"{bug['file']}: has not exactly one {bug['find']!r} ({bug['what']})")
    return text.replace(bug["find"], bug["put"])


def first_line(output):
    """The first line of the failure that pytest shows."""
    return next((line[1:].strip() for line in output.splitlines() if line.startswith("E ")), "")


def as_text(cell):
    """A cell of a Markdown table that shows the text as it is, without folders of this machine."""
    short = re.sub(r"/[\w./-]*/pytest-[\w./-]*/", "TMP/", cell.replace(sys.executable, "PYTHON"))[
        :160
    ]
    return html.escape(short, quote=False).replace("|", "\\|").replace("`", "'")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="tables of bugs; default: all")
    parser.add_argument("-k", default="", help="only bugs whose sentence holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="bugs tried at once")
    parser.add_argument("--table", type=pathlib.Path, help="write the result as Markdown here")
    args = parser.parse_args()
    files = args.files or sorted((ROOT / "tests/planted").glob("*.toml"))
    chosen = [bug for bug in bugs(files) if args.k in bug["what"]]
    changes = [
        Change(bug["file"], planted(bug, (ROOT / bug["file"]).read_text()), (bug["test"],))
        for bug in chosen
    ]
    titles = ("file", "bug", "before", "test that fails", "first line of the failure")
    rows, missed = [" | ".join(titles), "|".join("---" for _ in titles)], 0
    results = try_all(changes, jobs=args.jobs, title="planting")
    for bug, (code, output) in zip(chosen, results, strict=True):
        line = first_line(output)
        # Pytest ends with 1 where tests failed, with others where there was nothing to run.
        caught = code == 1 and line
        missed += not caught
        print(f"{'caught' if caught else 'MISSED'}  {bug['what']}\n    {bug['test']}")
        print(f"    {line or output[-1000:] or 'no answer'}")
        before = "none" if bug.get("survived") else ""
        cells = [bug["file"], bug["what"], before, bug["test"].removeprefix("tests/"), line]
        rows.append(" | ".join(as_text(cell) for cell in cells))
    if args.table:
        survived = sum(bug.get("survived", False) for bug in chosen)
        counts = {"bugs": len(chosen), "caught": len(chosen) - missed, "survived": survived}
        page = PAGE.format(**counts) + "".join(f"| {row} |\n" for row in rows)
        args.table.write_text(page)
    print(f"{len(chosen)} bugs planted, {len(chosen) - missed} caught, {missed} missed")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
