"""The commands in surroundings that would change or stop their libraries, one after the other."""

import csv
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf  # noqa: F401 - on its first import it sets variables
from volumes import SMALL, write_cohort

from beam_preprocess import __main__ as beam_preprocess
from evaluator import __main__ as evaluator
from ixi_tfds.documents import model_card
from trainer import __main__ as trainer

NETWORK = ("--model=resnet_like", "--stem_filters=16", "--stage_filters=16", "--stage_blocks=1")
TRAINING = ("--dataset=ixi_t1/small", *NETWORK, "--batch_size=4", "--verify=quick")
ODD = "[v1] a*?@10#%41\\\u00fc~"
NOWHERE = "http://127.0.0.1:9"
VARIABLES = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MPLCONFIGDIR": "/proc/nowhere",
    "KERAS_BACKEND": "torch",
    "TF_USE_LEGACY_KERAS": str(int(sys.version_info < (3, 12))),
    "TFDS_DATA_DIR": "/nowhere",
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"), NOWHERE),
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "1",
    "PYTHONHASHSEED": "7",
    "LC_ALL": "POSIX",
    "TZ": "Mars/Base",
    "COLUMNS": "x",
    "TERM": "dumb",
}


@pytest.fixture
def hostile(tmp_path):
    """Run a command in the worst surroundings; give its output."""
    home, here, temporary = tmp_path / "home", tmp_path / "here", tmp_path / ("t" * 120)
    for folder in (home / ".keras", home / ".config/matplotlib", here, temporary):
        folder.mkdir(parents=True)
    settings = '{"image_data_format": "channels_first", "floatx": "float8", "backend": "torch"}'
    (home / ".keras/keras.json").write_text(settings)
    (home / ".config/matplotlib/matplotlibrc").write_bytes(b"text.usetex: True\n\xff\n")
    (here / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: red\nsavefig.dpi: 9\n")
    environment = {**os.environ, **VARIABLES, "HOME": str(home), "TMPDIR": str(temporary)}

    def command(*arguments):
        done = subprocess.run(
            ["sh", "-c", 'umask 777; exec "$@" <&-', "sh", sys.executable, "-m", *arguments],
            cwd=here,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return command


def rows(path):
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_hostile_surroundings_change_nothing(tmp_path, hostile):
    source, benign, odd = write_cohort(tmp_path / "scans", 9), tmp_path / "benign", tmp_path / ODD
    data = "--data_dir={}/data".format
    assert beam_preprocess.run([f"--source_dir={source}", data(benign), *SMALL]) == 0
    assert trainer.run([data(benign), f"--workdir={benign}/run", *TRAINING, "--epochs=1"]) == 0
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    hostile("beam_preprocess", f"--source_dir={source}", data(odd), *SMALL, *workers)
    assert contents(odd / "data") == contents(benign / "data")
    hostile("trainer", data(odd), f"--workdir={odd}/run", *TRAINING, "--epochs=1")
    assert rows(odd / "run/history.csv") == rows(benign / "run/history.csv")
    models = [folder / "run/export/resnet_like/1" for folder in (odd, benign)]
    assert model_card.digest(models[0]) == model_card.digest(models[1])
    one = next(source.glob("*.nii.gz"))
    maps = ("evaluator", "reconstruct", f"--input={one}")
    hostile(*maps, f"--saved_model={models[0]}", f"--output_dir={odd}/maps")
    theirs = [*maps[1:], f"--saved_model={models[1]}", f"--output_dir={benign}/maps"]
    assert evaluator.run(theirs) == 0
    pictures = [next((folder / "maps").glob("*.png")).read_bytes() for folder in (odd, benign)]
    assert pictures[0] == pictures[1]


def test_odd_characters_in_paths_are_not_patterns(tmp_path, capsys):
    """Every command, resumed training too, in a folder that TensorFlow takes for a pattern."""
    odd = tmp_path / ODD
    source = write_cohort(odd / "scans", 9)
    data = f"--data_dir={odd}/data"
    assert beam_preprocess.run([f"--source_dir={source}", data, *SMALL]) == 0
    for epochs in (1, 2):
        flags = [data, f"--workdir={odd}/run", *TRAINING, f"--epochs={epochs}"]
        assert trainer.run(flags) == 0
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out
    model = odd / "run/export/resnet_like"
    leave_litter(odd)
    scored = [data, "--dataset=ixi_t1/small", f"--saved_model={model}"]
    assert evaluator.run([*scored, f"--output_dir={odd}/scores"]) == 0
    assert len(rows(odd / "scores/scores.csv")) > 0
    assert beam_preprocess.run(["verify", data, "--dataset=ixi_t1/small"]) == 0
    assert trainer.run([*flags[:-1], "--epochs=3"]) == 0
    reconstruct = [f"--input={source}", f"--saved_model={model}", f"--output_dir={odd}/maps"]
    assert evaluator.run(["reconstruct", *reconstruct]) == 0
    assert len(list((odd / "maps").glob("*_anomaly.nii.gz"))) == 9
    assert "warning" not in capsys.readouterr().err


def leave_litter(folder):
    """What desktops and file servers leave in every folder."""
    for place in [folder, *[path for path in folder.rglob("*") if path.is_dir()]]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".directory", ".nfs000012"):
            (place / name).write_bytes(b"\0" * 10)
        for path in [each for each in place.iterdir() if not each.name.startswith(".")][:3]:
            pathlib.Path(place, f"._{path.name}").write_bytes(b"\0\5\26\7")
    shutil.copytree(folder / "scans", folder / "scans/__MACOSX")
