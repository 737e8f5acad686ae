"""Runs of our commands in processes of their own, without the seconds TensorFlow takes to import.

A server process imports them once; each run is a fork of it, made before TensorFlow has
touched any device, so it is as fresh as a new interpreter.
"""

import functools
import importlib
import itertools
import multiprocessing
import os
import pathlib
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        # First: it chooses Keras and keeps TensorFlow quiet.
        "ixi_tfds",
        *("trainer.run", "trainer.__main__", "evaluator.evaluation", "evaluator.__main__"),
        *("beam_preprocess.__main__", "beam_preprocess.job", "beam_preprocess.make"),
    ]
)


def start(
    argv: list[str],
    log: pathlib.Path,
    *before: Callable[[], None],
    environment: dict[str, str] | None = None,
    module: str = "trainer",
):
    """Start `python -m trainer`, or another of our commands.

    Args:
      argv: the flags.
      log: a file that gets stdout and stderr, after what it holds.
      before: what to call first in the new process; functions of a module, or partials of them.
      environment: variables to set.
      module: whose `__main__.run` to call.

    Returns:
      A `multiprocessing.Process`.
    """
    process = _CONTEXT.Process(
        target=_run, args=(argv, str(log), before, environment or {}, module)
    )
    process.start()
    return process


def finish(*processes, seconds: float = 240) -> list[int]:
    """Exit codes of processes, -9 where one was killed; kills what does not end in time."""
    for process in processes:
        process.join(seconds)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {len(processes)} processes did not end in {seconds} s"
    return [process.exitcode for process in processes]


def _run(argv, log, before, environment, module):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
    run = importlib.import_module(f"{module}.__main__").run
    for function in before:
        function()
    sys.exit(run(argv))


def record(path: pathlib.Path) -> None:
    """Write a line for each replica's share of each step, from within the step: see `records`."""
    import tensorflow as tf

    from trainer.autoencoder import Autoencoder

    here = threading.local()  # Each replica is traced in a thread of its own.

    def spied(name, step):
        @functools.wraps(step)
        def spy(self, data):
            here.seen = name, data
            return step(self, data)

        return spy

    losses_of = Autoencoder.losses_of

    def noted(self, clean, reconstruction):
        losses = losses_of(self, clean, reconstruction)
        name, data = here.seen
        _, height, width, _ = data["image"].shape
        pixels = tf.cast(tf.reshape(data["image"], (-1, height * width)), tf.int64)
        # Modulo 2^64, so that places weigh differently whatever their distance.
        weights = tf.range(1, height * width + 1, dtype=tf.int64) ** 7 * 2 + 1
        digests = tf.reduce_sum(pixels * weights, axis=1)
        # Losses as the integers that their bits are.
        values = tf.stack([data["index"], digests, tf.cast(tf.bitcast(losses, tf.int32), tf.int64)])
        stream = f"file://{path}"
        tf.print(name, tf.reshape(values, [-1]), summarize=-1, output_stream=stream)
        return losses

    Autoencoder.losses_of = noted
    Autoencoder.train_step = spied("train", Autoencoder.train_step)
    Autoencoder.test_step = spied("test", Autoencoder.test_step)


def records(path: pathlib.Path, step: str) -> list[tuple[int, int, float]]:
    """Of each row that steps of the kind "train" or "test" took, in their order: its index in the
    order of all slices, a number that stands for the image, and its loss.
    """
    rows: list[tuple[int, int, float]] = []
    for line in path.read_text().splitlines():
        name, _, values = line.partition(" ")
        if name == step:
            index, digests, bits = np.array(values.strip("[]").split(), np.int64).reshape(3, -1)
            losses = bits.astype(np.int32).view(np.float32)
            rows += zip(index.tolist(), digests.tolist(), losses.tolist(), strict=True)
    return rows


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(name: str, text: str = "", *, done: float) -> None:
    """Die at a call of the function `name`, its module included, with `text` in its arguments.

    Args:
      name: such as `pathlib.Path.rename`.
      text: of the call to wait for.
      done: 0 to die before the call, 1 after it, 0.5 when half of what `Path.write_bytes` is to
        write is written.
    """
    owner = pkgutil.resolve_name(name.rpartition(".")[0])
    function = getattr(owner, name.rpartition(".")[2])

    def deadly(*args, **kwargs):
        if text not in str(args):
            return function(*args, **kwargs)
        if done == 0.5:
            path, whole = args
            function(path, whole[: len(whole) // 2])
        elif done:
            function(*args, **kwargs)
        die()

    setattr(owner, function.__name__, deadly)


_TOUCHES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.listdir"}


def _is_touch(event, args, folder):
    if event not in _TOUCHES:
        return False
    where = str(args[:2])
    # Trees are removed by names relative to an open folder.
    if event in ("os.remove", "os.rmdir") and args[1] >= 0:
        where += str(pathlib.Path(f"/proc/self/fd/{args[1]}").readlink())
    return str(folder) in where


def count_touches(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Leave in the file `path` how often this process has touched something under a folder."""
    touches = itertools.count(1)
    file = path.open("w")

    def hook(event, args):
        if _is_touch(event, args, folder):
            file.seek(0)
            file.write(f"{next(touches)}")
            file.flush()

    sys.addaudithook(hook)


def die_at_touch(folder: pathlib.Path, number: int) -> None:
    """Die just before something under a folder is opened, made, renamed or removed this often.

    The same moment on any machine, however busy: what only this thread does is done the same way
    each time.
    """
    touches = itertools.count(1)

    def hook(event, args):
        if _is_touch(event, args, folder) and next(touches) == number:
            die()

    sys.addaudithook(hook)


def die_after(seconds: float) -> None:
    """Die after so long, whatever goes on."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def die_at_step(number: int) -> None:
    """Die after so many training steps of this process."""
    from trainer.callbacks import EpochEnd

    steps = []

    def count(self, batch, logs=None):
        steps.append(batch)
        if len(steps) == number:
            die()

    EpochEnd.on_train_batch_end = count


def die_after_step(number: int, steps: float) -> None:
    """Die at any moment, about as long after training step `number` as so many steps take."""
    from trainer.callbacks import EpochEnd

    ends = []

    def count(self, batch, logs=None):
        ends.append(time.monotonic())
        if len(ends) == number:
            # Not from the start: the first step makes the graphs.
            wait = (ends[-1] - ends[0]) / (number - 1) * steps
            timer = threading.Timer(wait, die)
            timer.daemon = True
            timer.start()

    EpochEnd.on_train_batch_end = count
