"""Runs tests against changed code, in copies of the project: the checkout stays as it is.

Each run is a fork of a process that has imported TensorFlow and none of our code, so that it takes
the time of the tests alone.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import forkserver

from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[2]
_FORKSERVER = multiprocessing.get_context("forkserver")
_SLOW_TO_IMPORT = (
    *("tensorflow", "tensorflow_datasets", "tensorflow_addons", "scipy.ndimage"),
    *("sklearn.metrics", "skimage.metrics", "pandas", "matplotlib.pyplot", "pytest"),
)
_RAN = 100
"""What is added to pytest's exit code, so that no other can be taken for it."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A file as it is to be, the tests to run with it, and the seconds they may take."""

    file: str
    text: str
    tests: tuple[str, ...]
    limit: float = 600


def try_all(changes, *, jobs, title):
    """Run each change's tests with it alone; a progress bar shows how far it is.

    Returns:
      For each change, in order, (pytest's exit code, what it printed); the code is None where the
      tests did not end in time, negative where a signal ended them.

    Raises:
      RuntimeError: pytest could not be started.
    """
    # Not above, which the process that is forked runs too: variables and filter are inherited.
    from ixi_tfds.system import quiet

    _FORKSERVER.set_forkserver_preload(["__main__", *_SLOW_TO_IMPORT])
    with quiet.without_chatter():
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as folder:
        copies = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(copy_of_project(pathlib.Path(folder, f"copy{number}")))

        def attempt(change):
            project = copies.get()
            file = project / change.file
            whole = file.read_text()
            try:
                file.write_text(change.text)
                return _run(project, change.tests, change.limit)
            finally:
                file.write_text(whole)
                copies.put(project)

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            results = pool.map(attempt, changes)
            return list(tqdm(results, desc=title, total=len(changes), leave=False))


def copy_of_project(folder):
    """A copy of what git tracks or would track, in a new folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def _run(project, tests, limit):
    log = project.with_suffix(".log")
    process = _FORKSERVER.Process(target=_pytest, args=(str(project), tests, str(log)))
    process.start()
    process.join(limit)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    output = log.read_text(errors="replace") if log.exists() else ""
    if code is not None and 0 <= code < _RAN:
        # Else a fork that could not even start would count as a test that failed.
        raise RuntimeError(f"pytest did not run (exit code {code}): {output[-1000:]}")
    return code if code is None or code < 0 else code - _RAN, output


def _pytest(project, tests, log):
    """Run in the fork, which ends with pytest's exit code."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(project)
    # A changed module may have the size and the second of the one whose place it takes.
    os.environ |= {"PYTHONPATH": project, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, project)
    # Tests that import this module shall get the copy's, whose folder is the copy.
    sys.modules.pop(__name__, None)
    import pytest

    os._exit(_RAN + int(pytest.main(["-x", "-q", "--tb=short", "-p", "no:randomly", *tests])))
