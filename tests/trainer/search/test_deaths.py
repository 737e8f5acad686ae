import os
import signal
import subprocess
import sys

import pytest

from trainer.search import deaths

TRIAL = """
import os, pathlib, signal, sys
from trainer.search import deaths
with deaths.counted(pathlib.Path(sys.argv[1]), int(sys.argv[2])):
    exec(sys.argv[3])
"""
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"


def run(folder, end, epochs_done=0, before=""):
    """Start a trial in a process that ends by this code; returns the last line of its errors."""
    done = subprocess.run(
        [sys.executable, "-c", before + TRIAL, str(folder), str(epochs_done), end],
        env=os.environ | {"IXI_TFDS_WITHOUT_BUILDER": "1"},
        capture_output=True,
        text=True,
    )
    return done.stderr.strip().rpartition("\n")[2]


def failed(error):
    return "the process died 2 times in this trial without finishing an epoch" in error


@pytest.mark.parametrize("end", ["os.abort()", CRASH, "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_third_start_after_two_deaths_is_refused(end, tmp_path):
    assert [failed(run(tmp_path, end)) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    "end", ["raise KeyError", "pass", *(f"signal.raise_signal({n})" for n in (1, 2, 15))]
)
def test_an_interruption_or_an_error_is_no_death(end, tmp_path):
    """SIGHUP, SIGINT and SIGTERM included: a search may be stopped and resumed for ever."""
    assert not any(failed(run(tmp_path, end)) for _ in range(3))
    # Nor does it forget a death before it, or count as one after it.
    assert [failed(run(tmp_path, code)) for code in (CRASH, end, CRASH, "")] == [*[False] * 3, True]


def test_deaths_before_the_last_whole_epoch_do_not_count(tmp_path):
    starts = [(CRASH, 0), (CRASH, 1), (CRASH, 2), (CRASH, 2), (CRASH, 2)]
    assert [failed(run(tmp_path, *each)) for each in starts] == [*[False] * 4, True]


def test_a_signal_that_the_user_has_nohup_ignore_stays_ignored(tmp_path):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    end = "signal.raise_signal(signal.SIGHUP); print('went on', file=sys.stderr)"
    assert run(tmp_path, end, before=ignoring) == "went on"


def test_signals_are_as_before_after_a_trial(tmp_path):
    with deaths.counted(tmp_path, 0):
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
