"""keras-tuner as the search needs it: killed at any moment, it neither loses nor repeats a trial.

All private interfaces of keras-tuner that we rely on are in this module. Where an upgrade changes
one, a test in `tests/test_keras_tuner.py` fails and says what to do.
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

from ixi_tfds.errors import UserError
from ixi_tfds.system import files
from trainer.search import space
from trainer.search.config import SearchConfig

FAILED = 0.0
"""PSNR of a trial without one: it diverged, or its memory did not suffice. No failure to
keras-tuner, which would stop at the third, and whose optimizer would not learn where they are."""

_ALONE = "alone"
_POLL_SECONDS = 0.5
_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def part() -> str:
    """What keras-tuner's variables make of this process: "alone", "chief" or "worker".

    Raises:
      UserError: only some of them are set.
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
    """Keeps a search whole when it is killed, and prints how it goes.

    A trial that was running is resumed: with several workers by the worker of the same name, which
    perhaps never stopped; a process that is alone resumes all of them. Finished trials stay
    finished: keras-tuner itself would run again those that finished just before the kill.
    """

    trials: dict[str, Any]
    finished: Callable[["Oracle"], Any]

    def reload(self) -> None:
        """Take over what the files say."""
        super().reload()
        path = pathlib.Path(self._get_oracle_fname())
        running_of = json.loads(path.read_text())["ongoing_trials"]
        # The oracle's file is written last. Trials that it does not know never began.
        self.trials = {number: self.trials[number] for number in self.start_order}
        running = [number for number, trial in self.trials.items() if trial.status == "RUNNING"]
        ended = [number for number in self.trials if number not in running]
        self.end_order += [number for number in ended if number not in self.end_order]
        self.ongoing_trials = {
            worker: self.trials[number]
            for worker, number in running_of.items()
            if number in running and worker != _ALONE and part() == "chief"
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
            f"trial {ended.trial_id}: {describe(ended)}; best of {len(self.end_order)}: trial "
            f"{best.trial_id}, {describe(best)}",
            flush=True,
        )
        self.finished(self)


class _Hyperband(Oracle, keras_tuner.oracles.HyperbandOracle):
    """Hyperband, ended by a number of trials if need be."""


class _Bayesian(Oracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Bayesian optimization that tries no point twice, and the same points after a kill."""

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


def make_oracle(config: SearchConfig, finished: Callable[[Oracle], Any]) -> Oracle:
    """The method of a search.

    Args:
      config: of the search.
      finished: called after each trial.
    """
    keras_tuner.src.utils.save_json = save_whole
    given = {
        "objective": keras_tuner.Objective(space.OBJECTIVE, "max"),
        "hyperparameters": space.space(config.batch_sizes),
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


class Tuner(keras_tuner.Tuner):
    """Runs trials.

    Args:
      oracle: gives the trials.
      folder: of the search; its state is in `trials`, a folder a trial.
      train: runs a trial, given it and the folder of a trial by its number; returns its metrics.
      check: called by a worker when the chief is there, before its first trial.
    """

    def __init__(
        self,
        oracle: Oracle,
        folder: str,
        train: Callable[[Any, Callable[[str], str]], dict[str, float]],
        check: Callable[[], None],
    ) -> None:
        self.train, self.check = train, check
        alone = part() == _ALONE
        try:
            super().__init__(
                oracle,
                directory=folder,
                project_name="trials",
                tuner_id=_ALONE if alone else None,
            )
        # keras-tuner makes a RuntimeError of what the oracle's file lacks.
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"--tuning_dir={folder}: the state of the search in trials/ is damaged "
                f"({error.__cause__ or error}); bring it back, or give another --tuning_dir"
            ) from error

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
            self.check()

    def pre_create_trial(self) -> None:
        """Do not flood the chief with questions while it waits for other workers."""
        if self._is_worker():
            time.sleep(_POLL_SECONDS)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train as far as the trial says; returns its metrics."""
        try:
            return self.train(trial, self.get_trial_dir)
        except Exception as error:
            # All others would be one more failed trial to keras-tuner.
            raise keras_tuner.errors.FatalError(str(error)) from error

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Run trials until the oracle has no more.

        Raises:
          UserError: the chief is gone, or its address cannot be used; and what a trial raised.
        """
        with _errors_of_ours():
            super().search(*args, **kwargs)


@contextlib.contextmanager
def _errors_of_ours() -> Iterator[None]:
    address = ":".join(os.environ.get(name, "") for name in _VARIABLES[1:])
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


def save_whole(path: str, value: Any) -> str:
    """What keras-tuner writes all its state with, made atomic: its own function writes in place."""
    text = json.dumps(value)
    files.write_text(pathlib.Path(path), text)
    return text


def describe(trial: Any) -> str:
    """How a finished trial went, in words."""
    if trial.score == FAILED:
        return "no result"
    epoch, until = (round(trial.metrics.get_last_value(name)) for name in ("epoch", "until"))
    return f"PSNR {trial.score:.2f} dB at epoch {epoch} of {until}"
