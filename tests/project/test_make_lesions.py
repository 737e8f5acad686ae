"""`make lesions`: from scans to an ensemble that finds lesions."""

import json
import os
import re
import shlex
import subprocess

import pytest
import tensorflow  # noqa: F401  # it sets environment variables, which no test may
from changed_copies import ROOT

from beam_preprocess import __main__ as beam_preprocess
from beam_preprocess import make
from evaluator import __main__ as evaluator
from evaluator.lesions.maps import BASELINES
from ixi_tfds.demo import cohort
from ixi_tfds.system.commands import parse
from trainer import __main__ as trainer

FLAGS = ("--scaling=tissue", "--spacing=4", "--size=56x40", "--slices=0:40", "--plane=axial")


def commands(*variables):
    """The commands of `make lesions`, those of loops once for each turn, without the program."""
    # Under `make test` the variables of that make would add lines and flags of their own.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", "lesions", *variables]
    made = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    _, _, rest = made.stdout.partition("setup.sh\n")
    text = rest.replace(".venv/bin/python -m", "echo")
    shown = subprocess.run(["sh", "-ec", text], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def flags_of(command):
    return dict(part.removeprefix("--").split("=", 1) for part in command if part.startswith("--"))


def test_it_goes_from_scans_to_pages_in_an_order_that_works():
    *made, told = commands("SCANS=heads", "MASKS=masks", "LESIONS=ill", "OUT=o")
    names = [" ".join(part for part in command if part[0] != "-") for command in made]
    assert names == [
        *["beam_preprocess"] * 2,
        *["trainer"] * 4,
        *["evaluator calibrate", "evaluator anomalies", "evaluator anomalies"],
    ]
    flags = [flags_of(command) for command in made]
    assert [each["config"] for each in flags[:2]] == ["brain_2mm_axial", "brain_2mm_sagittal"]
    assert {(each["brain_masks"], each["copies"]) for each in flags[:2]} == {("masks", "3")}
    exports = [f"{each['workdir']}/export/unet" for each in flags[2:6]]
    assert len(set(exports)) == 4
    for each, path in zip(flags[2:6], exports, strict=True):
        task, plane = re.fullmatch(r"o/(\w+)_(\w+)/export/unet", path).groups()
        assert each["flagfile"] == f"trainer/recipes/lesions/{task}.flags"
        assert each["dataset"] == f"ixi_t1/brain_2mm_{plane}" and "epochs" not in each
        assert (ROOT / each["flagfile"]).is_file()
    assert sorted(flags[6]["saved_model"].split(",")) == sorted(exports)
    assert flags[7]["saved_model"] == flags[8]["saved_model"] == flags[6]["output_dir"]
    assert flags[8]["source_dir"] == "ill" and "source_dir" not in flags[7]
    assert told == shlex.split("Look at o/synthetic/anomalies.html and o/real/anomalies.html.")


def test_without_scans_all_is_made_up():
    made = commands()
    for command in made[1:3]:
        config, rest = parse(make.COMMAND, command[1:])
        assert config.slices.box == (72, 56, 56) and config.slices.copies == 1
        assert [part.split("=")[0] for part in rest] == [
            "--direct_running_mode",
            "--direct_num_workers",
        ]
    first = flags_of(made[0])
    assert made[0][:2] == ["ixi_tfds", "cohort"]
    flags = flags_of(made[1])
    assert flags["source_dir"] == first["output_dir"]
    assert flags["brain_masks"] == first["brain_masks"]
    assert made[-1][:2] == ["Look", "at"] and made[-1][2].startswith("demo/")


@pytest.mark.slow
def test_models_of_made_up_brains_find_made_up_lesions(tmp_path):
    """The same commands on voxels of 4 mm, in one plane."""
    scans, data = tmp_path / "scans", f"--data_dir={tmp_path / 'data'}"
    cohort.write_cohort(scans, subjects=12, coarsen=2, brain_masks=tmp_path / "masks")
    where = [f"--source_dir={scans}", f"--brain_masks={tmp_path / 'masks'}", data]
    assert beam_preprocess.run([*where, "--config=small", "--copies=1", *FLAGS]) == 0
    models = []
    # Repair takes longer until it finds anything.
    for task, epochs in (("repair", 16), ("denoise", 4)):
        recipe = f"--flagfile={ROOT}/trainer/recipes/lesions/{task}.flags"
        steps = [f"--epochs={epochs}", "--warmup_steps=50", "--nomixed_precision"]
        run = [recipe, data, "--dataset=ixi_t1/small", f"--workdir={tmp_path / task}", *steps]
        assert trainer.run(run) == 0
        models.append(f"{tmp_path / task}/export/unet")
    joined = f"--saved_model={tmp_path / 'ensemble'}"
    dataset = [data, "--dataset=ixi_t1/small"]
    output = f"--output_dir={tmp_path / 'ensemble'}"
    join = ["calibrate", *dataset, f"--saved_model={','.join(models)}", output]
    assert evaluator.run(join) == 0
    found = ["anomalies", *dataset, joined, f"--output_dir={tmp_path / 'out'}"]
    assert evaluator.run(found) == 0
    facts = json.loads((tmp_path / "out/anomalies.json").read_text())
    area = {row["method"]: row["auprc"] for row in facts["overall"] if row["looks_for"] == "either"}
    best = max(area[name] for name in BASELINES)
    assert area["ensemble"] > 1.3 * best and area["denoise"] > 1.3 * best, area
