"""The line that says what TensorFlow runs on names a cause only where it is established."""

import ctypes
import os

import pytest
import tensorflow as tf

from ixi_tfds import gpus, lanes


class Driver:
    """The NVIDIA driver's library, as a machine has it."""

    def __init__(self, version=12040, code=0, count=1, capability=(8, 0)):
        self.version, self.code, self.count, self.capability = version, code, count, capability

    def cuDriverGetVersion(self, number):  # noqa: N802
        number._obj.value = self.version
        return 0

    def cuInit(self, flags):  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, number):  # noqa: N802
        number._obj.value = self.count
        return 0

    def cuDeviceGetAttribute(self, number, attribute, device):  # noqa: N802
        number._obj.value = self.capability[attribute - 75]
        return 0

    def cuDeviceTotalMem_v2(self, size, device):  # noqa: N802
        size._obj.value = 40 * 2**30
        return 0

    def cuGetErrorName(self, code, name):  # noqa: N802
        name._obj.value = b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
        return 0


def a_machine(monkeypatch, *, driver=None, missing=(), signs=(), wheels=("nvidia",), cuda=True):
    """A machine with this driver, on which these libraries do not open."""
    missing = [*missing, *([] if driver else ["libcuda.so.1"])]
    monkeypatch.setattr(
        gpus, "_open", lambda name, wheel="": f"{name}: no such file" if name in missing else None
    )
    monkeypatch.setattr(gpus, "_is_there", lambda sign: sign in signs)
    monkeypatch.setattr(gpus, "_wheels", lambda: list(wheels))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


CUDNN = next(name for name in lanes.CUDA if "cudnn" in name)


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ({}, "no NVIDIA driver is here"),
        (
            {"signs": ["nvidia-smi"]},
            "nvidia-smi is here, but the driver's library could not be opened: "
            "libcuda.so.1: no such file",
        ),
        ({"driver": Driver(), "cuda": False}, "this TensorFlow is built without CUDA"),
        (
            {"driver": Driver(11040)},
            "the driver supports CUDA 11.4 only, and 12.0 is needed; update the driver",
        ),
        (
            {"driver": Driver(code=803)},
            "the driver finds no GPU: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        ),
        ({"driver": Driver(count=0)}, "the driver has no GPU"),
        (
            {"driver": Driver(), "missing": [CUDNN]},
            f"could not open {CUDNN} ({CUDNN}: no such file): make GPU=1 installs them",
        ),
        (
            {"driver": Driver(), "missing": list(lanes.CUDA), "wheels": ()},
            "the CUDA libraries are not installed (libcudart.so.12): make GPU=1 installs them",
        ),
        ({"driver": Driver()}, gpus.unknown()),
    ],
)
def test_it_says_why_no_gpu_is_used(machine, why, monkeypatch):
    a_machine(monkeypatch, **machine)
    assert gpus.why_no_gpu() == why
    line = gpus.describe("float32", xla=False)
    assert line == f"runs on the CPU ({why}); float32, without XLA"


@pytest.mark.parametrize("value", ["", "-1", "-1,0"])
def test_a_variable_that_hides_every_gpu_is_named(value, monkeypatch):
    a_machine(monkeypatch, driver=Driver(count=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus.why_no_gpu() == f"CUDA_VISIBLE_DEVICES={value} hides every GPU"


def test_a_gpu_has_its_name_memory_precision_and_xla(monkeypatch):
    a_machine(monkeypatch, driver=Driver())
    details = {"device_name": "NVIDIA A100", "compute_capability": (8, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "two"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert gpus.describe("mixed_bfloat16", xla=True) == (
        "runs on NVIDIA A100 (40 GiB), NVIDIA A100 (40 GiB); mixed_bfloat16, with XLA"
    )
    assert "; float32 (TF32 in convolutions), without XLA" in gpus.describe("float32", xla=False)


def test_libraries_that_tensorflow_does_not_find_are_opened_where_there_is_a_driver(monkeypatch):
    opened = []
    monkeypatch.setattr(gpus, "_open", lambda *what: opened.append(what))
    gpus.prepare()
    assert opened == [("libcuda.so.1",), *lanes.CUDA_NOT_FOUND.items()]
    opened.clear()
    monkeypatch.setattr(gpus, "_open", lambda *what: opened.append(what) or "no such file")
    gpus.prepare()
    assert opened == [("libcuda.so.1",)]


def test_a_library_of_a_wheel_is_opened_and_a_missing_one_gives_the_error(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "_wheels", lambda: [tmp_path])
    assert gpus._open("libc.so.6", "cusolver") is None
    library = tmp_path / "cusolver/lib/libcusolver.so.11"
    assert "libcusolver.so.11: cannot open" in gpus._open("libcusolver.so.11", "cusolver")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"nothing")
    assert str(library) in gpus._open("libcusolver.so.11", "cusolver")


def test_memory_grows_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH")
    lanes.prepare()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    lanes.prepare()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"
