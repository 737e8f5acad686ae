"""Exports in the newest TensorFlow that the package index has for this Python."""

import subprocess
import sys
import warnings

import numpy as np
import plain_tensorflow
import pytest
import untrained

pytestmark = pytest.mark.slow

NO_INDEX = ("connection broken by", "Network is unreachable", "Name or service not known")


@pytest.fixture(scope="session")
def newest(tmp_path_factory):
    """The interpreter of an environment with TensorFlow and nothing of ours.

    tensorflow-cpu is tensorflow without what GPUs need, released together with it, at a fraction
    of its size.
    """
    folder = tmp_path_factory.mktemp("newest_tensorflow")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "tensorflow-cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    signs = [line for line in done.stderr.splitlines() if any(sign in line for sign in NO_INDEX)]
    if done.returncode and signs:
        reason = f"no package index can be reached: {signs[-1]}"
        warnings.warn(reason, stacklevel=1)  # Skips are silent; this is in pytest's summary.
        pytest.skip(reason)
    assert done.returncode == 0, done.stderr
    return python


def version(python):
    code = "import importlib.metadata; print(importlib.metadata.version('tensorflow-cpu'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "scaling"),
    [("small_resnet", "slice"), ("small_resnet", "volume"), ("resnet50_add13", "slice")],
)
def test_both_signatures_give_the_same_in_the_newest_tensorflow(
    newest, name, scaling, tmp_path, capsys
):
    folder = untrained.export_untrained(tmp_path / "1", name, scaling)
    unit = np.random.default_rng(0).random((8, *untrained.SIZE), dtype=np.float32)
    given = {"unit": unit[..., None], "slices": np.round(900 * unit)}
    if scaling == "volume":
        given |= {"low": np.full(8, 50, np.float32), "high": np.full(8, 800, np.float32)}
    ours = plain_tensorflow.run_elsewhere(folder, tmp_path, **given)
    theirs = plain_tensorflow.run_elsewhere(folder, tmp_path, python=newest, **given)
    assert ours["serving_reconstruction"].std() > 0.01
    assert set(ours) == set(theirs)
    # Each TensorFlow brings its own kernels, which add up in another order.
    for output, values in ours.items():
        scale = 900 if output.startswith("raw") else 1
        difference = float(np.abs(values - theirs[output]).max()) / scale
        with capsys.disabled():
            print(f"\n{name}, {scaling}, {output}, {version(newest)}: off by {difference:.1e}")
        assert difference < 1e-5


@pytest.mark.parametrize("plane", ["sagittal", "axial", "coronal"])
def test_volumes_of_brains_come_out_the_same_in_the_newest_tensorflow(newest, plane, tmp_path):
    _, slices = untrained.export_brains(tmp_path / "1", plane)
    rng = np.random.default_rng(0)
    given = {
        "unit": rng.random((2, *slices.size, 1), np.float32),
        "volume": rng.uniform(0, 1.6, slices.box).astype(np.float32),
        "mask": rng.integers(0, 2, slices.box).astype(np.float32),
    }
    ours = plain_tensorflow.run_elsewhere(tmp_path / "1", tmp_path, **given)
    theirs = plain_tensorflow.run_elsewhere(tmp_path / "1", tmp_path, python=newest, **given)
    assert set(ours) == set(theirs) >= {"volume_repaired", "volume_residual", "volume_mark"}
    for output, values in ours.items():
        assert values.std() > 0.01
        np.testing.assert_allclose(theirs[output], values, atol=3e-5, err_msg=output)
