"""Runs of the trainer in processes of their own, without the seconds TensorFlow takes to import.

A server process imports the trainer once; each run is a fork of it, made before TensorFlow has
touched any device, so it is as fresh as a new interpreter.
"""

import multiprocessing
import os
import pathlib
import sys

# The server inherits it, and TensorFlow reads it when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["trainer.training", "trainer.__main__"])


def _run(argv, environment, log):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
    from trainer.__main__ import run

    sys.exit(run(argv))


def start(argv: list[str], log: pathlib.Path, environment: dict[str, str] | None = None):
    """Start `python -m trainer`, stdout and stderr to `log`; gives a `multiprocessing.Process`."""
    process = _CONTEXT.Process(target=_run, args=(argv, environment or {}, str(log)))
    process.start()
    return process
