"""Searching for hyper-parameters by keras-tuner, one or several processes, killed and resumed.

A trial is a run of the trainer in a folder of its own, so it goes on at its last whole epoch, and
when Hyperband trains it further that is the same run with its optimizer and learning rate. What
keras-tuner knows is in `oracle.json` and one `trial.json` a trial, under `trials/`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import keras_tuner
import keras_tuner.src.utils
import numpy as np
import pandas as pd
import tensorflow as tf
from tensorflow import keras

from ixi_tfds import folders
from ixi_tfds.errors import UserError
from ixi_tfds.system import flags
from ixi_tfds.system.files import write_text
from trainer import data, distribution, search, training
from trainer.callbacks import DivergedError
from trainer.cluster import read_cluster
from trainer.config import TrainConfig
from trainer.search import OBJECTIVE, SearchConfig
from trainer.workdir import check_same_run, write_config

_FAILED = 0.0
"""PSNR of a trial without one: it diverged, or its memory did not suffice. No failure to
keras-tuner, which would stop at the third, and whose optimizer would not learn where they are."""

_POLL_SECONDS = 0.5
_VARIED = (
    *search.SHAPE,
    *("loss", "dssim_weight", "optimizer", "learning_rate", "schedule", "batch_size"),
    *("augment", "augment_fraction", "gaussian_noise"),
)
"""Flags of the trainer that differ between trials."""


def tune(config: SearchConfig) -> pd.DataFrame | None:
    """Search, or go on searching; leaves `trials.csv` and `best.flags` in the tuning folder.

    Both are up to date after each trial. Only the train and validation splits are read.

    Where keras-tuner's own variables make this process the chief of several, or one of its workers
    (see `python -m trainer.tune --help`), it takes that part.

    Returns:
      The trials as `trials_table` has them; None to a worker, since the chief has them.

    Raises:
      UserError: the config does not fit the dataset, the devices or the tuning folder, or no trial
        came to a result.
    """
    part = _part()
    if read_cluster().workers > 1:
        raise UserError(
            "TF_CONFIG: a trial is trained by one process; unset it, see --help for several workers"
        )
    opened = data.open_data(config.data_dir, config.dataset.split(","), config.verify)
    asked = {**dataclasses.asdict(config), "batch_sizes": list(config.batch_sizes)}
    asked["dataset_fingerprint"] = opened.fingerprint
    if part != "chief":
        _check_batch_sizes(config, opened.train.slices)
    if part == "worker":
        # It writes in the folders of its trials only, which training locks.
        with folders.telling_faults(config.tuning_dir, "tuning_dir"):
            return _search(config, asked, part)
    with folders.writing(config.tuning_dir, "tuning_dir"):
        return _search(config, asked, part)


def _search(config: SearchConfig, asked: dict[str, Any], part: str) -> pd.DataFrame | None:
    folder = pathlib.Path(config.tuning_dir)
    check_same_run(folder, "tuning_dir", asked, _free_to_change(config))
    if part != "worker":
        write_config(folder, asked)

    keras_tuner.src.utils.save_json = _save_json
    oracle = _make_oracle(config, lambda oracle: _report(config, oracle))
    try:
        tuner = _Tuner(oracle, config, asked, alone=part == "alone")
    # keras-tuner makes a RuntimeError of what the oracle's file lacks.
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"--tuning_dir={folder}: the state of the search in trials/ is damaged "
            f"({error.__cause__ or error}); bring it back, or give another --tuning_dir"
        ) from error
    with _as_user_errors():
        tuner.search()
    if part == "worker":
        return None
    for checkpoints in folder.glob("trials/trial_*/run/checkpoints"):
        shutil.rmtree(checkpoints)
    table, best = _report(config, oracle)
    if best is None:
        raise UserError(
            f"--tuning_dir={folder}: no trial came to a result; all diverged or lacked memory"
        )
    return table


def _free_to_change(config: SearchConfig) -> set[str]:
    free = {"data_dir", "tuning_dir", "replicas", "jit_compile", "verify"}
    # Not with Hyperband, whose trials are cleared away in the end and cannot be trained further.
    return free | ({"max_trials"} if config.tuner == "bayesian" else set())


def _part() -> str:
    """What this process is in the search: "alone", "chief" or "worker"."""
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    if names[1] not in os.environ:
        return "alone"
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UserError(f"{', '.join(missing)}: set all of {', '.join(names)}, or none of them")
    return "chief" if "chief" in os.environ[names[0]] else "worker"


def _check_batch_sizes(config: SearchConfig, slices: int) -> None:
    replicas = distribution.make_strategy(config.replicas).num_replicas_in_sync
    for size in config.batch_sizes:
        if size > slices:
            raise UserError(f"--batch_sizes: {size} is more than the {slices} slices to train on")
        if size % replicas:
            raise UserError(f"--batch_sizes: {size} cannot be divided by the {replicas} replicas")


@contextlib.contextmanager
def _as_user_errors() -> Iterator[None]:
    address = ":".join(os.environ.get(f"KERASTUNER_ORACLE_{name}", "") for name in ("IP", "PORT"))
    try:
        yield
    except keras_tuner.errors.FatalError as error:
        # Ours, which keras-tuner lets through in this form only.
        raise (error.__cause__ or error) from None
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
        raise UserError(f"the chief at {address} is gone; start it again, then this") from error
    except RuntimeError as error:
        if "bind" not in str(error):
            raise
        raise UserError(f"cannot listen at {address}: {error}") from error


def _save_json(path: str, value: Any) -> str:
    """What keras-tuner writes all its state with, made atomic: its own writes in place."""
    text = json.dumps(value)
    write_text(pathlib.Path(path), text)
    return text


class _Oracle(keras_tuner.Oracle):
    """Keeps a search whole through kills, and tells how it goes.

    A trial that was under way goes on: with several workers that of the same name takes it up
    again, or never stopped; a process that is alone takes up all of them. Whatever is finished
    stays so: keras-tuner's own way is to run again what was finished just before the kill.
    """

    trials: dict[str, Any]
    finished: Callable[["_Oracle"], Any]

    def reload(self) -> None:
        """Take over what the files say."""
        super().reload()
        path = pathlib.Path(self._get_oracle_fname())
        under_way = json.loads(path.read_text())["ongoing_trials"]
        # The oracle's file is written last. Trials that it does not know never began.
        self.trials = {number: self.trials[number] for number in self.start_order}
        running = [number for number, trial in self.trials.items() if trial.status == "RUNNING"]
        ended = [number for number in self.trials if number not in running]
        self.end_order += [number for number in ended if number not in self.end_order]
        self.ongoing_trials = {
            name: self.trials[number]
            for name, number in under_way.items()
            if number in running and name != _Tuner.ALONE and _part() == "chief"
        }
        # They will ask again: until then the chief is not to leave.
        self.tuner_ids.update(self.ongoing_trials)
        kept = {trial.trial_id for trial in self.ongoing_trials.values()}
        self._retry_queue = [number for number in reversed(running) if number not in kept]

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        """Enter a finished trial and print a line about it."""
        # A worker's copy came through messages of 32 bits.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        ended = self.trials[trial.trial_id]
        best = self.get_best_trials()[0]
        print(
            f"trial {ended.trial_id}: {_describe(ended)}; best of {len(self.end_order)}: trial "
            f"{best.trial_id}, {_describe(best)}",
            flush=True,
        )
        self.finished(self)


class _Hyperband(_Oracle, keras_tuner.oracles.HyperbandOracle):
    """Hyperband, ended by a number of trials if need be."""


class _Bayesian(_Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimization that asks for nothing twice, and for the same after a kill."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next point to try."""
        # The state of the generator is in no file.
        self._random_state = np.random.RandomState(self.seed + int(trial_id))
        with warnings.catch_warnings():
            # That the model of the results is at a bound, of which the user can make nothing.
            warnings.simplefilter("ignore")
            response = super().populate_space(trial_id)
        values = response["values"]
        return self._random_populate_space() if values and self._duplicate(values) else response


