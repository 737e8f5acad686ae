"""Counts the deaths of processes in a trial, so that a search does not die of one for ever.

An exception, an interruption (Ctrl-C), SIGTERM and SIGHUP are no deaths of a trial. A crash, the
kernel's out-of-memory killer and `kill -9` cannot be told apart, so each counts.
"""

import contextlib
import pathlib
import signal
from collections.abc import Iterator

from ixi_tfds.system import files

MOST = 2
"""Deaths after which a trial has failed."""

_STOPS = (signal.SIGTERM, signal.SIGHUP)


class DiedError(Exception):
    """The process has died too often in a trial."""


@contextlib.contextmanager
def counted(folder: pathlib.Path, epochs_done: int) -> Iterator[None]:
    """Count a start of a trial in its folder, and take it back unless the process dies.

    Deaths count until the next finished epoch: a trial that gets further goes on.

    Raises:
      DiedError: the process has died twice since epoch `epochs_done`.
    """
    path = folder / "deaths.txt"
    former = path.read_text() if path.exists() else ""
    if former.split().count(str(epochs_done)) >= MOST:
        raise DiedError(f"the process died {MOST} times in this trial without finishing an epoch")
    files.write_text(path, f"{former}{epochs_done}\n")
    try:
        with _stops_as_interruptions():
            yield
    finally:
        files.write_text(path, former)


@contextlib.contextmanager
def _stops_as_interruptions() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at a signal that asks to end, if nobody ignores or handles it."""
    ours = [number for number in _STOPS if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
