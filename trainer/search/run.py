"""A search for hyper-parameters, by one or several processes; a killed search can be resumed.

A trial is a training run in its own folder, so it resumes after its last whole epoch. When
Hyperband trains a trial longer, it continues that run with its optimizer and learning rate.
keras-tuner keeps its state under `trials/`, in `oracle.json` and a `trial.json` for each trial.
"""

import functools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
import tensorflow as tf
from tensorflow import keras

from ixi_tfds.system import files, flags, folders
from ixi_tfds.system.errors import UserError
from trainer import data, distribution
from trainer import run as training
from trainer.callbacks import DivergedError
from trainer.cluster import read_cluster
from trainer.config import TrainConfig
from trainer.search import deaths, space, tuner
from trainer.search.config import SearchConfig
from trainer.workdir import check_same_run, read_state, write_config

_FAILURES: dict[type[Exception], str] = {
    DivergedError: "diverged",
    tf.errors.ResourceExhaustedError: "out of memory",
    deaths.DiedError: "the process died twice in this trial",
}
"""Errors with which a trial fails and the search goes on, and what `trials.csv` calls them."""


def tune(config: SearchConfig) -> pd.DataFrame | None:
    """Search, or resume a search; updates `trials.csv` and `best.flags` after each trial.

    Only the train and validation splits are read. keras-tuner's variables can make this process
    the chief or a worker of a search by several (see `python -m trainer tune --help`).

    Returns:
      The result of `trials_table`; None in a worker, because the chief has the results.

    Raises:
      UserError: the config does not fit the dataset, the devices or the tuning folder, or no trial
        has a result.
    """
    part = tuner.part()
    if read_cluster().workers > 1:
        raise UserError(
            "TF_CONFIG: one process trains a trial; unset it, and see --help for several workers"
        )
    opened = data.open_data(config.data_dir, config.dataset.split(","), config.verify)
    asked = json.loads(json.dumps(flags.as_flags(config)))
    asked["dataset_fingerprint"] = opened.fingerprint
    if part != "chief":
        _check_batch_sizes(config, opened.train.slices)
    # A worker writes only to the folders of its trials, which `training` locks.
    watch = folders.os_errors_as_user_errors if part == "worker" else folders.writing
    with watch(config.tuning_dir, "tuning_dir"):
        return _search(config, asked, part)


def _search(config: SearchConfig, asked: dict[str, Any], part: str) -> pd.DataFrame | None:
    folder = pathlib.Path(config.tuning_dir)

    free = {"data_dir", "tuning_dir", "replicas", "jit_compile", "verify"}
    # Hyperband deletes its checkpoints at the end, so more trials could not continue from them.
    free |= {"max_trials"} if config.tuner == "bayesian" else set()
    check = functools.partial(
        check_same_run, folder, "tuning_dir", asked, free, flags.defaults(SearchConfig)
    )
    check()
    if part != "worker":
        write_config(folder, asked)
    oracle = tuner.make_oracle(config, lambda oracle: _report(config, oracle))
    tuner.Tuner(oracle, config.tuning_dir, functools.partial(_train, config), check).search()
    if part == "worker":
        return None
    for checkpoints in folder.glob("trials/trial_*/run/checkpoints"):
        shutil.rmtree(checkpoints)
    table = _report(config, oracle)
    if _best(table) is None:
        raise UserError(
            f"--tuning_dir={folder}: no trial has a result; see the column failure of trials.csv"
        )
    return table


def _check_batch_sizes(config: SearchConfig, slices: int) -> None:
    replicas = distribution.make_strategy(config.replicas).num_replicas_in_sync
    for size in config.batch_sizes:
        if size > slices:
            raise UserError(f"--batch_sizes: {size} is more than the {slices} slices to train on")
        if size % replicas:
            raise UserError(f"--batch_sizes: {size} cannot be divided by the {replicas} replicas")


