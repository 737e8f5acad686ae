"""Beam's pool of Python workers, at one address: `python cluster/workers.py 127.0.0.2:8098`.

Beam's own `worker_pool_main` listens on every address of the machine, and tells workers apart by a
number that each TaskManager counts for itself. So each TaskManager needs a pool to itself, and two
on one machine need two addresses.
"""

import signal
import sys

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

server = grpc.server(shared_unbounded_instance(), options=[("grpc.so_reuseport", 0)])
beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(
    BeamFnExternalWorkerPoolServicer(use_process=True), server
)
server.add_insecure_port(sys.argv[1])
server.start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
