"""The project as such: arrows between packages, the README's commands, the Python it needs."""

import configparser
import hashlib
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ixi_tfds.demo.head import brain_mask, make_head

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_arrows_between_packages_hold():
    # In a process of its own: it turns off every logger that is there.
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


LOCKS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/*.lock"))]


def requirements(lock):
    """Each requirement of a lock with the hashes below it."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^[^\s#].*", text, re.MULTILINE)
    return {re.split(r"[=\[ ]", block)[0]: block for block in blocks}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_pins_everything_by_version_and_hash(lock):
    blocks = requirements(lock)
    assert blocks
    for name, block in blocks.items():
        assert re.match(rf"{re.escape(name)}(\[[^]]*\])?==[^\s*]+ ", block), block
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), name
        assert "://" not in block and " @ " not in block, name


@pytest.mark.parametrize(("lane", "python"), [("classic", "3.11"), ("current", "3.12")])
@pytest.mark.parametrize("gpu", ["", "-gpu"])
def test_a_lock_has_all_that_the_package_asks_for(lane, python, gpu):
    asked = configparser.ConfigParser()
    asked.read(ROOT / "setup.cfg")
    lines = asked["options"]["install_requires"] + asked["options.extras_require"]["dev"]
    lines += asked["options.extras_require"]["gpu"] if gpu else ""
    needed = [Requirement(line) for line in lines.splitlines() if line]
    here = {"python_version": python}
    needed = [each for each in needed if not each.marker or each.marker.evaluate(here)]
    pinned = requirements(f"requirements/{lane}{gpu}.lock")
    assert len(needed) > 40
    for each in needed:
        block = pinned[canonicalize_name(each.name)]
        assert block.split()[0].partition("==")[2] in each.specifier, block
    assert gpu == ("-gpu" if "nvidia-cudnn-cu12" in pinned else "")


@pytest.mark.parametrize("lane", ["classic", "current"])
def test_the_cuda_libraries_come_beside_the_same_packages(lane):
    one, other = (requirements(f"requirements/{lane}{gpu}.lock") for gpu in ("", "-gpu"))
    added = set(other) - set(one)
    assert {name: other[name] for name in one} == one
    assert len(added) == 12 and all(name.startswith("nvidia-") for name in added)


@pytest.mark.slow
def test_a_package_with_another_hash_is_not_installed(tmp_path):
    """What protects from a changed package on the way here or at the index."""
    wheel = tmp_path / "harm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("harm.py", "")
        packed.writestr(
            "harm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: harm\nVersion: 1.0\n"
        )
        packed.writestr("harm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        packed.writestr("harm-1.0.dist-info/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index"]
    where = ["--find-links", str(tmp_path), "--target", str(tmp_path / "out"), "--require-hashes"]
    for digest, code in ((hashlib.sha256(wheel.read_bytes()).hexdigest(), 0), ("0" * 64, 1)):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "lock").write_text(f"harm==1.0 --hash=sha256:{digest}\n")
        command = [*pip, *where, "-r", str(tmp_path / "lock")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert (tmp_path / "out" / "harm.py").exists() == (code == 0)
        assert ("harm==1.0" in done.stderr) == (code == 1), "pip names it"


def test_the_list_of_licences_is_that_of_the_locks():
    page = (ROOT / "docs" / "dependencies.md").read_text()
    locks = [f"requirements/{lane}.lock" for lane in ("classic", "current")]
    blocks = [block for lock in locks for block in requirements(lock).values()]
    pinned = {re.sub(r"\[.*\]", "", block.split()[0]).replace("==", " ") for block in blocks}
    listed = set(re.findall(r"([A-Za-z0-9._-]+ [0-9]\S*?)(?=,| \|)", page))
    assert pinned == listed
    assert not re.search(r"\bA?GPL", page) and "not installed" not in page


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
    assert "lesions" in targets and "`make lesions SCANS=heads MASKS=masks`" in README
    assert set(named) <= targets


@pytest.mark.lanes
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
        *["trainer", "evaluator", "evaluator", "evaluator"],
    ]
    shutil.copytree(ROOT / "pretrained", "pretrained")
    geometries = iter([((256, 256, 112), (0.9, 0.9, 1.2)), ((120, 120, 90), (2.0, 2.0, 2.0))])
    for command in commands:
        if command[0] == "beam_preprocess":
            shutil.rmtree("scans", ignore_errors=True)
            geometry = next(geometries)
            write_heads(tmp_path / "scans", *geometry)
            shutil.copy("scans/IXI701-HH-0000-T1.nii.gz", "head.nii.gz")
            write_mask("head_mask.nii.gz", *geometry)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores/report.html").exists()
    for kind in ("anomaly", *["mark"] * pathlib.Path("pretrained").exists()):
        assert nib.load(f"maps/head_{kind}.nii.gz").shape == nib.load("head.nii.gz").shape
    for block in readme_blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def write_heads(folder, shape, zooms):
    folder.mkdir()
    for number in range(3):
        head = make_head(f"IXI{701 + number}", "HH", seed=0, shape=shape, zooms=zooms)
        nib.save(head, folder / f"IXI{701 + number}-HH-{number:04d}-T1.nii.gz")


def write_mask(path, shape, zooms):
    brain = brain_mask("IXI701", "HH", seed=0, shape=shape, zooms=zooms).astype(np.uint8)
    nib.save(nib.Nifti1Image(brain, nib.load("head.nii.gz").affine), path)


@pytest.mark.parametrize("where", [None, "empty"])
def test_a_benchmark_without_its_real_scans_says_what_to_set(where, tmp_path, monkeypatch):
    monkeypatch.delenv("IXI_REAL_DATA", raising=False)
    if where:
        monkeypatch.setenv("IXI_REAL_DATA", str(tmp_path))
    command = [sys.executable, ROOT / "benchmarks/preprocess.py", "--real"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "error: --real: set IXI_REAL_DATA to a folder with a volume in ixi/full"
    )
    assert "Traceback" not in done.stderr


def test_a_benchmark_of_one_round_says_that_it_has_no_interval():
    command = [sys.executable, ROOT / "benchmarks/preprocess.py", "--rounds=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--rounds: 1: give at least 2 rounds")


PAGES = [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", sorted(map(str, PAGES)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / name if name else ROOT / page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in slugs, target


def test_every_row_on_reliability_names_a_test_of_its_own():
    page = (ROOT / "docs/reliability.md").read_text()
    named = re.findall(r"\| (tests/[\w/]+\.py)::(\w+) \|", page)
    assert len(named) == len(re.findall(r"tests/[\w/]*test_", page)) >= 60
    assert [each for each in named if named.count(each) > 1] == []
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), (file, test)


def test_every_row_on_kinds_of_input_names_its_tests():
    rows = (ROOT / "docs/any_head.md").read_text().splitlines()
    cells = [row.rsplit(" | ", 1)[1] for row in rows if row.startswith("| ")]
    named = [each.strip(" |") for cell in cells for each in cell.split("; ")]
    named = [each for each in named if each != "test"]
    assert len(named) >= 100
    for each in named:
        file, _, test = each.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert not test or f"def {test}(" in text, each
