"""The user's surroundings: environment variables, configuration files, folders and streams.

What would change or stop a command is set once, when its process starts; what cannot be set is
checked before its work. A program that imports the packages keeps its own surroundings.
"""

import atexit
import functools
import gc
import importlib.util
import os
import pathlib
import pwd
import re
import select
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import ParamSpec, TextIO

from ixi_tfds.system.errors import UserError

Arguments = ParamSpec("Arguments")

_PACKAGES = ("ixi_tfds", "beam_preprocess", "trainer", "evaluator")
_OWNER = 0o700

READER_GONE = 141
"""Exit code after the reader of the output has gone, as shells count it: 128 + SIGPIPE."""


def is_command(arguments: Sequence[str]) -> bool:
    """Whether the arguments of an interpreter run a command of ours: `python -m PACKAGE`."""
    rest = list(arguments[1:])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in ("-W", "-X"):
            del rest[:1]
        elif found := re.fullmatch(r"-[^WXcm]*m(.*)", option):
            module = found[1] or "".join(rest[:1])
            return module.partition(".")[0] in _PACKAGES
    return False


def settle() -> None:
    """Set what libraries take from the user's surroundings, for this process and its children.

    It has to be called before anything imports NumPy, matplotlib, Keras or gRPC.
    """
    _open_streams()
    # At its end Python would look for garbage among all that libraries have made: half a second.
    atexit.register(gc.freeze)
    # What is written can be read by its owner.
    os.umask(os.umask(0) & ~_OWNER)
    os.environ |= _environment()
    for name in ("MPLBACKEND", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    if any(each[0] == "error" for each in warnings.filters):
        # PYTHONWARNINGS=error would make an error of every remark of a library.
        warnings.simplefilter("ignore")


def check(arguments: Sequence[str]) -> None:
    """Refuse surroundings in which a command cannot work; `arguments` are those of the command.

    Raises:
      UserError: Python runs without docstrings, the working folder is gone, no temporary folder
        can be written, or an argument is not text that TensorFlow can open a file by.
    """
    if sys.flags.optimize > 1:
        raise UserError("Beam needs docstrings: unset PYTHONOPTIMIZE, and run Python without -OO")
    try:
        pathlib.Path.cwd()
    except OSError as error:
        raise UserError(
            f"the working folder is gone ({error.strerror}): change to another"
        ) from None
    try:
        tempfile.gettempdir()
    except OSError:
        raise UserError(
            "no folder for temporary files can be written: make room in /tmp, or set TMPDIR to a "
            "folder that can"
        ) from None
    for argument in arguments:
        wrong = any("\ud800" <= letter <= "\udfff" for letter in argument)
        if wrong or (not argument.isascii() and sys.getfilesystemencoding() != "utf-8"):
            raise UserError(
                f"{argument}: is not UTF-8 in this locale; use other names, or set LC_ALL=C.UTF-8"
            )


def while_read(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A function that gives an exit code, ended with `READER_GONE` once its output has no reader.

    Other broken pipes are errors as before.
    """

    @functools.wraps(main)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            code = main(*args, **kwargs)
            print(end="", flush=True)
        except BrokenPipeError:
            if not _has_no_reader(sys.stdout):
                raise
            # What is left to print would be an error at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return READER_GONE
        return code

    return wrapped


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream, 0)
    return bool(poll.poll(0))


def _environment() -> dict[str, str]:
    """Environment variables that keep the user's configuration of libraries away from commands."""
    variables = {
        # Our gRPC stays on this machine or in a cluster; an empty value means no proxy.
        "grpc_proxy": "",
        # No keras.json is there, and none can be written.
        "KERAS_HOME": os.devnull,
        "KERAS_BACKEND": "tensorflow",
        # Our matrices are small: a second thread only waits, and takes its core while it does.
        "OPENBLAS_NUM_THREADS": "1",
    }
    found = importlib.util.find_spec("matplotlib")
    for folder in (found and found.submodule_search_locations) or ():
        variables["MATPLOTLIBRC"] = str(pathlib.Path(folder, "mpl-data", "matplotlibrc"))
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # A user without a name, as in containers; libraries ask for both.
        variables["LOGNAME"] = os.environ.get("LOGNAME") or f"user{os.getuid()}"
        variables["HOME"] = os.environ.get("HOME") or "/"
    return variables


def _open_streams() -> None:
    """Open standard streams that are closed: the next file that is opened would become one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        # Names in other alphabets must not stop a command in a plain locale.
        sys.stdout.reconfigure(errors="backslashreplace")
