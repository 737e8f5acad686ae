"""The examples of CONTRIBUTING.md: each change works, with its test, and touches no file more."""

import re
import subprocess
import sys

import pytest
from changed_copies import ROOT, copy_of_project

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
DIFFS = dict(re.findall(r"(?ms)^## Add an? (\w+)\n.*?```diff\n(.*?)```\n", PAGE))
MOST_FILES = {"loss": 1, "model": 1, "corruption": 1, "metric": 1, "cohort": 3}


def test_there_is_an_example_of_each():
    assert DIFFS.keys() == MOST_FILES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("what", MOST_FILES)
def test_the_change_and_its_tests_are_all_it_takes(what, tmp_path):
    project = copy_of_project(tmp_path / "project")
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(command, cwd=project, input=DIFFS[what], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    files = re.findall(r"^\+\+\+ b/(\S+)", DIFFS[what], re.MULTILINE)
    tests = [file for file in files if file.startswith("tests/") and "/test_" in file]
    assert tests and len(files) - len(tests) <= MOST_FILES[what], files
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *tests]
    done = subprocess.run(pytest_, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
