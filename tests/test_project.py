"""The project as such: arrows between packages, the README's commands, the Python it needs."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import nibabel as nib
import pytest
from importlinter.cli import lint_imports

from ixi_tfds.head import make_head

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_arrows_between_packages_hold(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports() == 0


def test_another_python_gets_one_clear_line(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    # A copy, because where `.venv` is made already there is nothing left to check.
    for name in ("Makefile", "requirements.lock", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "setup", f"PYTHON={other}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    line = done.stderr.splitlines()[0]
    assert line.startswith("error:")
    assert "Python 3.11" in line


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def readme_commands():
    """Every command line of the README, continued lines joined, comments off."""
    text = "\n".join(readme_blocks("sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def test_the_readmes_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [command[1] for command in readme_commands() if command[0] == "make"]
    assert named == ["demo", "test"]
    assert set(named) <= targets


@pytest.mark.slow
def test_the_readmes_commands_lead_from_scans_to_scores(tmp_path, monkeypatch):
    """Every `python -m` line of the README as it stands, on a few heads, then its Python.

    Only two things differ: the download has its own tests (there is no network here), so made
    heads take its place, and training stops after one epoch.
    """
    monkeypatch.chdir(tmp_path)
    commands = [
        [re.sub(r"^--epochs=.*", "--epochs=1", part) for part in command[2:]]
        for command in readme_commands()
        if command[:2] == [".venv/bin/python", "-m"]
    ]
    assert commands.pop(0)[:2] == ["ixi_tfds", "download"]
    assert [command[0] for command in commands] == [
        *["beam_preprocess"] * 2,
        *["trainer", "evaluator"],
    ]
    geometries = iter([((256, 256, 112), (0.9, 0.9, 1.2)), ((120, 120, 90), (2.0, 2.0, 2.0))])
    for command in commands:
        if command[0] == "beam_preprocess":
            shutil.rmtree("scans", ignore_errors=True)
            write_heads(tmp_path / "scans", *next(geometries))
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores/report.html").exists()
    for block in readme_blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def write_heads(folder, shape, zooms):
    folder.mkdir()
    for number in range(3):
        head = make_head(f"IXI{701 + number}", "HH", seed=0, shape=shape, zooms=zooms)
        nib.save(head, folder / f"IXI{701 + number}-HH-{number:04d}-T1.nii.gz")


@pytest.mark.parametrize("page", ["README.md", "BUILD_NOTES.md"])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = ROOT / name if name else ROOT / page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in slugs, target
