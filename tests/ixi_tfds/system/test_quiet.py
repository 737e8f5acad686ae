"""What reaches standard error while TensorFlow is imported; a made-up module stands for it."""

import ctypes.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from ixi_tfds.system import quiet

# As TensorFlow 2.15 and 2.21 write them.
CHATTER = """\
2026-11-26 11:55:55.99: I tensorflow/core/util/port.cc:113] oneDNN custom operations are on. You may
2026-11-26 11:55:55.99: I external/local_tsl/tsl/cuda/cudart_stub.cc:31] Could not find cuda \
drivers on your machine, GPU will not be used.
2026-11-26 11:55:56.16: E external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc:9261] Unable to \
register cuDNN factory: Attempting to register factory for plugin cuDNN when one has already been
2026-11-26 11:55:56.17: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:607] Unable to \
register cuFFT factory: Attempting to register factory for plugin cuFFT when one has already been
2026-11-26 11:55:56.17: E external/local_xla/xla/stream_executor/cuda/cuda_blas.cc:1515] Unable to \
register cuBLAS factory: Attempting to register factory for plugin cuBLAS when one has already been
2026-11-26 11:55:56.21: I tensorflow/core/platform/cpu_feature_guard.cc:182] This TensorFlow \
binary is optimized to use available CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 FMA, in other operations, rebuild \
TensorFlow with the appropriate compiler flags.
2026-11-26 11:56:08.49: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning: \
Could not find TensorRT
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795694216.683065    1356 port.cc:153] oneDNN custom operations are on. You may see
I0000 00:00:1795694216.683386    1356 cudart_stub.cc:31] Could not find cuda drivers on your \
machine, GPU will not be used.
W0000 00:00:1795694216.683386    1356 computation_placer.cc:177] computation placer already \
registered. Please check linkage and avoid linking the same target more than once.
"""
NO_DRIVER = """\
E0000 00:00:1795694257.468652    1356 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA \
error: Failed call to cuInit: UNKNOWN ERROR (303)
"""
NEWS = "E0000 00:00:1795694257.468652    1356 cuda_dnn.cc:52] Loaded runtime cuDNN library: 8.0.5\n"
MODULE = f"""
import os, sys, types
chatter, no_driver, news = {CHATTER!r}, {NO_DRIVER!r}, {NEWS!r}
def say(text):
    os.write(2, text.encode())
def look(kind):
    say(no_driver)
    print("looked for", kind)
config = types.SimpleNamespace(list_physical_devices=look)
"""


@pytest.fixture
def importing(tmp_path):
    """Runs a program that imports our package and then a tensorflow of the given code."""

    def run(code, *, before="", after="", stderr=subprocess.PIPE, **variables):
        (tmp_path / "tensorflow.py").write_text(MODULE + textwrap.dedent(code))
        program = f"import ixi_tfds, sys\n{before}\nimport tensorflow\n{after}"
        path = os.pathsep.join([str(tmp_path), str(pathlib.Path(quiet.__file__).parents[2])])
        environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        environment |= {"PYTHONPATH": path, "IXI_TFDS_WITHOUT_BUILDER": "1", **variables}
        # Two codes of one length in one second would be one to Python's cache.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60
        )

    return run


def test_chatter_is_left_out_and_all_else_arrives_in_its_order(importing):
    done = importing(
        "say(chatter + news + chatter); print('warning: ours', file=sys.stderr); say('no end of ')",
        before="print('before', file=sys.stderr)",
        after="print('after', file=sys.stderr)",
    )
    assert done.stderr == f"before\n{NEWS}warning: ours\nno end of {NO_DRIVER}after\n"
    assert done.returncode == 0


def test_what_is_said_before_an_abort_arrives(importing):
    """As on a processor without AVX."""
    fatal = "F0000 00:00:1.2 3 cpu_feature_guard.cc:87] compiled to use AVX instructions\n"
    done = importing(f"say(chatter + {fatal!r}); os.abort()")
    assert done.stderr == fatal and done.returncode == -signal.SIGABRT


def test_an_import_that_fails_has_its_traceback_after_what_was_said(importing):
    done = importing("say(chatter + news); raise ImportError('libtensorflow is damaged')")
    assert done.stderr.startswith(f"{NEWS}Traceback")
    assert done.stderr.endswith("ImportError: libtensorflow is damaged\n")


@pytest.mark.parametrize("level", ["0", "1"])
def test_who_asks_for_the_lines_gets_them(importing, level):
    done = importing("say(chatter)", TF_CPP_MIN_LOG_LEVEL=level)
    assert done.stderr == CHATTER


def test_standard_error_is_the_users_again_afterwards(importing):
    done = importing("", before="import os; one = os.fstat(2)", after="print(os.fstat(2) == one)")
    assert done.stdout.endswith("True\n")


def test_without_a_driver_its_absence_is_not_told_at_the_first_operation(importing):
    """It is asked for in the import; whoever has a driver hears what it says."""
    done = importing("")
    assert (done.stdout, done.stderr) == ("looked for GPU\n", "")


def test_a_driver_is_not_touched(importing, tmp_path):
    """A process that has begun to use CUDA cannot be forked."""
    name = ctypes.util.find_library("m")
    mapped = "import ctypes; ctypes.CDLL({!r}); print(open('/proc/self/maps').read())"
    maps = subprocess.check_output([sys.executable, "-c", mapped.format(name)], text=True)
    real = next(word for word in maps.split() if pathlib.Path(word).name == name)
    shutil.copy(real, tmp_path / "libcuda.so.1")
    assert importing("", LD_LIBRARY_PATH=str(tmp_path)).stdout == ""


@pytest.mark.parametrize("before", ["", "import gc; gc.disable()"])
def test_no_garbage_is_looked_for_while_tensorflow_is_imported(importing, before):
    """A collection that is due comes afterwards, if the program has any."""
    code = """
        import gc
        gc.callbacks.append(lambda phase, info: print("collects"))
        made = [[] for _ in range(100_000)]
        gc.callbacks.clear()
        def say(text): pass
    """
    done = importing(code, before=before, after="import gc; print(gc.isenabled())")
    assert done.stdout.splitlines() == ["looked for GPU", str(not before)], done.stderr


def test_where_no_filter_can_run_all_lines_pass(importing):
    done = importing("say(chatter + news)", before="sys.executable = ''")
    assert done.stderr == CHATTER + NEWS + NO_DRIVER
    assert importing("def say(text): pass", before="import os; os.close(2)").returncode == 0


@pytest.mark.parametrize(("variables", "level"), [({}, "2"), ({"TF_CONFIG": "{}"}, "3")])
def test_errors_are_shown_but_for_those_of_a_cluster(importing, variables, level):
    tell = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    assert importing("def say(text): pass", before=tell, **variables).stdout.startswith(level)


def test_a_process_that_outlives_the_import_does_not_hold_it_up(importing):
    done = importing(
        "import subprocess; subprocess.Popen(['sleep', '5'], stdout=-3); say(news)",
        before="import time; began = time.time()",
        after="print(time.time() - began < 4)",
    )
    assert done.stdout.endswith("True\n") and done.stderr == NEWS
