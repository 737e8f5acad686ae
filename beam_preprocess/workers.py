"""The process that workers on this machine are forked from.

Beam's own way is a new interpreter for each worker, and importing Beam takes seconds. This module
imports nothing that takes time, so that the process can begin before anything else.
"""

import multiprocessing
import os
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ("apache_beam.runners.worker.sdk_worker_main", "beam_preprocess.runner")
"""What workers need, and find imported."""


def get_ready() -> None:
    """Have the process begin to import; it ends when this one does."""
    CONTEXT.set_forkserver_preload(list(IMPORTED))
    # Workers have no use for the builder, and TFDS takes half a second to import.
    os.environ["IXI_TFDS_WITHOUT_BUILDER"] = "1"
    forkserver.ensure_running()
    del os.environ["IXI_TFDS_WITHOUT_BUILDER"]
