"""How commands start: what `--help` and a command without pictures import."""

import subprocess
import sys

import pytest

HEAVY = {
    "tensorflow",
    "tensorflow_datasets",
    "apache_beam",
    "pandas",
    "matplotlib",
    "scipy.ndimage",
}
COMMANDS = (
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


def imported(*arguments):
    """The modules that an interpreter imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    found = imported("-m", *command.split(), "--help")
    assert "ixi_tfds.system.commands" in found and not found & HEAVY


def test_maps_without_a_view_do_not_load_what_draws_it():
    modules = "evaluator.reconstruct, evaluator.views, evaluator.brains.writing"
    found = imported("-c", f"import {modules}")
    assert "evaluator.viewer" in found and "matplotlib" not in found


def test_a_program_that_imports_the_package_has_the_builders():
    assert "ixi_tfds.builder" in imported("-c", "import ixi_tfds")
