"""Repeat the thesis's experiments: `python -m trainer thesis --data_dir=D --workdir=W`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from etils import epy

from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.system import commands, folders, storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag, like
from ixi_tfds.thesis_results import published
from trainer import train
from trainer.cluster import Cluster, read_cluster
from trainer.config import TrainConfig

with epy.lazy_imports():
    import pandas as pd

USAGE = """
python -m trainer thesis --data_dir=D --workdir=W [flags of python -m trainer]

Trains the recipes in trainer/recipes, each in its own folder in W, and scores them on the test
split. Prints the results beside those of the thesis, and writes the same table to W/thesis.csv.
The same command again resumes. Other flags of python -m trainer, such as --epochs=30, apply to all
training runs.
"""

TRAINING_SLICES = 26_820
"""Of the thesis: 60 of each of 447 people."""

RECIPES = pathlib.Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True)
class ThesisConfig:
    """The flags of the command."""

    data_dir: str = like(TrainConfig, "data_dir")
    dataset: str = like(TrainConfig, "dataset")
    workdir: str = flag("Folder of all runs.", path=True)
    recipes: tuple[str, ...] = flag("Names of recipes, separated by commas; by default all.", ())
    imagenet_weights: str = flag(
        "--weights of the recipes with ImageNet weights; give a file if there is no network.",
        "imagenet",
        path=True,
    )
    thesis_epochs: bool = flag(
        f"Let an epoch have as many steps as the thesis's {TRAINING_SLICES:,} slices made, "
        "whatever the number of slices here, so that rules that count epochs mean the same.",
        False,
    )


def compare(workdir: pathlib.Path, recipes: Sequence[str]) -> pd.DataFrame:
    """Results of finished runs beside those of the thesis, a row for each recipe.

    Args:
      workdir: folder with a folder for each recipe, which holds the exported model and
        `evaluation/summary.json`.
      recipes: names of recipes.
    """
    theirs = published().to_dict(orient="index")
    rows: dict[str, dict[str, float]] = {}
    for name in recipes:
        (exported,) = (workdir / name).glob("export/*/1")
        card = model_card.read(exported) or ModelCard()
        summary = json.loads((workdir / name / "evaluation/summary.json").read_text())
        monitored = "val_loss_augmented" if card.flags["augment_validation"] else "val_loss"
        (scored,) = summary["models"]
        ours = {
            "val_loss": card.best[monitored],
            "epoch": card.best["epoch"],
            "psnr_mean": scored["psnr"]["mean"],
            "ssim_mean": scored["ssim"]["mean"],
        }
        rows[name] = {}
        for column, value in ours.items():
            rows[name] |= {column: value, f"{column}_thesis": theirs[name][column]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe").convert_dtypes()


def _run(module: str, arguments: Sequence[str]) -> bool:
    """Run `python -m module`; returns whether it succeeded."""
    code = subprocess.run([sys.executable, "-m", module, *arguments]).returncode
    if code == 130:
        raise KeyboardInterrupt
    return code == 0


def _main(config: ThesisConfig, rest: Sequence[str]) -> None:
    known = list(published().index)
    for name in config.recipes:
        if name not in known:
            raise UserError(f"--recipes={name}: choose from {', '.join(known)}")
    storage.check_local(config.workdir, "workdir")
    names = config.recipes or known
    cluster = read_cluster()
    if not cluster.is_chief:
        _train_all(config, names, rest, cluster)
        return
    with folders.writing(config.workdir, "workdir"):
        finished = _train_all(config, names, rest, cluster)
        scored = _score_all(config, finished)
        workdir = pathlib.Path(config.workdir)
        if scored:
            table = compare(workdir, scored)
            table.to_csv(workdir / "thesis.csv")
            print(f"\n{table.to_string()}\n\nTable: {workdir / 'thesis.csv'}")
    left = [name for name in names if name not in scored]
    if left:
        raise UserError(
            f"{', '.join(left)}: not finished, for the reasons above; run the same command again"
        )


def _train_all(
    config: ThesisConfig, names: Sequence[str], rest: Sequence[str], cluster: Cluster
) -> list[str]:
    """Train recipes; returns the names of the finished ones."""
    finished = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] training {name}", flush=True)
        recipe = RECIPES / f"{name}.flags"
        weights = [f"--weights={config.imagenet_weights}"] * ("--weights=" in recipe.read_text())
        where = [f"--flagfile={recipe}", *_data(config), f"--workdir={config.workdir}/{name}"]
        if _run("trainer", [*where, *weights, *_steps(config, recipe, rest), *rest]):
            finished.append(name)
        elif cluster.workers > 1:
            raise UserError(f"{name}: not finished, for the reason above; start all workers again")
    return finished


def _steps(config: ThesisConfig, recipe: pathlib.Path, rest: Sequence[str]) -> list[str]:
    """The flag for the thesis's number of steps in an epoch, if it is wanted."""
    if not config.thesis_epochs:
        return []
    where = [f"--flagfile={recipe}", *_data(config), f"--workdir={config.workdir}"]
    trained, _ = commands.parse(train.COMMAND, [*where, *rest])
    if trained.steps_per_epoch:
        raise UserError("--thesis_epochs and --steps_per_epoch: give one of them")
    return [f"--steps_per_epoch={max(1, TRAINING_SLICES // trained.batch_size)}"]


def _score_all(config: ThesisConfig, names: Sequence[str]) -> list[str]:
    """Score trained recipes; returns the names of the finished ones."""
    scored = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] scoring {name}", flush=True)
        folder = pathlib.Path(config.workdir, name)
        (exported,) = folder.glob("export/*/1")
        where = [f"--saved_model={exported.parent}", f"--output_dir={folder / 'evaluation'}"]
        if _run("evaluator", [*where, *_data(config), "--split=test"]):
            scored.append(name)
    return scored


def _data(config: ThesisConfig) -> list[str]:
    return [f"--data_dir={config.data_dir}", f"--dataset={config.dataset}"]


COMMAND = commands.Command(
    ThesisConfig, _main, "repeat the thesis's experiments and score them", USAGE, passes_on=True
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, the process's own by default; returns the exit code."""
    return commands.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(run())
