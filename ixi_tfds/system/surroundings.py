"""The user's surroundings: environment variables, configuration files, folders and streams.

What would change or stop a command is set once, when its process starts; what cannot be set is
checked before its work. A program that imports the packages keeps its own surroundings.
"""

import importlib.util
import os
import pathlib
import pwd
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence

from ixi_tfds.system.errors import UserError

_PACKAGES = ("ixi_tfds", "beam_preprocess", "trainer", "evaluator")
_OWNER = 0o700

READER_GONE = 141
"""Exit code after the reader of the output has gone, as shells count it: 128 + SIGPIPE."""


def is_command(arguments: Sequence[str]) -> bool:
    """Whether the arguments of an interpreter run a command of ours: `python -m PACKAGE`."""
    named = re.search(r"(?:^|\0)-m\0?([\w.]+)", "\0".join(arguments[1:]))
    return named is not None and named[1].partition(".")[0] in _PACKAGES


def settle() -> None:
    """Set what libraries take from the user's surroundings, for this process and its children.

    It has to be called before anything imports matplotlib, Keras or gRPC.
    """
    _open_streams()
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
      UserError: the working folder is gone, no temporary folder can be written, or an argument is
        not text that TensorFlow can open a file by.
    """
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


def reader_has_gone() -> bool:
    """Whether nobody reads the standard output any more; then what is left for it is dropped."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _environment() -> dict[str, str]:
    """Environment variables that keep the user's configuration of libraries away from commands."""
    variables = {
        # Our gRPC stays on this machine or in a cluster; an empty value means no proxy.
        "grpc_proxy": "",
        # No keras.json is there, and none can be written.
        "KERAS_HOME": os.devnull,
        "KERAS_BACKEND": "tensorflow",
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
