"""Beam: the pipeline, its options, its workers, and the errors that come back from them.

Only this module uses private interfaces of Beam. When an upgrade changes one, a test in
tests/beam_preprocess/test_beam_private.py fails and says what to do.
"""

import base64
import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, endpoints_pb2
from apache_beam.portability.api import beam_provision_api_pb2 as provision_api
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format

from beam_preprocess import workers
from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.system.errors import ScanError, UserError

# Beam logs the stack of each exception and then raises it anyway.
_QUIET_WORKERS = ("--default_sdk_harness_log_level=CRITICAL",)
_IN_PROCESS = (None, "DirectRunner", "FnApiRunner")
_KILLED = (
    "a worker has been killed, perhaps because memory ran out; run the same command again to "
    "resume, with fewer workers (--direct_num_workers) or a smaller --volumes_per_shard"
)
_ENDED = (
    "a worker has ended with code {}, which is no sign of too little memory; run the same command "
    "again to resume, without --direct_running_mode to see the reason"
)


class WorkerError(Exception):
    """An error in a worker; Beam returns only its text, which `_pack` makes."""


def write_shard_in_worker(task: ShardTask) -> None:
    """Write a shard in a worker of Beam.

    Raises:
      WorkerError: for errors of the user and of the operating system.
    """
    try:
        write_shard(task)
    except ScanError as error:
        raise WorkerError(_pack(f"--strict: {error}")) from error
    except UserError as error:
        raise WorkerError(_pack(str(error))) from error
    except OSError as error:
        if error.errno is None:
            raise
        system = (error.errno, error.strerror or "", error.filename and str(error.filename))
        raise WorkerError(_pack(str(error), system)) from error


def write_unclaimed_shards(first: int, tasks: Sequence[ShardTask], claims: str) -> None:
    """Write the shards of `tasks`, from number `first` on and around, that no worker has claimed.

    Beam deals all elements before any is done. So each worker of this machine goes on to what the
    others have not begun, and none waits for a slower one. An empty file in the folder `claims`
    says that a worker has begun a shard. The folder is new in each job, so a job that resumes
    writes again what a killed worker claimed.

    Raises:
      WorkerError: as for `write_shard_in_worker`; the other workers begin no further shard.
    """
    # Who has claimed it goes around all others. Otherwise time would grow as the square of shards.
    if pathlib.Path(claims, tasks[first].file_name).exists():
        return
    for task in (*tasks[first:], *tasks[:first]):
        try:
            pathlib.Path(claims, task.file_name).touch(exist_ok=False)
        except FileExistsError:
            continue
        except FileNotFoundError:
            return
        try:
            write_shard_in_worker(task)
        except BaseException:
            shutil.rmtree(claims, ignore_errors=True)
            raise


def raise_worker_error(error: Exception) -> None:
    """Raise the error of a worker, if the text of an error of Beam contains it.

    Raises:
      UserError: a strict job refuses a volume, or another error of the user.
      OSError: an error of the operating system, with its number and file.
    """
    found = re.search(r"beam_preprocess<([A-Za-z0-9+/=]+)>", str(error))
    if found:
        message, system = json.loads(base64.b64decode(found[1]))
        raise (OSError(*system) if system else UserError(message)) from error


def _pack(message: str, system: tuple[int, str, str | None] | None = None) -> str:
    """A message, with number, text and file of an error of the operating system, as one word."""
    packed = base64.b64encode(json.dumps([message, system]).encode()).decode()
    return f"beam_preprocess<{packed}>"


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """The options of Beam in the arguments that are not flags of beam_preprocess.

    Raises:
      UserError: Beam does not know an argument or the runner, or cannot use a value.
    """
    parser = _BeamArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(list(arguments))
    except (ArgumentError, SystemExit) as error:
        raise UserError(f"an option of Beam cannot be used: {error}") from error
    if unknown:
        raise UserError(
            f"unknown argument {unknown[0]!r}: neither a flag of beam_preprocess (see --help) nor "
            "an option of Apache Beam"
        )
    named = PipelineOptions(list(arguments)).get_all_options()["runner"]
    # Other runners may have other levels; that of Flink refuses a job with this one.
    quiet = _QUIET_WORKERS if named in _IN_PROCESS else ()
    options = PipelineOptions([*quiet, *arguments])
    try:
        create_runner(named or "FnApiRunner")
    except (ValueError, ImportError) as error:
        raise UserError(f"--runner={named}: {error}") from error
    if options.get_all_options()["direct_num_workers"] < 0:
        raise UserError("--direct_num_workers: must be 0 (all cores) or more")
    return options


