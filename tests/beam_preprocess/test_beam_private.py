"""What `beam_preprocess.runner` takes of Beam that is private to it, and what to do when it goes.

Each test fails with a sentence that says what an upgrade of Beam broke. `runner` is imported within
tests: where a name is gone it cannot be imported, and the test of that name says so.
"""

import contextlib
import importlib
import inspect
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions


@contextlib.contextmanager
def private(what, todo):
    """Say what to do where something of Beam is not as it was."""
    try:
        yield
    except (ImportError, AttributeError, TypeError, KeyError, AssertionError) as error:
        pytest.fail(f"Beam {beam.__version__}: {what} ({error}). {todo}")


def of_beam(module, name):
    return getattr(importlib.import_module(f"apache_beam.{module}"), name)


def test_options_of_beam_are_told_from_unknown_arguments():
    with private(
        "its parser of options is no longer _BeamArgumentParser, or takes other arguments",
        "See how PipelineOptions.get_all_options finds unknown arguments, and do the same in "
        "runner.beam_options.",
    ):
        parser = of_beam("options.pipeline_options", "_BeamArgumentParser")(
            exit_on_error=False, add_help=False, allow_abbrev=False
        )
        for group in PipelineOptions.__subclasses__():
            group._add_argparse_args(parser)
        known, unknown = parser.parse_known_args(["--direct_num_workers=2", "--nonsense=1"])
        assert (known.direct_num_workers, unknown) == (2, ["--nonsense=1"])


def test_an_unknown_runner_is_refused_when_it_is_made():
    with (
        private(
            "create_runner no longer raises ValueError for an unknown name",
            "Have runner.beam_options catch what it raises now.",
        ),
        pytest.raises(ValueError, match="Nonsense"),
    ):
        of_beam("runners.runner", "create_runner")("Nonsense")


def test_the_runner_in_this_process_hands_options_to_its_workers():
    with private(
        "FnApiRunner takes its options in another way than by provision_info",
        "See how FnApiRunner starts workers, and give them the options in runner._runner; without "
        "them workers print the stack of each exception.",
    ):
        fn_runner = importlib.import_module(
            "apache_beam.runners.portability.fn_api_runner.fn_runner"
        )
        encode = of_beam("runners.portability.portable_runner", "JobServiceHandle")
        info = of_beam("portability.api", "beam_provision_api_pb2").ProvisionInfo(
            pipeline_options=encode.encode_pipeline_options({"runner": "FnApiRunner"})
        )
        assert "FnApiRunner" in str(info.pipeline_options)
        runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))
        with beam.Pipeline(runner=runner) as pipeline:
            pipeline | beam.Create([1]) | beam.Map(str)


def test_a_handler_of_workers_can_take_the_place_of_beams_own():
    handlers = importlib.import_module(
        "apache_beam.runners.portability.fn_api_runner.worker_handlers"
    )
    with private(
        "handlers of worker processes are registered or made in another way",
        "Make runner._fork_workers do what SubprocessSdkWorkerHandler does in worker_handlers.py, "
        "but for the process that it starts.",
    ):
        urn = of_beam("portability", "python_urns").SUBPROCESS_SDK
        assert urn in handlers.WorkerHandler._registered_environments
        assert issubclass(handlers.SubprocessSdkWorkerHandler, handlers.GrpcWorkerHandler)
        own = inspect.signature(handlers.SubprocessSdkWorkerHandler.__init__).parameters
        shared = inspect.signature(handlers.GrpcWorkerHandler.__init__).parameters
        # Its own first argument is the command, the others are those of all handlers.
        assert [*own][2:] == [*shared][1:]
        source = inspect.getsource(handlers.GrpcWorkerHandler)
        source += inspect.getsource(handlers.WorkerHandler)
        for attribute in ("control_address", "control_conn", "provision_info", "worker_id"):
            assert f"self.{attribute} = " in source or f"def {attribute}(" in source, attribute
        for method in ("start_worker", "stop_worker"):
            assert hasattr(handlers.WorkerHandler, method), method


