"""The tables of planted bugs fit the code: `make planted` plants them, which takes minutes."""

import re
import subprocess
import sys

import plant
import pytest

TABLES = sorted((plant.ROOT / "tests/planted").glob("*.toml"))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_bug_has_its_place_and_its_test(table):
    for bug in plant.bugs([table]):
        text = (plant.ROOT / bug["file"]).read_text()
        assert plant.planted(bug, text) != text, bug["what"]
        file, _, test = bug["test"].partition("::")
        name = re.split(r"[\[:]", test)[0]
        assert f"def {name}(" in (plant.ROOT / file).read_text(), bug["test"]


def test_no_bug_is_planted_twice():
    changes = [(bug["file"], bug["find"], bug["put"]) for bug in plant.bugs(TABLES)]
    assert len(changes) == len(set(changes)) >= 60


@pytest.mark.slow
def test_a_bug_that_its_test_does_not_notice_is_told(tmp_path):
    table = tmp_path / "table.toml"
    table.write_text(
        "[[bug]]\n"
        'what = "a mean is a sum"\n'
        'file = "evaluator/statistics.py"\n'
        "find = '\"mean\": values.mean()'\n"
        "put = '\"mean\": values.sum()'\n"
        'test = "tests/evaluator/test_statistics.py::test_age_bands"\n'
    )
    command = [sys.executable, "tests/plant.py", str(table)]
    done = subprocess.run(command, cwd=plant.ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "1 bugs planted, 0 caught, 1 missed" in done.stdout