def _make_oracle(config: SearchConfig, finished: Callable[[_Oracle], Any]) -> _Oracle:
    given = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": search.space(config.batch_sizes),
        "tune_new_entries": False,
        "allow_new_entries": False,
        # keras-tuner takes 0 for none and draws one.
        "seed": config.seed + 1,
    }
    if config.tuner == "hyperband":
        oracle = _Hyperband(max_epochs=config.epochs, factor=config.factor, **given)
        oracle.max_trials = config.max_trials
    else:
        oracle = _Bayesian(
            max_trials=config.max_trials, num_initial_points=config.random_trials, **given
        )
    oracle.verbose = 0
    oracle.finished = finished
    return oracle


class _Tuner(keras_tuner.Tuner):
    """Runs trials by the trainer.

    Args:
      oracle: gives the trials.
      config: of the search.
      asked: flags and fingerprint, which the tuning folder must hold.
      alone: this process is neither chief nor worker.
    """

    ALONE = "alone"

    def __init__(
        self, oracle: _Oracle, config: SearchConfig, asked: dict[str, Any], *, alone: bool
    ) -> None:
        self.config = config
        self.asked = asked
        super().__init__(
            oracle,
            directory=config.tuning_dir,
            project_name="trials",
            tuner_id=self.ALONE if alone else None,
        )

    def _populate_initial_space(self) -> None:
        # keras-tuner calls this where a process has no file of its own yet. There may be trials for
        # all that: of a process killed early, or under another name.
        if not self._is_worker() and pathlib.Path(self.oracle._get_oracle_fname()).exists():
            self.oracle.reload()

    def on_search_begin(self) -> None:
        """Wait for the chief, and see that it searches for the same."""
        if self._is_worker():
            print("waiting for the chief", flush=True)
            self.oracle.get_space()
            folder, free = pathlib.Path(self.config.tuning_dir), _free_to_change(self.config)
            check_same_run(folder, "tuning_dir", self.asked, free)

    def pre_create_trial(self) -> None:
        """Do not flood the chief with questions while it waits for other workers."""
        if self._is_worker():
            time.sleep(_POLL_SECONDS)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train as far as the trial says; the score is that of the weights that a run exports."""
        started = time.monotonic()
        values = trial.hyperparameters.values
        workdir = pathlib.Path(self.get_trial_dir(trial.trial_id), "run")
        former = values.get("tuner/trial_id")
        if former and not workdir.exists():
            pathlib.Path(self.get_trial_dir(former), "run").rename(workdir)
        config = search.train_config(self.config, values, str(workdir))
        until = values.get("tuner/epochs", config.epochs)
        shown = ", ".join(f"{name} {value}" for name, value in _varied(config).items())
        print(f"trial {trial.trial_id}: until epoch {until}, {shown}", flush=True)
        keras.backend.clear_session()
        best = {OBJECTIVE: _FAILED, "val_ssim": 0.0, "epoch": 0.0}
        try:
            run_state = training.train_until(config, until)
            row = run_state.history[run_state.best_epoch - 1]
            best = {name: row[name] for name in best}
        except (DivergedError, tf.errors.ResourceExhaustedError) as error:
            print(f"trial {trial.trial_id}: {str(error).splitlines()[0]}", flush=True)
        except Exception as error:
            # All others would be one more failed trial to keras-tuner.
            raise keras_tuner.errors.FatalError(str(error)) from error
        return best | {"until": until, "seconds": time.monotonic() - started}

    def on_trial_end(self, trial: Any) -> None:
        """Enter the trial; what only Hyperband may need again does not stay on the disk."""
        super().on_trial_end(trial)
        if self.config.tuner != "hyperband":
            checkpoints = pathlib.Path(self.get_trial_dir(trial.trial_id), "run/checkpoints")
            shutil.rmtree(checkpoints, ignore_errors=True)


def _describe(trial: Any) -> str:
    if trial.score == _FAILED:
        return "no result"
    epoch, until = (round(trial.metrics.get_last_value(name)) for name in ("epoch", "until"))
    return f"PSNR {trial.score:.2f} dB at epoch {epoch} of {until}"


def _varied(config: TrainConfig) -> dict[str, Any]:
    """What the space varies, for people: tuples as in flags."""
    flag_values = flags.as_flags(config)
    values = {name: flag_values[name] for name in _VARIED}
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def trials_table(config: SearchConfig, trials: Iterable[Any]) -> pd.DataFrame:
    """One row a finished trial, best first.

    Columns: `trial`, `goes_on` (the trial that it trained further; empty for none), `psnr` in dB
    and `ssim` on validation slices at `epoch`, the one of the lowest validation loss; `epochs`,
    trained so far; `seconds`, of this trial alone; `parameters`; and the flags that were varied.
    """
    rows = []
    for trial in trials:
        if trial.status != "COMPLETED":
            continue
        values = trial.hyperparameters.values
        metrics = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
        run = search.train_config(config, values, "")
        shape = {name: getattr(run.model, name) for name in search.SHAPE}
        rows.append(
            {
                "trial": trial.trial_id,
                "goes_on": values.get("tuner/trial_id", ""),
                "psnr": metrics[OBJECTIVE],
                "ssim": metrics["val_ssim"],
                "epoch": round(metrics["epoch"]),
                "epochs": round(metrics["until"]),
                "seconds": round(metrics["seconds"], 1),
                "parameters": search.count_parameters(**shape),
                **_varied(run),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("psnr", ascending=False, kind="stable") if rows else table


def _report(config: SearchConfig, oracle: _Oracle) -> tuple[pd.DataFrame, TrainConfig | None]:
    """Write `trials.csv` and, once there is a best trial, `best.flags`; gives what they hold."""
    folder = pathlib.Path(config.tuning_dir)
    table = trials_table(config, oracle.trials.values())
    write_text(folder / "trials.csv", table.to_csv(index=False))
    if table.empty or table["psnr"].iloc[0] == _FAILED:
        return table, None
    trial = oracle.trials[table["trial"].iloc[0]]
    best = search.train_config(config, trial.hyperparameters.values, str(folder / "best"))
    comment = f"# trial {trial.trial_id}: on validation slices {_describe(trial)}"
    write_text(folder / "best.flags", f"{comment}\n{search.flagfile(best)}")
    return table, best