def _train(config: SearchConfig, trial: Any, folder_of: Callable[[str], str]) -> dict[str, float]:
    """Train a trial to its last epoch; returns the metrics of its best epoch."""
    started = time.monotonic()
    values = trial.hyperparameters.values
    workdir = pathlib.Path(folder_of(trial.trial_id), "run")
    former = values.get("tuner/trial_id")
    if former and not workdir.exists():
        pathlib.Path(folder_of(former), "run").rename(workdir)
    # A process may die before its run makes the folder, and Hyperband may go on with the trial.
    workdir.mkdir(exist_ok=True)
    run = run_config(config, values, str(workdir))
    until = values.get("tuner/epochs", config.epochs)
    varied = _shown(space.flags_of(values, config.max_parameters))
    shown = ", ".join(f"{name} {value}" for name, value in varied.items())
    print(f"trial {trial.trial_id}: until epoch {until}, {shown}", flush=True)
    keras.backend.clear_session()
    best = {space.OBJECTIVE: tuner.FAILED, "val_ssim": 0.0, "epoch": 0.0}
    try:
        with deaths.counted(workdir.parent, read_state(workdir, 0.0).epochs_done):
            run_state = training.train_until(run, until)
        row = run_state.history[run_state.best_epoch - 1]
        best = {name: row[name] for name in best}
    except tuple(_FAILURES) as error:
        print(f"trial {trial.trial_id}: {str(error).splitlines()[0]}", flush=True)
        failure = next(text for kind, text in _FAILURES.items() if isinstance(error, kind))
        files.write_text(_failure_path(config, trial.trial_id), failure)
    if config.tuner != "hyperband":
        # Only Hyperband may need them again.
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    return best | {"until": until, "seconds": time.monotonic() - started}


def run_config(config: SearchConfig, values: Mapping[str, Any], workdir: str) -> TrainConfig:
    """The training run in `workdir` for a point of the space; other flags keep their defaults."""
    known = flags.flags_of(TrainConfig)
    shared = {name: value for name, value in flags.as_flags(config).items() if name in known}
    # The search has already checked the dataset.
    shared |= {"workdir": workdir, "verify": "quick", "model": "resnet_like"}
    return flags.from_flags(TrainConfig, shared | space.flags_of(values, config.max_parameters))


def flagfile(config: TrainConfig) -> str:
    """The run as a file for `python -m trainer --flagfile=`, with absolute paths."""
    values = flags.in_force(config)
    for name in ("data_dir", "workdir"):
        values[name] = pathlib.Path(values[name]).resolve()
    # A run outside the search checks its dataset by the default.
    del values["verify"]
    return "\n".join(flags.as_lines(values)) + "\n"


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as in flags: the items of tuples are separated by commas."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def trials_table(config: SearchConfig, trials: Iterable[Any]) -> pd.DataFrame:
    """A row for each finished trial, best first.

    Columns: `trial`; `goes_on`, the trial that this one continues, or empty; `psnr` in dB and
    `ssim` on validation slices at `epoch`, the epoch of the lowest validation loss; `epochs`
    trained so far; `seconds` of this trial alone, since the search was last started; `parameters`;
    the varied flags; and `failure`, why the trial has no result, or empty.
    """
    rows = []
    for trial in trials:
        if trial.status != "COMPLETED":
            continue
        values = trial.hyperparameters.values
        metrics = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
        varied = space.flags_of(values, config.max_parameters)
        shape = {name: varied[name] for name in space.SHAPE}
        failure = _failure_path(config, trial.trial_id)
        rows.append(
            {
                "trial": trial.trial_id,
                "goes_on": values.get("tuner/trial_id", ""),
                "psnr": metrics[space.OBJECTIVE],
                "ssim": metrics["val_ssim"],
                "epoch": round(metrics["epoch"]),
                "epochs": round(metrics["until"]),
                "seconds": round(metrics["seconds"], 1),
                "parameters": space.count_parameters(**shape),
                **_shown(varied),
                "failure": failure.read_text() if failure.exists() else "",
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("psnr", ascending=False, kind="stable") if rows else table


def _failure_path(config: SearchConfig, number: str) -> pathlib.Path:
    return pathlib.Path(config.tuning_dir, f"trials/trial_{number}/failure.txt")


def _best(table: pd.DataFrame) -> str | None:
    """The number of the best trial; None if no trial has a result."""
    has_result = not table.empty and table["psnr"].iloc[0] != tuner.FAILED
    return table["trial"].iloc[0] if has_result else None


def _report(config: SearchConfig, oracle: tuner.Oracle) -> pd.DataFrame:
    """Write `trials.csv`, and `best.flags` if there is a best trial; returns the table."""
    folder = pathlib.Path(config.tuning_dir)
    table = trials_table(config, oracle.trials.values())
    files.write_text(folder / "trials.csv", table.to_csv(index=False))
    if best := _best(table):
        trial = oracle.trials[best]
        run = run_config(config, trial.hyperparameters.values, str(folder / "best"))
        comment = f"# trial {best}: on validation slices {tuner.describe(trial)}"
        files.write_text(folder / "best.flags", f"{comment}\n{flagfile(run)}")
    return table
