"""The process that workers on this machine are forked from.

Beam itself starts a new interpreter for each worker, which imports Beam for seconds. This module
has no slow imports, so the process can start before anything else.
"""

import multiprocessing
import os
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = (
    "beam_preprocess.quiet",
    "apache_beam.runners.worker.sdk_worker_main",
    "beam_preprocess.runner",
)
"""The modules that are imported, in this order, before workers are forked."""


def get_ready() -> None:
    """Start the process and its imports; it ends with the current process."""
    CONTEXT.set_forkserver_preload(list(IMPORTED))
    # Workers do not need the builder, whose import of TFDS takes half a second.
    os.environ["IXI_TFDS_WITHOUT_BUILDER"] = "1"
    forkserver.ensure_running()
    del os.environ["IXI_TFDS_WITHOUT_BUILDER"]
