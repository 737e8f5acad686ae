"""What TensorFlow runs on: the GPUs that it takes, or why it takes none."""

import ctypes
import importlib.util
import os
import pathlib
import shutil

from etils import epy

from ixi_tfds import lanes

with epy.lazy_imports():
    import tensorflow as tf

_DRIVER = "libcuda.so.1"
_OLDEST = 12000
"""The CUDA version, 12.0, that a driver has to support for the libraries of both lanes."""


def prepare() -> None:
    """Open the CUDA libraries that TensorFlow needs and does not find among the installed wheels.

    It has to be called before the first use of TensorFlow's devices, and does nothing where there
    is no driver.
    """
    if _open(_DRIVER) is None:
        for name, wheel in lanes.CUDA_NOT_FOUND.items():
            _open(name, wheel)


def describe(precision: str, xla: bool) -> str:
    """One line: the devices that TensorFlow uses, or why it uses no GPU.

    Args:
      precision: name of Keras's policy.
      xla: whether XLA compiles the training step.
    """
    gpus = tf.config.list_physical_devices("GPU")
    how = f"{precision}, {'with' if xla else 'without'} XLA"
    if not gpus:
        return f"runs on the CPU ({why_no_gpu()}); {how}"
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    if precision == "float32" and tf.config.experimental.tensor_float_32_execution_enabled():
        ampere = any(each.get("compute_capability", (0, 0)) >= (8, 0) for each in details)
        how = how.replace("float32", "float32 (TF32 in convolutions)") if ampere else how
    names = [
        f"{each.get('device_name', 'a GPU of unknown name')} ({_memory(number)})"
        for number, each in enumerate(details)
    ]
    return f"runs on {', '.join(names)}; {how}"


def why_no_gpu() -> str:
    """Why TensorFlow uses no GPU, as far as it can be established."""
    cards = sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    error = _open(_DRIVER)
    if error:
        signs = [sign for sign in ("nvidia-smi", "/proc/driver/nvidia") if _is_there(sign)]
        if not signs:
            return "no NVIDIA driver is here"
        return f"{signs[0]} is here, but the driver's library could not be opened: {error}"
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} hides every GPU"
    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    return (
        _fault_of_driver(cards, visible) or _fault_of_libraries() or _fault_of_card() or unknown()
    )


def unknown() -> str:
    """What to do where no cause could be established."""
    return "for an unknown reason; with TF_CPP_MIN_LOG_LEVEL=0 TensorFlow tells more"


def _fault_of_driver(cards: list[pathlib.Path], visible: str | None) -> str | None:
    driver, number = ctypes.CDLL(_DRIVER), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0 and 0 < number.value < _OLDEST:
        supported = f"{number.value // 1000}.{number.value % 1000 // 10}"
        return f"the driver supports CUDA {supported} only, and 12.0 is needed; update the driver"
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number))
    if code == 0 and number.value:
        return None
    if visible is not None and cards:
        return f"CUDA_VISIBLE_DEVICES={visible} names none of the {len(cards)} GPUs"
    return f"the driver finds no GPU: {_name_of(driver, code)}" if code else "the driver has no GPU"


def _fault_of_libraries() -> str | None:
    errors = {name: _open(name, wheel) for name, wheel in lanes.CUDA.items()}
    missing = [name for name, error in errors.items() if error]
    if not missing:
        return None
    if not _wheels():
        return f"the CUDA libraries are not installed ({missing[0]}): make GPU=1 installs them"
    return f"could not open {', '.join(missing)} ({errors[missing[0]]}): make GPU=1 installs them"


def _fault_of_card() -> str | None:
    """The first card that is too old for this TensorFlow."""
    driver, major, minor = ctypes.CDLL(_DRIVER), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    built = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    oldest = min((int(each.split("_")[1]) for each in built), default=0)
    if 0 < major.value * 10 + minor.value < oldest:
        found = f"{major.value}.{minor.value}"
        return f"the GPU has compute capability {found}, and {oldest / 10} is needed"
    return None


def _memory(number: int) -> str:
    try:
        driver, size = ctypes.CDLL(_DRIVER), ctypes.c_size_t()
        code = driver.cuInit(0) or driver.cuDeviceTotalMem_v2(ctypes.byref(size), number)
    except (OSError, AttributeError):
        code = 1
    return "unknown memory" if code else f"{size.value / 2**30:.0f} GiB"


def _name_of(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return (name.value or b"error %d" % code).decode()


def _is_there(sign: str) -> bool:
    return pathlib.Path(sign).exists() if "/" in sign else bool(shutil.which(sign))


def _wheels() -> list[pathlib.Path]:
    """The folders of NVIDIA's wheels in this environment."""
    found = importlib.util.find_spec("nvidia")
    folders = found.submodule_search_locations if found else None
    return [pathlib.Path(folder) for folder in folders or ()]


def _open(name: str, wheel: str = "") -> str | None:
    """Open a library, for good, as a wheel has it or as the system finds it; the error if any."""
    paths = [str(folder / wheel / "lib" / name) for folder in _wheels() if wheel]
    error = None
    for path in [*(path for path in paths if pathlib.Path(path).exists()), name]:
        try:
            ctypes.CDLL(path)
            return None
        except OSError as failed:
            error = error or str(failed)
    return error
