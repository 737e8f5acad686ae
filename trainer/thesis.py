"""Rerun the thesis's twelve experiments: `python -m trainer.thesis --data_dir=D --workdir=W`."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pandas as pd
from absl import flags

from ixi_tfds import cli, folders, storage
from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.errors import UserError
from ixi_tfds.thesis_results import published
from trainer.cluster import read_cluster

USAGE = """
python -m trainer.thesis --data_dir=D --workdir=W [flags of python -m trainer]

Trains the recipes in trainer/recipes, each in a folder of its own under W, scores all of them on
the test split and prints the results beside those that the thesis published; W/thesis.csv has the
same table. The same command again goes on where it was stopped. Flags that are not listed below
are handed to every training run, such as --epochs=30.
"""

RECIPES = pathlib.Path(__file__).parent / "recipes"

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "Root folder of the datasets.", flag_values=FLAGS)
flags.DEFINE_string("dataset", "ixi_t1/thesis", "Name and config within it.", flag_values=FLAGS)
flags.DEFINE_string("workdir", None, "Folder of all runs.", flag_values=FLAGS)
flags.DEFINE_list("recipes", [], "Names of recipes; left out, all twelve.", flag_values=FLAGS)
flags.DEFINE_string(
    "imagenet_weights",
    "imagenet",
    "What the recipes with ImageNet weights take as --weights: a file where there is no network.",
    flag_values=FLAGS,
)
flags.mark_flags_as_required(["data_dir", "workdir"], flag_values=FLAGS)


def compare(workdir: pathlib.Path, recipes: Sequence[str]) -> pd.DataFrame:
    """Results of finished runs beside the thesis's, a row a recipe.

    Args:
      workdir: has a folder a recipe, each with an exported model and `evaluation/summary.json`.
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
    """Run one of our commands; whether it succeeded."""
    code = subprocess.run([sys.executable, "-m", module, *arguments]).returncode
    if code == 130:
        raise KeyboardInterrupt
    return code == 0


def _main(rest: list[str]) -> None:
    names = FLAGS.recipes or list(published().index)
    for name in names:
        if name not in published().index:
            raise UserError(
                f"--recipes={name}: choose out of {', '.join(published().index)}, with commas"
            )
    storage.check_local(FLAGS.workdir, "workdir")
    workdir = pathlib.Path(FLAGS.workdir)
    data = [f"--data_dir={FLAGS.data_dir}", f"--dataset={FLAGS.dataset}"]
    cluster = read_cluster()
    if not cluster.is_chief:
        return _run_all(workdir, names, data, rest)
    with folders.writing(workdir, "workdir"):
        return _run_all(workdir, names, data, rest)


def _run_all(
    workdir: pathlib.Path, names: Sequence[str], data: Sequence[str], rest: Sequence[str]
) -> None:
    cluster = read_cluster()
    finished = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] training {name}", flush=True)
        recipe = RECIPES / f"{name}.flags"
        weights = [f"--weights={FLAGS.imagenet_weights}"] * ("--weights=" in recipe.read_text())
        where = [f"--flagfile={recipe}", *data, f"--workdir={workdir / name}"]
        if _run("trainer", [*where, *weights, *rest]):
            finished.append(name)
        elif cluster.workers > 1:
            raise UserError(f"{name}: not finished, for the reason above; start all workers again")
    if not cluster.is_chief:
        return
    scored = []
    for number, name in enumerate(finished, start=1):
        print(f"[{number}/{len(finished)}] scoring {name}", flush=True)
        (exported,) = (workdir / name / "export").iterdir()
        where = [f"--saved_model={exported}", f"--output_dir={workdir / name / 'evaluation'}"]
        if _run("evaluator", [*where, *data, "--split=test"]):
            scored.append(name)
    if scored:
        table = compare(workdir, scored)
        table.to_csv(workdir / "thesis.csv")
        print(f"\n{table.to_string()}\n\nTable: {workdir / 'thesis.csv'}")
    left = [name for name in names if name not in scored]
    if left:
        raise UserError(
            f"{', '.join(left)}: not finished, for the reasons above; run the same command again"
        )


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, as `cli.run` does."""
    return cli.run(_main, FLAGS, argv, usage=USAGE, pass_unknown=True)


if __name__ == "__main__":
    sys.exit(run())
