"""Adapts keras-tuner, so that a search killed at any time loses no trial and repeats none.

Only this module uses private interfaces of keras-tuner. If an upgrade changes one of them, a test
in `tests/trainer/search/test_keras_tuner.py` fails and says what to do.
"""

import contextlib
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import keras_tuner
import keras_tuner.src.utils
import numpy as np

from ixi_tfds.system import files
from ixi_tfds.system.errors import UserError
from trainer.search import space
from trainer.search.config import SearchConfig

FAILED = 0.0
"""PSNR of a trial that diverged, ran out of memory or killed its process. Such a trial counts as
finished: keras-tuner stops the search at the third failed trial, and its optimizer learns nothing
from failed ones."""

_ALONE = "alone"
_POLL_SECONDS = 0.5
_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def part() -> str:
    """The part of this process by keras-tuner's variables: "alone", "chief" or "worker".

    Raises:
      UserError: only some of the variables are set.
    """
    if _VARIABLES[1] not in os.environ:
        return _ALONE
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: set all of {', '.join(_VARIABLES)}, or none of them"
        )
    return "chief" if "chief" in os.environ[_VARIABLES[0]] else "worker"


class Oracle(keras_tuner.Oracle):
    """Makes a search resumable, and prints a line for each finished trial.

    After a kill, the worker of the same name resumes its running trial; it may even still be
    running. A process without workers resumes all running trials. Finished trials stay finished;
    keras-tuner alone would repeat those that finished just before the kill.
    """

    trials: dict[str, Any]
    finished: Callable[["Oracle"], Any]

    def reload(self) -> None:
        """Restore the state from the files."""
        super().reload()
        path = pathlib.Path(self._get_oracle_fname())
        running_of = json.loads(path.read_text())["ongoing_trials"]
        # The oracle's file is written last: trials missing in it have never started.
        self.trials = {number: self.trials[number] for number in self.start_order}
        running = [number for number, trial in self.trials.items() if trial.status == "RUNNING"]
        ended = [number for number in self.trials if number not in running]
        self.end_order += [number for number in ended if number not in self.end_order]
        self.ongoing_trials = {
            worker: self.trials[number]
            for worker, number in running_of.items()
            if number in running and worker != _ALONE and part() == "chief"
        }
        # These workers will ask again; the chief must wait for them.
        self.tuner_ids.update(self.ongoing_trials)
        kept = {trial.trial_id for trial in self.ongoing_trials.values()}
        self._retry_queue = [number for number in reversed(running) if number not in kept]

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        """Store a finished trial and print a line about it."""
        # The worker's copy was rounded to 32 bits by the messages.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        ended = self.trials[trial.trial_id]
        best = self.get_best_trials()[0]
        print(
            f"trial {ended.trial_id}: {describe(ended)}; best of {len(self.end_order)}: trial "
            f"{best.trial_id}, {describe(best)}",
            flush=True,
        )
        self.finished(self)


class _Hyperband(Oracle, keras_tuner.oracles.HyperbandOracle):
    """Hyperband with a highest number of trials."""


class _Bayesian(Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimization that tries no point twice, and the same points after a resume."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next point to try."""
        # keras-tuner does not save the generator's state.
        self._random_state = np.random.RandomState(self.seed + int(trial_id))
        with warnings.catch_warnings():
            # The warning that the fitted model is at a bound does not help the user.
            warnings.simplefilter("ignore")
            response = super().populate_space(trial_id)
        values = response["values"]
        return self._random_populate_space() if values and self._duplicate(values) else response


def make_oracle(config: SearchConfig, finished: Callable[[Oracle], Any]) -> Oracle:
    """keras-tuner's oracle for the search method of a config; calls `finished` after each trial."""
    keras_tuner.src.utils.save_json = save_whole
    given = {
        "objective": keras_tuner.Objective(space.OBJECTIVE, "max"),
        "hyperparameters": space.space(config.batch_sizes, config.task, config.stages),
        "tune_new_entries": False,
        "allow_new_entries": False,
        # For the seed 0 keras-tuner would draw a random seed.
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


class Tuner(keras_tuner.Tuner):
    """Runs the trials of an oracle.

    Args:
      oracle: chooses the trials.
      folder: folder of the search; keras-tuner's state is in `trials` in it.
      train: trains a trial and returns its metrics; its second argument is a function from a
        trial's number to its folder.
      check: a worker calls it before its first trial, when the chief is ready.
    """

    def __init__(
        self,
        oracle: Oracle,
        folder: str,
        train: Callable[[Any, Callable[[str], str]], dict[str, float]],
        check: Callable[[], Any],
    ) -> None:
        self.train, self.check = train, check
        alone = part() == _ALONE
        try:
            super().__init__(
                oracle, directory=folder, project_name="trials", tuner_id=_ALONE if alone else None
            )
        # keras-tuner raises a RuntimeError if fields are missing in the oracle's file.
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"--tuning_dir={folder}: the state of the search in trials/ is damaged "
                f"({error.__cause__ or error}); restore it, or give another --tuning_dir"
            ) from error

    def _populate_initial_space(self) -> None:
        # keras-tuner calls this if the process has no file of its own yet. Trials may exist anyway,
        # from a process that was killed early or had another name.
        if not self._is_worker() and pathlib.Path(self.oracle._get_oracle_fname()).exists():
            self.oracle.reload()

    def on_search_begin(self) -> None:
        """In a worker: wait for the chief, and check that its search is the same."""
        if self._is_worker():
            print("waiting for the chief", flush=True)
            self.oracle.get_space()
            self.check()

    def pre_create_trial(self) -> None:
        """In a worker: wait, so that it does not flood the chief with requests."""
        if self._is_worker():
            time.sleep(_POLL_SECONDS)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train a trial; returns its metrics."""
        try:
            return self.train(trial, self.get_trial_dir)
        except Exception as error:
            # keras-tuner would count any other exception as a failed trial.
            raise keras_tuner.errors.FatalError(str(error)) from error

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Run trials until the oracle has no more.

        Raises:
          UserError: the chief is lost, its address cannot be used, or a trial raised it.
        """
        with _errors_of_ours():
            super().search(*args, **kwargs)


@contextlib.contextmanager
def _errors_of_ours() -> Iterator[None]:
    address = ":".join(os.environ.get(name, "") for name in _VARIABLES[1:])
    try:
        yield
    except keras_tuner.errors.FatalError as error:
        # `run_trial` wrapped the cause, because keras-tuner lets only this type through.
        raise (error.__cause__ or error) from None
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise
        raise UserError(f"the chief at {address} is lost; start it again, then this") from error
    except RuntimeError as error:
        if "bind" not in str(error):
            raise
        raise UserError(f"cannot listen at {address}: {error}") from error


def save_whole(path: str, value: Any) -> str:
    """Write JSON atomically, as a replacement of keras-tuner's `save_json`."""
    text = json.dumps(value)
    files.write_text(pathlib.Path(path), text)
    return text


def describe(trial: Any) -> str:
    """The result of a finished trial in words."""
    if trial.score == FAILED:
        return "no result"
    epoch, until = (round(trial.metrics.get_last_value(name)) for name in ("epoch", "until"))
    return f"PSNR {trial.score:.2f} dB at epoch {epoch} of {until}"
