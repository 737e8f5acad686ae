"""The steps of the Dockerfile, in order, in a fresh folder and a fresh environment."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
from test_wheel import LANES, PACKAGES, ROOT, packages_of

TEXT = (ROOT / "Dockerfile").read_text()
STEPS = [
    tuple(line.split(" ", 1))
    for line in TEXT.replace("\\\n", "").splitlines()
    if line.strip() and not line.startswith("#")
]


def of(kind):
    return [value for name, value in STEPS if name == kind]


def build(root, path, lane, gpu="0"):
    """Runs the steps below a folder that stands for `/`; gives the environment at the end."""
    environment = {"PATH": path, "LANE": lane, "GPU": gpu}
    here = root
    for kind, value in STEPS:
        below = re.sub(r"(?<=[ =])/(?=\w)", f"{root}/", f" {value}").strip()
        if kind == "WORKDIR":
            here = pathlib.Path(below)
            here.mkdir(parents=True, exist_ok=True)
        elif kind == "COPY":
            *sources, target = value.split()
            for source in sources:
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, here / target)
        elif kind == "ENV":
            environment |= dict(part.split("=") for part in shlex.split(below))
        elif kind == "RUN":
            subprocess.run(["sh", "-ec", below], cwd=here, env=environment, check=True)
    return here, environment


def stand_ins(folder, *names):
    folder.mkdir()
    for name in names:
        text = f'echo "{name} $*" >> {folder}/log\n[ {name} = pip ] || mkdir -p "$HOME"\n'
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_its_steps_give_an_environment_in_which_the_commands_run(version, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python, empty = packages_of(version, tmp_path / "packages"), tmp_path / "usr"
    subprocess.run([python, "-m", "venv", empty], check=True)
    site = empty / f"lib/python{version}/site-packages"
    for path in (*site.glob("setuptools*"), *site.glob("pkg_resources")):
        shutil.rmtree(path)
    (site / "packages.pth").write_text(str(tmp_path / "packages"))
    fakes = stand_ins(tmp_path / "fakes", "useradd", "chown")
    path = f"{fakes}:{empty / 'bin'}:{os.environ['PATH']}"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    here, environment = build(tmp_path / "root", path, LANES[version])
    assert "useradd --uid 1000 --create-home ixi" in (fakes / "log").read_text()
    for package in PACKAGES:
        command = ["python", "-m", package, "--help"]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = ["python", "-c", f"import {package}; print({package}.__file__)"]
        where = subprocess.run(found, cwd=here, env=environment, capture_output=True, text=True)
        assert where.stdout.startswith(str(site))


@pytest.mark.parametrize("lane", ["classic", "current"])
@pytest.mark.parametrize("gpu", ["0", "1"])
def test_it_installs_the_lock_of_the_lane_and_the_gpu(lane, gpu, tmp_path):
    fakes = stand_ins(tmp_path / "fakes", "pip", "useradd", "chown")
    build(tmp_path / "root", f"{fakes}:{os.environ['PATH']}", lane, gpu)
    lock = f"requirements/{lane}{'-gpu' if gpu == '1' else ''}.lock"
    asked = [line for line in (fakes / "log").read_text().splitlines() if line.startswith("pip")]
    assert len(asked) == 2 and asked[0].endswith(f"--require-hashes -r {lock}")
    assert "--no-deps" in asked[1] and (tmp_path / "root/project" / lock).exists()


def test_it_is_of_the_official_image_and_not_of_root():
    images = [line.split()[0::2] for line in of("FROM")]
    assert images == [["python:3.11-slim", "classic"], ["python:3.13-slim", "current"], ["${LANE}"]]
    assert LANES["3.11"] == "classic" and LANES["3.13"] == "current"
    assert STEPS[-2:] == [("USER", "ixi"), ("CMD", '["python", "-m", "trainer", "--help"]')]
    (volumes,) = map(json.loads, of("VOLUME"))
    assert [made for made in volumes if made not in TEXT.partition("mkdir")[2].split("&&")[0]] == []


def test_the_page_names_the_arguments_and_the_volumes():
    page = (ROOT / "docs/docker.md").read_text()
    assert (
        set(re.findall(r"--build-arg (\w+)=", page))
        == {"LANE", "GPU"}
        <= {line.partition("=")[0] for line in of("ARG")}
    )
    mounted = set(re.findall(r":(/ixi/\w+)", page))
    assert mounted and all(f'"{folder}"' in of("VOLUME")[0] for folder in mounted)
