"""The process that workers on this machine are forked from.

Beam itself starts a new interpreter for each worker, which imports Beam for seconds. This module
has no slow imports, so the process can start before anything else.
"""

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = (
    "beam_preprocess.quiet",
    "apache_beam.runners.worker.sdk_worker_main",
    "beam_preprocess.runner",
    # What it imports at first use, each worker anew if not here.
    "scipy.ndimage",
    "scipy.sparse",
    "tensorflow_datasets.proto",
)
"""The modules that are imported, in this order, before workers are forked."""

_ENVIRONMENT = {
    # Workers do not need the builder, whose import of TFDS takes half a second.
    "IXI_TFDS_WITHOUT_BUILDER": "1",
    # Beam calls us from a thread. In a thread's own pool of memory a volume takes 7% more CPU time,
    # because glibc gives that memory back after each volume.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    # glibc before 2.35 refuses more.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}
"""Variables of the workers, unless the user has set them. Other C libraries ignore MALLOC_*."""

_LONGEST = 60
"""Paths of sockets end at 107 characters, and multiprocessing adds up to 40 to this folder's."""


def get_ready() -> None:
    """Start the process and its imports; it ends with the current process."""
    CONTEXT.set_forkserver_preload(list(IMPORTED))
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with room_for_sockets():
            forkserver.ensure_running()
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def room_for_sockets() -> Iterator[None]:
    """Let multiprocessing make its sockets in /tmp if the user's temporary folder has a long path.

    Without any folder for temporary files nothing changes, and the command's checks say so.
    """
    before = tempfile.tempdir
    with contextlib.suppress(OSError):
        if len(tempfile.gettempdir()) > _LONGEST:
            # multiprocessing makes a folder of its own there, which nobody else can read.
            tempfile.tempdir = "/tmp"
    try:
        yield
    finally:
        tempfile.tempdir = before
