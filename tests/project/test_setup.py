"""`make setup`, with stand-ins for the Pythons, uv and the NVIDIA driver: nothing is installed."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = "sh make cat cksum cp dirname flock ln ls mkdir mv pwd readlink rm sed sleep uname"
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*version_info*) echo {version} ;;
  "-c "*base_prefix*) echo "{base}" ;;
  "-c "*ensurepip*) exit {without_venv} ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    echo "$0 $* PIP_USER=$PIP_USER PYTHONPATH=$PYTHONPATH" >> "{base}/installs"
    while [ -e "{base}/hold" ]; do sleep 0.01; done
    [ ! -e "{base}/broken" ] ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >> "{base}/installs"
for folder; do :; done
mkdir -p "$folder/bin" && cp "{base}/bin/fetched" "$folder/bin/python"
"""
DRIVER = pytest.mark.skipif(pathlib.Path("/proc/driver/nvidia").exists(), reason="a real driver")


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def stand_in(base, version, *, without_venv=False, name=None):
    values = {"base": base, "version": version, "without_venv": int(without_venv)}
    script(base / "bin" / (name or f"python{version}"), PYTHON.format(**values))


def shim(base, version):
    script(base / f"bin/python{version}", "#!/bin/sh\necho 'pyenv: not found' >&2\nexit 127\n")


def uv(base):
    stand_in(base, "3.12", name="fetched")
    script(base / "bin/uv", UV.format(base=base))


@pytest.fixture
def project(tmp_path):
    """A copy of what setup reads, in a folder with a space, and a PATH without any Python."""
    copy = tmp_path / "my project"
    copy.mkdir()
    shutil.copytree(ROOT / "requirements", copy / "requirements")
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS.split():
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return copy


def command(project, *variables, **environment):
    return {
        "args": ["make", "setup", *variables],
        "cwd": project,
        "env": {"PATH": str(project.parent / "bin"), **environment},
        "text": True,
    }


def setup(project, *variables, **environment):
    return subprocess.run(**command(project, *variables, **environment), capture_output=True)


def installs(project):
    """What pip and uv were asked for since the last call."""
    log = project.parent / "installs"
    lines = log.read_text().replace(f"{project.parent}/", "").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def one_error(done):
    assert done.returncode == 2
    (line,) = [each for each in done.stderr.splitlines() if not each.startswith("make")]
    assert line.startswith("error: ")
    return line


@DRIVER
def test_the_newest_python_that_runs_is_taken_and_one_line_says_so(project):
    shim(project.parent, "3.13")
    for version in ("3.12", "3.11"):
        stand_in(project.parent, version)
    done = setup(project)
    release = "making the current lane in .venv-3.12: Python 3.12, TensorFlow 2.21.0\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, release, "")
    assert (project / ".venv").readlink() == pathlib.Path(".venv-3.12")
    lock, package = installs(project)
    assert lock.startswith(".venv-3.12/bin/python -m pip install ")
    assert "--require-hashes -r requirements/current.lock PIP" in lock
    assert package.startswith(".venv-3.12/bin/python -m pip install ")
    assert "--no-deps --no-build-isolation -e . PIP" in package
    assert setup(project).stdout == "" and installs(project) == [], "nothing is left to do"


@DRIVER
def test_each_python_has_a_folder_of_its_own_and_the_one_picked_stays(project):
    for version in ("3.13", "3.11"):
        stand_in(project.parent, version)
    assert "classic lane in .venv-3.11: " in setup(project, "PYTHON=python3.11").stdout
    assert "-r requirements/classic.lock" in installs(project)[0]
    assert setup(project).stdout == "", "without PYTHON it is that of .venv"
    assert "current lane in .venv-3.13: " in setup(project, PYTHON="python3.13").stdout
    assert len(installs(project)) == 2
    assert setup(project, "PYTHON=python3.11").stdout == ""
    assert (project / ".venv").readlink() == pathlib.Path(".venv-3.11")
    assert installs(project) == [] and (project / ".venv-3.13/installed").exists()


@pytest.mark.parametrize("variables", [[], ["PYTHON=python3.12"], ["PYTHON=python3.10"]])
def test_without_a_python_that_fits_one_line_says_what_to_install(project, variables):
    shim(project.parent, "3.12")
    stand_in(project.parent, "3.10")
    line = one_error(setup(project, *variables))
    for part in ("3.11", "sudo apt install python3.12-venv", "conda create", "pipx install uv"):
        assert part in line
    assert all(variable.removeprefix("PYTHON=") in line for variable in variables)
    assert not [each for each in project.iterdir() if each.name.startswith(".venv")]


def test_uv_fetches_a_python_where_none_fits(project):
    shim(project.parent, "3.12")
    uv(project.parent)
    assert "current lane in .venv-3.12: " in setup(project, "GPU=0").stdout
    made, lock, package = installs(project)
    assert made.startswith("uv venv ") and made.endswith("--python 3.12 .venv-3.12")
    assert lock.startswith(".venv-3.12/bin/python -m pip install ") and "-e ." in package
    assert setup(project, "GPU=0").stdout == ""