def write_shards(tasks: Sequence[ShardTask], options: PipelineOptions) -> None:
    """Write all shards with Beam.

    Beam passes on tasks, not slices: one worker reads the scans of a task and writes the shard, so
    memory does not grow with the cohort.

    Raises:
      UserError: a strict task refuses a volume, or a worker was killed.
      OSError: a scan has vanished, or reading or writing fails.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as claims:
        pipeline = beam.Pipeline(runner=_runner(options), options=options)
        if _forks(options):
            elements: Sequence[Any] = range(len(tasks))
            step = beam.Map(write_unclaimed_shards, tuple(tasks), claims)
        else:
            elements, step = tasks, beam.Map(write_shard_in_worker)
        # Without a shuffle here, one worker would get all tasks.
        dealt = pipeline | "List shards" >> beam.Create(list(elements)) | beam.Reshuffle()
        _ = dealt | "Write shard" >> step
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:
            raise_worker_error(error)
            raise


def _forks(options: PipelineOptions) -> bool:
    """Whether the workers are processes of this machine that `_fork_workers` starts."""
    given = options.get_all_options()
    in_process = given["runner"] in _IN_PROCESS
    return in_process and given["direct_running_mode"] == "multi_processing"


def _runner(options: PipelineOptions) -> PipelineRunner | None:
    """Beam's in-process runner, or None if the options name another one.

    The default runner of Beam would first try to download the binary of another runner.
    """
    given = options.get_all_options()
    if given["runner"] not in _IN_PROCESS:
        return None
    if _forks(options):
        _fork_workers()
    # Without the options, worker processes would log at another level.
    provision = provision_api.ProvisionInfo(
        pipeline_options=JobServiceHandle.encode_pipeline_options(given)
    )
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))


def _fork_workers() -> None:
    """Make Beam's in-process runner fork its workers in its mode `multi_processing`."""
    threading.excepthook = _print_unless_disconnected
    started: list[Any] = []
    failed: list[int] = []

    class ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):
        """Starts and stops one worker, as Beam's SubprocessSdkWorkerHandler does."""

        def __init__(self, _command: bytes, *others: Any) -> None:
            super().__init__(*others)

        def start_worker(self) -> None:
            self.process = _start_worker(self)
            started.append(self.process)
            threading.Thread(target=self.watch, daemon=True).start()

        def watch(self) -> None:
            self.process.join()
            while self.process.exitcode:
                failed.append(self.process.exitcode)
                for process in started:
                    process.terminate()
                # The first that ended is the cause: we end the others.
                _fail_instructions(self, failed[0])
                time.sleep(0.5)

        def stop_worker(self) -> None:
            self.process.join()

    worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(
        ForkedWorkerHandler
    )


def _start_worker(handler: Any) -> Any:
    """Start the process of a worker, with the environment variables that Beam's worker reads."""
    control = endpoints_pb2.ApiServiceDescriptor(url=handler.control_address)
    options = handler.provision_info.provision_info.pipeline_options
    environment = {
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(control),
        "PIPELINE_OPTIONS": json_format.MessageToJson(options),
        "WORKER_ID": handler.worker_id,
        # It connects to this machine; an empty value means no proxy.
        "grpc_proxy": "",
    }
    process = workers.CONTEXT.Process(target=_work, args=(environment,), daemon=True)
    # Otherwise the worker would run a calling script that does not check its `__name__`.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with workers.room_for_sockets():
            process.start()
    finally:
        sys.modules["__main__"] = main
    return process


def _fail_instructions(handler: Any, code: int) -> None:
    """Answer the requests to a dead worker with an error; Beam would wait for ever.

    `code` is the exit code of the worker that ended first.
    """
    error = _pack(_KILLED if code == -signal.SIGKILL else _ENDED.format(code))
    for name, answer in list(handler.control_conn._futures_by_id.items()):
        answer.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=error))


def _print_unless_disconnected(arguments: threading.ExceptHookArgs) -> None:
    """Print errors of threads as Python does, except broken connections, which `watch` reports."""
    if not isinstance(arguments.exc_value, grpc.RpcError):
        threading.__excepthook__(arguments)


def _work(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # Beam prints the stack of each exception there and passes it to the runner anyway.
    with pathlib.Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        sdk_worker_main.main([])
