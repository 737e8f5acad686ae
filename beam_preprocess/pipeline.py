"""The Beam graph, and which runner runs it."""

import logging
from argparse import ArgumentError
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.portability.api import beam_provision_api_pb2 as provision_api
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_preprocess import workers
from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.errors import UserError

# Beam logs the stack of each exception, and then raises it anyway.
_QUIET_WORKERS = ("--default_sdk_harness_log_level=CRITICAL",)
_IN_PROCESS = (None, "DirectRunner", "FnApiRunner")


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options out of the arguments that are not flags of ours.

    Raises:
      UserError: an argument that Beam does not know either, or an unknown runner.
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
    # Other runners may know other levels: Flink's refuses a job that names this one.
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
    """Write every shard by Beam, and return when all are written.

    Slices never travel through Beam: a task names its scans, and one worker reads them and writes
    the shard, so memory does not grow with the cohort.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    pipeline = beam.Pipeline(runner=_runner(options), options=options)
    _ = (
        pipeline
        | "List shards" >> beam.Create(list(tasks))
        # Without a shuffle here, one worker would be given all of the tasks.
        | "Deal shards to workers" >> beam.Reshuffle()
        | "Write shard" >> beam.Map(write_shard)
    )
    pipeline.run().wait_until_finish()


def _runner(options: PipelineOptions) -> PipelineRunner | None:
    """Beam's own in-process runner unless another is named.

    It is chosen explicitly because what Beam takes by default first tries to download the binary of
    another runner.
    """
    given = options.get_all_options()
    if given["runner"] not in _IN_PROCESS:
        return None
    if given["direct_running_mode"] == "multi_processing":
        workers.use_for_direct_runner()
    # Without the options, worker processes log at a level of their own.
    provision = provision_api.ProvisionInfo(
        pipeline_options=JobServiceHandle.encode_pipeline_options(given)
    )
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
