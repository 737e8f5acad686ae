"""Worker processes on this machine, forked from one that has imported what they need.

Beam's own way is a new interpreter for each, and importing Beam takes seconds.
"""

import contextlib
import multiprocessing
import os
import pathlib
import sys
import threading
import time
import types
from multiprocessing import forkserver
from typing import Any

_MODULES = ("apache_beam.runners.worker.sdk_worker_main", "beam_preprocess.shards")
LOST = (
    "a worker has been killed, as systems do that run out of memory; run the same command again "
    "to go on, with fewer workers (--direct_num_workers) or a smaller --volumes_per_shard"
)
"""What the error says that ends a job of which a worker died."""

_CONTEXT = multiprocessing.get_context("forkserver")


def get_ready() -> None:
    """Have the process that workers are forked from begin to import; it ends when this one does."""
    _CONTEXT.set_forkserver_preload(list(_MODULES))
    # Workers have no use for the builder, and TFDS takes half a second to import.
    os.environ["IXI_TFDS_WITHOUT_BUILDER"] = "1"
    forkserver.ensure_running()
    del os.environ["IXI_TFDS_WITHOUT_BUILDER"]


def use_for_direct_runner() -> None:
    """Have Beam's in-process runner take such workers in its mode `multi_processing`."""
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    threading.excepthook = _tell
    started = []

    class ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):
        """Starts and stops one worker, as Beam's SubprocessSdkWorkerHandler does."""

        def __init__(self, _command: bytes, *others: Any) -> None:
            super().__init__(*others)

        def start_worker(self) -> None:
            from apache_beam.portability.api import endpoints_pb2
            from google.protobuf import json_format, text_format

            control = endpoints_pb2.ApiServiceDescriptor(url=self.control_address)
            environment = {
                "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(control),
                "PIPELINE_OPTIONS": json_format.MessageToJson(
                    self.provision_info.provision_info.pipeline_options
                ),
                "WORKER_ID": self.worker_id,
            }
            self.process = _CONTEXT.Process(target=_work, args=(environment,), daemon=True)
            # Or it would run the script of whoever calls us, unless that minds its `__name__`.
            main = sys.modules["__main__"]
            sys.modules["__main__"] = types.ModuleType("__main__")
            try:
                self.process.start()
            finally:
                sys.modules["__main__"] = main
            started.append(self.process)
            threading.Thread(target=self.watch, daemon=True).start()

        def watch(self) -> None:
            """Fail the job when a worker dies; Beam would wait for its answers for ever."""
            self.process.join()
            while self.process.exitcode:
                for process in started:
                    process.terminate()
                for name, answer in list(self.control_conn._futures_by_id.items()):
                    answer.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=LOST))
                time.sleep(0.5)

        def stop_worker(self) -> None:
            self.process.join()

    worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(
        ForkedWorkerHandler
    )


def _tell(arguments: threading.ExceptHookArgs) -> None:
    """Python's own hook, but for connections that broke, of which `watch` tells."""
    import grpc

    if not isinstance(arguments.exc_value, grpc.RpcError):
        threading.__excepthook__(arguments)


def _work(environment: dict[str, str]) -> None:
    from apache_beam.runners.worker import sdk_worker_main

    os.environ.update(environment)
    # Beam prints the stack of each exception there, and hands it to the runner anyway.
    with pathlib.Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        sdk_worker_main.main([])
