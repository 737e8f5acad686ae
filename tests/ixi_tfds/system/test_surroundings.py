import os
import pathlib
import subprocess
import sys

import pytest

from ixi_tfds.system import surroundings
from ixi_tfds.system.errors import UserError

SHOW = """
import os, sys, tempfile, warnings
from ixi_tfds.system import surroundings
surroundings.settle()
"""


def python(code, *before, **environment):
    """A new interpreter that has settled and runs code; `before` is shell code before its start."""
    command = " ".join([*before, 'exec "$0" -c "$1"'])
    return subprocess.run(
        ["sh", "-c", command, sys.executable, SHOW + code],
        env={**os.environ, "IXI_TFDS_WITHOUT_BUILDER": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("python -m trainer --epochs=1", True),
        ("python -X utf8 -m evaluator.score", True),
        ("python -mixi_tfds cohort", True),
        ("python -m pytest tests/trainer -m trainers", False),
        ("python -m ipykernel_launcher", False),
        ("python -I -um trainer", True),
        ("python -W error -c pass -m trainer", False),
        ("python script.py -m trainer", False),
        ("python", False),
    ],
)
def test_only_commands_settle_their_surroundings(command, ours):
    assert surroundings.is_command(command.split()) == ours


def test_a_program_that_imports_the_packages_keeps_its_own():
    code = "import ixi_tfds, os; print(os.environ['MPLBACKEND'], 'KERAS_HOME' in os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": "module://mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["module://mine", "False"]


def test_a_backend_of_a_notebook_and_a_style_of_the_user_do_not_reach_matplotlib(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True\nfont.size: 30\n\xff\n")
    code = "import matplotlib; print(matplotlib.rcParams['font.size'])"
    backend = "module://matplotlib_inline.backend_inline"
    done = python(code, MPLBACKEND=backend, MATPLOTLIBRC=str(tmp_path), MPLCONFIGDIR=str(tmp_path))
    assert (done.stdout.strip(), done.returncode) == ("10.0", 0), done.stderr


def test_a_command_looks_for_no_garbage_at_its_end_and_still_writes_what_it_has_to(tmp_path):
    code = f"""
import atexit
class Node:
    def __del__(self):
        print("collected")
node = Node()
node.itself = node
kept = open({str(tmp_path / "kept")!r}, "w")
kept.write("all of it")
atexit.register(print, "last words")
"""
    done = python(code)
    assert (done.stdout, done.returncode) == ("last words\n", 0), done.stderr
    assert (tmp_path / "kept").read_text() == "all of it"


def test_a_command_multiplies_matrices_on_one_thread():
    code = (
        "import numpy, threadpoolctl as t; print({p['num_threads'] for p in t.threadpool_info()})"
    )
    done = python(code, OPENBLAS_NUM_THREADS="2")
    assert done.stdout.strip() == "{1}", done.stderr


def test_a_proxy_does_not_stand_between_processes_of_one_machine():
    code = """
import concurrent.futures, grpc
server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
port = server.add_insecure_port("localhost:0")
server.start()
grpc.channel_ready_future(grpc.insecure_channel(f"localhost:{port}")).result(timeout=20)
print("connected")
"""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    done = python(code, **proxies)
    assert done.stdout.strip() == "connected", done.stderr


def test_remarks_of_libraries_are_no_errors():
    code = "warnings.warn('old', DeprecationWarning); print('PYTHONWARNINGS' in os.environ)"
    done = python(code, PYTHONWARNINGS="error")
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_the_owner_can_read_what_is_written_and_others_what_the_user_allows(tmp_path):
    code = f"open({str(tmp_path / 'file')!r}, 'w').close()"
    assert python(code, "umask 727;").returncode == 0
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_closed_stream_is_not_taken_by_the_next_file():
    code = "number = os.open(os.devnull, os.O_RDONLY); print(number, file=sys.stderr)"
    done = python(code + "; sys.stdin.read(); print('é')", "exec <&- >&-;")
    assert int(done.stderr) > 2 and done.returncode == 0
    code = (
        "number = os.open(os.devnull, os.O_RDONLY); print('oops', file=sys.stderr); print(number)"
    )
    assert int(python(code, "exec 2>&-;").stdout) > 2


def test_names_in_other_alphabets_are_printed_in_a_plain_locale():
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python("print('caf\\u00e9')", **plain)
    assert (done.stdout, done.returncode) == ("caf\\xe9\n", 0)


@pytest.mark.skipif(os.getuid() != 0, reason="needs the rights to be another user")
def test_a_user_without_a_name_has_one_for_libraries():
    code = "import getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())"
    done = python(
        "os.setuid(54321); surroundings.settle();" + code, "unset HOME LOGNAME USER LNAME USERNAME;"
    )
    assert done.stdout.split() == ["user54321", "/"], done.stderr


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(UserError, match="the working folder is gone"):
        surroundings.check([])


def test_no_folder_for_temporary_files_is_said(monkeypatch):
    def none(*_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(surroundings.tempfile, "gettempdir", none)
    with pytest.raises(UserError, match="set TMPDIR"):
        surroundings.check([])


def test_paths_that_are_no_text_are_refused_with_the_reason(monkeypatch):
    surroundings.check(["--workdir=caf\u00e9", "--data_dir=x"])
    with pytest.raises(UserError, match="is not UTF-8"):
        surroundings.check([os.fsdecode(b"--workdir=\xff")])
    monkeypatch.setattr(surroundings.sys, "getfilesystemencoding", lambda: "iso8859-1")
    surroundings.check(["--workdir=cafe"])
    with pytest.raises(UserError, match=r"LC_ALL=C\.UTF-8"):
        surroundings.check(["--workdir=caf\u00e9"])


def test_a_reader_that_has_gone_ends_a_command_without_a_traceback(tmp_path):
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m trainer --help | true; echo "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    assert (done.stdout.strip(), done.stderr) == ("141", "")
