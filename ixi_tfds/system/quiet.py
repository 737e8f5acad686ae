"""Leaves TensorFlow's known chatter out of standard error while TensorFlow is imported.

TensorFlow logs before it reads its log level, so that only a filter of file descriptor 2 helps. The
filter is a process, which runs this file: what TensorFlow says before it aborts arrives too. All
lines pass but those of `HARMLESS`.
"""

import contextlib
import gc
import importlib.machinery
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

HARMLESS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|To enable the following instructions: .* rebuild TensorFlow with the appropriate compiler"
    # The beginning of a line in TensorFlow 2.15 or in absl, but none of a fatal one.
    rb"|(?:\d{4}-\d\d-\d\d [\d:.]+: [IWE] |[IWE]\d{4} [\d:.]+ +\d+ )[\w./]+:\d+\] (?:"
    rb"oneDNN custom operations are on\."
    rb"|Could not find cuda drivers on your machine"
    # No NVIDIA driver is installed; with other numbers a driver fails.
    rb"|failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR \(303\)"
    rb"|Unable to register (\w+) factory: Attempting to register factory for plugin \1 when one has"
    rb"|computation placer already registered\."
    rb"|This TensorFlow binary is optimized to use available CPU instructions"
    rb"|TF-TRT Warning: Could not find TensorRT"
    rb")"
)
"""How the lines begin that TensorFlow writes where nothing is wrong."""


class _QuietImport:
    """A finder of `sys.meta_path` that has tensorflow run with the filter, and sooner."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The spec that Python finds, for tensorflow; None for all else."""
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_quietly(module: ModuleType) -> None:
                with without_chatter(), _without_collection():
                    run(module)
                    _look_for_gpus_without_driver(module)

            spec.loader.exec_module = run_quietly  # type: ignore[method-assign]
        return spec


def import_tensorflow_quietly() -> None:
    """From now on TensorFlow is imported without chatter, whoever imports it."""
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Leave harmless lines out of file descriptor 2. Where no filter can run, all lines pass."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            _start_filter(stack)
        yield


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Collect no garbage: of what an import makes, nearly all stays, and looking takes a fifth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _start_filter(stack: contextlib.ExitStack) -> None:
    import subprocess  # Here, so that the filter itself starts without it.

    stderr = os.dup(2)
    stack.callback(os.close, stderr)
    process = subprocess.Popen(
        [sys.executable or "", "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for the filter, which ends with its input.
    )
    assert process.stdin
    with process.stdin:
        os.dup2(process.stdin.fileno(), 2)

    def end() -> None:
        os.dup2(stderr, 2)
        # A process that was started in the meantime may hold the pipe open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)

    stack.callback(end)


def _look_for_gpus_without_driver(tensorflow: ModuleType) -> None:
    """Have TensorFlow say now that there is no driver, which it says at its first operation.

    With a driver it is not asked: a process that has begun to use CUDA cannot be forked.
    """
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        tensorflow.config.list_physical_devices("GPU")


def _copy() -> None:
    """Copy standard input to standard error without the harmless lines."""
    for line in sys.stdin.buffer:
        if not HARMLESS.match(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _copy()
