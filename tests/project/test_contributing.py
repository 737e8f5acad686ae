"""The examples of CONTRIBUTING.md: each change works, with its test, and touches no file more."""

import re
import subprocess
import sys

import pytest
from changed_copies import ROOT, copy_of_project

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
DIFFS = dict(re.findall(r"(?ms)^## Add an? (\w+)\n.*?```diff\n(.*?)```\n", PAGE))
MOST_FILES = {"loss": 1, "model": 1, "task": 1, "corruption": 1, "metric": 1, "cohort": 3}


def files_of(what):
    """The files that a change touches, and its tests."""
    files = re.findall(r"^\+\+\+ b/(\S+)", DIFFS[what], re.MULTILINE)
    tests = [file for file in files if file.startswith("tests/")]
    return [file for file in files if file not in tests], tests


def test_there_is_an_example_of_each():
    assert DIFFS.keys() == MOST_FILES.keys()


@pytest.mark.parametrize("what", MOST_FILES)
def test_a_change_touches_few_files(what):
    changed, tests = files_of(what)
    assert tests and len(changed) <= MOST_FILES[what], changed


@pytest.mark.slow
def test_the_changes_and_their_tests_are_all_it_takes(tmp_path):
    """All in one copy and one process, which imports TensorFlow once."""
    project = copy_of_project(tmp_path / "project")
    for diff in DIFFS.values():
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        done = subprocess.run(command, cwd=project, input=diff, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    tests = [test for what in DIFFS for test in files_of(what)[1]]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *tests]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout
