"""What the tests share."""

import collections
import logging
import os
import pathlib
import sys

import pytest

import ixi_tfds  # noqa: F401 - prepares the lane before a test imports TensorFlow

# As our commands and the first import of scikit-learn or of TensorFlow set them, so that the first
# test that runs one leaves nothing behind.
for name, value in (
    ("KMP_DUPLICATE_LIB_OK", "True"),
    ("KMP_INIT_AT_FORK", "FALSE"),
    ("TF2_BEHAVIOR", "1"),
    ("TPU_ML_PLATFORM", "Tensorflow"),
):
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real scans that IXI_REAL_DATA names; the test is skipped where it is unset."""
    path = os.environ.get("IXI_REAL_DATA")
    if not path:
        pytest.skip("real scans (IXI_REAL_DATA is unset)")
    return pathlib.Path(path).resolve()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files with slow tests come first: at the end one process would wait for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """A test that changes the process for those after it fails, whatever the order they run in."""
    before = _surroundings()
    yield
    assert _surroundings() == before


def _surroundings():
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    keras = sys.modules.get("tf_keras") or sys.modules.get("keras")
    policy = keras.mixed_precision.global_policy().name if keras else "float32"
    loggers = logging.Logger.manager.loggerDict.items()
    return {
        "folder": pathlib.Path.cwd(),
        "environment": environment,
        "precision": policy,
        "silent": {name for name, logger in loggers if getattr(logger, "disabled", False)},
    }


def pytest_terminal_summary(terminalreporter):
    """Say in one line what was not tested."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(str(s.longrepr[2]).removeprefix("Skipped: ") for s in skipped)
    if reasons:
        told = "; ".join(f"{reason}: {number}" for reason, number in sorted(reasons.items()))
        terminalreporter.write_line(f"not tested: {told}")
