"""The wheel that `python -m build` makes, in an empty environment of each Python."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("ixi_tfds", "beam_preprocess", "trainer", "evaluator")
LANES = {"3.11": "classic", "3.12": "current", "3.13": "current"}
SITE = "import importlib.util as u; print(u.find_spec('tensorflow').submodule_search_locations[0])"
OWN = ("ixi_autoencoders", "__editable__", "pip")

pytestmark = pytest.mark.slow


def run(*command, cwd):
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("-m", "build", "--wheel", "--no-isolation", f"--outdir={out}", source)
    run(sys.executable, *build, cwd=out)
    (made,) = out.iterdir()
    return made


def test_the_wheel_has_every_file_of_the_packages(wheel):
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("[!.]*.*")]
    asked = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert len(asked) > 100 and asked - set(zipfile.ZipFile(wheel).namelist()) == set()


def packages_of(version, folder):
    """A folder with what the lock of a Python has installed, without the project and pip.

    They are linked, because installing them takes minutes.
    """
    python = ROOT / f".venv-{version}/bin/python"
    if not python.exists():
        why = f"make setup PYTHON=python{version} first"
        (pytest.fail if "IXI_EVERY_PYTHON" in os.environ else pytest.skip)(why)
    folder.mkdir()
    for path in pathlib.Path(run(python, "-c", SITE, cwd=folder).strip()).parent.iterdir():
        if not path.name.startswith(OWN) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return python


@pytest.mark.parametrize("version", LANES)
def test_pip_installs_it_and_its_commands_run_from_any_folder(version, wheel, tmp_path):
    python, empty = packages_of(version, tmp_path / "packages"), tmp_path / "empty"
    run(python, "-m", "venv", empty, cwd=tmp_path)
    python, site = empty / "bin/python", empty / f"lib/python{version}/site-packages"
    (site / "packages.pth").write_text(str(tmp_path / "packages"))
    lock = ROOT / f"requirements/{LANES[version]}.lock"
    # Python 3.11 brings a setuptools of its own, which pip would replace by that of the lock.
    for path in (*site.glob("setuptools*"), *site.glob("pkg_resources")):
        shutil.rmtree(path)
    # pip checks what the wheel asks for, markers included; without an index it can fetch nothing.
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "asked").write_text(f"{wheel.as_uri()} --hash=sha256:{digest}\n")
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--no-index")
    run(python, *pip, "-r", tmp_path / "asked", "-c", lock, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for package in PACKAGES:
        where = run(python, "-c", f"import {package} as p; print(p.__file__)", cwd=elsewhere)
        assert where.strip() == str(site / package / "__init__.py")
        assert f"python -m {package}" in run(python, "-m", package, "--help", cwd=elsewhere)
    run(python, "-m", "ixi_tfds", "cohort", "--output_dir=scans", "--subjects=3", cwd=elsewhere)
    assert len(list(elsewhere.glob("scans/*.nii.gz"))) == 3
