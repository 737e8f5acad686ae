"""Shows, without a GPU, that TensorFlow finds every CUDA library of the lane: `make gpu-test`.

It runs `make setup` in a folder of its own, with a stand-in for `nvidia-smi` on the PATH, so that
the lock with the CUDA libraries is installed as on a machine with a driver (2 GB to download, 6 GB
in the folder). Then each library is opened by TensorFlow's own function, from TensorFlow's own
file, so that names and search paths are those of TensorFlow, each in a fresh process. `libcuda` and
`libnvidia-ml` come with the driver and are left out.

    python tests/gpu_libraries.py FOLDER [--python=python3.12] [--environment=FOLDER]
"""

import argparse
import ctypes
import importlib.util
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
NEEDED = ("requirements", "setup.cfg", "pyproject.toml", "Makefile", "README.md", "LICENSE")
PACKAGES = ("ixi_tfds", "beam_preprocess", "trainer", "evaluator")
OPEN = "_ZN3tsl8internal18LoadDynamicLibraryEPKcPPv"
ALL = "_ZN3tsl8internal9DsoLoader22TryDlopenCUDALibrariesEv"
BY_OTHERS = {
    "libcupti.so.12": "TensorFlow's profiler",
    "libnvJitLink.so.12": "cuSPARSE",
    "libnvrtc.so.12": "cuDNN",
}


def install(folder, python):
    """The Python of an environment that `make setup` has made where `nvidia-smi` runs."""
    stand_in = folder / "driver/nvidia-smi"
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    for name in (*NEEDED, *PACKAGES):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-C", folder, "setup", "GPU=", f"PYTHON={python}"]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return folder / ".venv/bin/python"


def tensorflow_file():
    """TensorFlow's file that opens the libraries."""
    found = importlib.util.find_spec("tensorflow")
    return pathlib.Path(found.origin).parent / "libtensorflow_framework.so.2"


def open_as_tensorflow(name):
    """Where TensorFlow finds a library; None if it does not."""
    status, handle = ctypes.c_void_p(), ctypes.c_void_p()
    # A status that is not one register's worth comes back through the first argument.
    call = getattr(ctypes.CDLL(tensorflow_file()), OPEN)
    call.restype = None
    call(ctypes.byref(status), name.encode(), ctypes.byref(handle))
    loaded = {line.split()[-1] for line in open("/proc/self/maps") if name in line}  # noqa: PTH123, SIM115
    return min(map(os.path.realpath, loaded)) if handle.value and loaded else None


def check_all():
    """Whether TensorFlow's check before it takes a GPU finds all that it asks for."""
    status = ctypes.c_void_p()
    call = getattr(ctypes.CDLL(tensorflow_file()), ALL)
    call.restype = None
    call(ctypes.byref(status))
    # 0 and 1 are a status without an error, in older and newer versions of absl.
    return (status.value or 0) in (0, 1)


def ask(*arguments):
    """The last line that a fresh process of this file prints."""
    command = [sys.executable, __file__, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    return (ran.stdout.splitlines() or [f"MISSING: {ran.stderr.strip()[-200:]}"])[-1]


def show():
    """Print a row for each library, and end with 1 if one is missing."""
    from ixi_tfds import gpus, lanes

    wanted = dict.fromkeys(lanes.CUDA, "TensorFlow") | BY_OTHERS
    missing = 0
    print(f"{lanes.NAME} lane, {tensorflow_file()}")
    print(f"{'library':<22}{'wanted by':<24}found")
    for name, who in wanted.items():
        found, how = ask("--open", name), "by TensorFlow's search path"
        if found == "MISSING" and (name in lanes.CUDA_NOT_FOUND):
            found, how = ask("--open", name, "--prepared"), "opened by ixi_tfds.gpus.prepare"
        if found == "MISSING" and name not in lanes.CUDA:
            # Opened by a library of NVIDIA's, from its own folder.
            wheel = name.removeprefix("lib").split(".")[0].lower()
            paths = [p for base in gpus._wheels() for p in base.glob(f"*{wheel}/lib/{name}")]
            found, how = (str(paths[0]), f"in the wheels, for {who}") if paths else (found, "")
        missing += found.startswith("MISSING")
        print(f"{name:<22}{who:<24}{found}{'' if found.startswith('MISSING') else f' ({how})'}")
    for tool in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc"):
        # Both lanes look beside TensorFlow's own folder.
        path = tensorflow_file().parents[1] / "nvidia/cuda_nvcc" / tool
        works = path.exists() and (
            "ptxas" not in tool
            or not subprocess.run([path, "--version"], stdout=subprocess.DEVNULL).returncode
        )
        missing += not works
        print(f"{path.name:<22}{'XLA':<24}{path if works else 'MISSING'}")
    for arguments, when in ((("--all",), "before"), (("--all", "--prepared"), "after")):
        print(f"TensorFlow's own check of all its libraries, {when} prepare: {ask(*arguments)}")
    missing += ask("--all", "--prepared") != "found"
    print("left out: libcuda.so.1 and libnvidia-ml.so.1, which come with the driver")
    print(f"{missing} missing" if missing else "every library was found")
    return bool(missing)


def prepare():
    """What `ixi_tfds.gpus.prepare` opens where there is a driver."""
    from ixi_tfds import gpus, lanes

    for name, wheel in lanes.CUDA_NOT_FOUND.items():
        gpus._open(name, wheel)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="for the environment")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--environment", type=pathlib.Path, help="one that is there already")
    parser.add_argument("--open", help="for itself, as the next three")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--prepared", action="store_true")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.prepared:
        prepare()
    if arguments.open:
        print(open_as_tensorflow(arguments.open) or "MISSING")
    elif arguments.all:
        print("found" if check_all() else "not all found")
    elif arguments.show:
        return show()
    else:
        there = arguments.environment and arguments.environment / "bin/python"
        python = there or install(arguments.folder.absolute(), arguments.python)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "IXI_TFDS_WITHOUT_BUILDER": "1"}
        return subprocess.run([python, __file__, "--show"], env=environment).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