def test_what_a_dead_worker_was_asked_can_be_answered():
    with private(
        "a connection to a worker keeps its open instructions elsewhere than in _futures_by_id",
        "Find where ControlConnection.push keeps them, for runner._fail_instructions; without it a "
        "job waits for ever when a worker is killed.",
    ):
        handlers = importlib.import_module(
            "apache_beam.runners.portability.fn_api_runner.worker_handlers"
        )
        instruction = of_beam("portability.api", "beam_fn_api_pb2").InstructionRequest(
            instruction_id="one"
        )
        connection = handlers.ControlConnection()
        answer = connection.push(instruction)
        (name,) = connection._futures_by_id
        assert name == "one" and connection._futures_by_id[name] is answer
        response = of_beam("portability.api", "beam_fn_api_pb2").InstructionResponse(
            instruction_id="one", error="dead"
        )
        answer.set(response)
        assert answer.get().error == "dead"


def test_a_worker_finds_its_job_by_variables():
    with private(
        "sdk_worker_main.main is told its job by other variables",
        "See what SubprocessSdkWorker in local_job_service.py sets, and set that in "
        "runner._start_worker.",
    ):
        source = inspect.getsource(importlib.import_module(WORKER))
        for name in ("CONTROL_API_SERVICE_DESCRIPTOR", "PIPELINE_OPTIONS", "WORKER_ID"):
            assert f"'{name}'" in source, name
        assert len(inspect.signature(of_beam(WORKER[12:], "main")).parameters) == 1


WORKER = "apache_beam.runners.worker.sdk_worker_main"


def test_all_that_workers_import_is_there():
    """The process that they are forked from passes over what it cannot import."""
    from beam_preprocess import workers

    assert WORKER in workers.IMPORTED
    for name in workers.IMPORTED:
        with private(f"{name} is gone", "Name what runner._work imports in workers.IMPORTED."):
            importlib.import_module(name)


def fail(error):
    """What a step of a pipeline raises, by way of `write_shard_in_worker`."""
    from beam_preprocess import runner

    def write_shard(task):
        raise error

    written, runner.write_shard = runner.write_shard, write_shard
    try:
        runner.write_shard_in_worker(None)
    finally:
        runner.write_shard = written


def test_what_a_worker_raises_comes_back_as_it_was():
    """By its text, to which Beam adds something, and which may have any characters."""
    from beam_preprocess import runner
    from ixi_tfds.system.errors import ScanError, UserError

    errors = [
        UserError("gs://b/x: the storage refuses \u2603 '[while running \"\n"),
        OSError(28, "No space left on device", "/w/a b"),
        OSError(24, "Too many open files"),
        ScanError("constant", "/w/x.nii", "every voxel is 0"),
    ]
    for error in errors:
        with (
            private(
                "the text of what a worker raises is no longer in what the pipeline raises",
                "Find where it is now, for runner.raise_worker_error.",
            ),
            pytest.raises((UserError, OSError)) as caught,
        ):
            try:
                with beam.Pipeline(runner="FnApiRunner") as pipeline:
                    pipeline | beam.Create([error]) | beam.Map(fail)
            except Exception as found:
                runner.raise_worker_error(found)
                raise AssertionError(found) from found
        told = caught.value
        if isinstance(error, OSError):
            assert type(told) is type(error)
            assert (told.errno, told.filename) == (error.errno, error.filename)
            assert told.strerror == error.strerror
        else:
            strict = "--strict: " if isinstance(error, ScanError) else ""
            assert type(told) is UserError and str(told) == f"{strict}{error}"


def test_other_errors_are_left_as_they_are():
    from beam_preprocess import runner

    for error in (ValueError("a bug"), OSError("no number"), RuntimeError("beam_preprocess<?>")):
        assert runner.raise_worker_error(error) is None
        if not isinstance(error, RuntimeError):
            with pytest.raises(type(error)) as caught:
                fail(error)
            assert caught.value is error


@pytest.mark.parametrize("module", ["plan", "shards", "make", "verify", "repair", "workers"])
def test_modules_that_need_no_beam_do_not_import_it(module):
    code = f"import sys, beam_preprocess.{module}; print('apache_beam' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