def test_a_python_without_venv_names_the_package_that_it_lacks(project):
    stand_in(project.parent, "3.11", without_venv=True)
    assert "'sudo apt install python3.11-venv'" in one_error(setup(project))
    assert not (project / ".venv-3.11").exists()
    uv(project.parent)
    assert setup(project, "GPU=0").returncode == 0
    assert installs(project)[0].endswith("--python python3.11 .venv-3.11"), "uv needs no venv"
    shutil.rmtree(project / ".venv-3.11")
    stand_in(project.parent, "3.12")
    assert ".venv-3.12" in setup(project, "GPU=0").stdout, "one that has venv comes first"


@DRIVER
def test_a_driver_brings_the_cuda_libraries_in_a_folder_of_their_own(project):
    stand_in(project.parent, "3.13")
    script(project.parent / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert "CUDA" not in setup(project).stdout, "a driver that fails is none"
    assert "current.lock" in installs(project)[0]
    script(project.parent / "bin/nvidia-smi", "#!/bin/sh\n")
    assert "in .venv-3.13-gpu: Python 3.13, TensorFlow 2.21.0, with CUDA" in setup(project).stdout
    assert "--require-hashes -r requirements/current-gpu.lock" in installs(project)[0]
    assert (project / ".venv").readlink() == pathlib.Path(".venv-3.13-gpu")


@DRIVER
def test_gpu_decides_by_hand_also_for_the_calls_that_follow(project):
    stand_in(project.parent, "3.11")
    assert ".venv-3.11-gpu" in setup(project, "GPU=1").stdout
    assert "classic-gpu.lock" in installs(project)[0]
    script(project.parent / "bin/nvidia-smi", "#!/bin/sh\n")
    for variables in (["GPU=0"], []):
        assert setup(project, *variables).returncode == 0
        assert (project / ".venv").readlink() == pathlib.Path(".venv-3.11")
    assert "GPU=yes: GPU is 0 or 1" in one_error(setup(project, "GPU=yes"))


def test_an_environment_of_an_earlier_version_is_moved_with_what_its_user_put_there(project):
    stand_in(project.parent, "3.11")
    stand_in(project.parent, "3.13")
    (project / ".venv/bin").mkdir(parents=True)
    shutil.copy(project.parent / "bin/python3.11", project / ".venv/bin/python")
    (project / ".venv/own").write_text("of its user")
    done = setup(project, "GPU=0")
    assert done.returncode == 0 and "classic lane" in done.stdout, "its Python is kept"
    assert done.stderr == (
        "note: .venv is a link now; the environment that was there is in .venv-old\n"
    )
    assert (project / ".venv-old/own").read_text() == "of its user"
    assert (project / ".venv").readlink() == pathlib.Path(".venv-3.11")


def test_an_install_that_was_interrupted_starts_anew(project):
    stand_in(project.parent, "3.12")
    (project.parent / "broken").touch()
    assert setup(project, "GPU=0").returncode != 0
    assert not (project / ".venv").exists()
    (project / ".venv-3.12/half").touch()
    (project.parent / "broken").unlink()
    installs(project)
    assert setup(project, "GPU=0").returncode == 0
    assert len(installs(project)) == 2 and not (project / ".venv-3.12/half").exists()


def test_another_lock_updates_the_environment_and_another_place_makes_a_new_one(project):
    stand_in(project.parent, "3.12")
    setup(project, "GPU=0")
    (project / ".venv-3.12/own").touch()
    with (project / "requirements/current.lock").open("a") as lock:
        lock.write("# newer\n")
    installs(project)
    assert setup(project, "GPU=0").returncode == 0
    assert len(installs(project)) == 2 and (project / ".venv-3.12/own").exists()
    # The scripts in an environment name its place.
    moved = project.rename(project.with_name("moved"))
    assert setup(moved, "GPU=0").returncode == 0
    assert len(installs(moved)) == 2 and not (moved / ".venv-3.12/own").exists()


def test_a_folder_that_setup_did_not_make_is_left_alone(project):
    stand_in(project.parent, "3.12")
    (project / ".venv-3.12").mkdir()
    (project / ".venv-3.12/own").touch()
    assert ".venv-3.12 was not made by make setup" in one_error(setup(project, "GPU=0"))
    assert (project / ".venv-3.12/own").exists() and installs(project) == []


def test_of_two_makes_at_once_one_installs_and_the_other_waits(project):
    stand_in(project.parent, "3.12")
    hold = project.parent / "hold"
    hold.touch()
    with subprocess.Popen(**command(project, "GPU=0")) as first:
        while first.poll() is None and not (project.parent / "installs").exists():
            pass
        with subprocess.Popen(**command(project, "GPU=0"), stdout=subprocess.PIPE) as second:
            try:
                assert second.stdout.readline() == "another make is setting up: waiting\n"
            finally:
                hold.unlink()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(installs(project)) == 2


def test_a_users_settings_for_other_projects_do_not_lead_the_install_elsewhere(project):
    stand_in(project.parent, "3.12")
    surroundings = {"PIP_USER": "1", "PYTHONPATH": "/other", "PIP_TARGET": "/other"}
    assert setup(project, "GPU=0", **surroundings).returncode == 0
    assert {line.partition("PIP_")[2] for line in installs(project)} == {"USER=0 PYTHONPATH="}


def test_another_system_is_told_that_it_is_untested(project):
    stand_in(project.parent, "3.12")
    (project.parent / "bin/uname").unlink()
    script(project.parent / "bin/uname", "#!/bin/sh\necho Darwin\n")
    done = setup(project, "GPU=0")
    assert (done.returncode, done.stderr) == (0, "note: tested on Linux only, WSL2 included\n")
