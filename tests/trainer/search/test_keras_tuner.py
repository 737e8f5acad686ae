"""What the search relies on inside keras-tuner, though keras-tuner does not promise it.

Where one of these fails after an upgrade, `trainer/search/tuner.py` has to follow: each says how.
"""

import inspect

import keras_tuner
import keras_tuner.src.utils
import pytest

ORACLE, BAYESIAN = keras_tuner.Oracle, keras_tuner.oracles.BayesianOptimizationOracle


@pytest.fixture
def oracle(tmp_path, monkeypatch):
    """An oracle of keras-tuner's own, in a folder."""
    monkeypatch.delenv("KERASTUNER_ORACLE_IP", raising=False)
    space = keras_tuner.HyperParameters()
    space.Float("rate", 0.0, 1.0)
    made = BAYESIAN(
        objective=keras_tuner.Objective("val_psnr", "max"),
        hyperparameters=space,
        max_trials=9,
        seed=1,
    )
    made._set_project_dir(str(tmp_path), "trials")
    return made


def test_all_state_is_written_by_one_function_that_can_be_replaced(oracle, monkeypatch):
    """`save_whole` takes the place of `utils.save_json`. If keras-tuner writes by another function,
    replace that one, or a kill leaves half-written files."""
    written = []
    monkeypatch.setattr(
        keras_tuner.src.utils, "save_json", lambda path, value: written.append(str(path))
    )
    oracle.create_trial("ada")
    oracle.save()
    assert any(path.endswith("trial.json") for path in written)
    assert any(path.endswith("oracle.json") for path in written)


def test_the_oracles_file_names_the_trials_that_are_running(oracle, monkeypatch):
    """`Oracle.reload` reads "ongoing_trials". If the name or form changed, resume by another field:
    it says which worker has which trial."""
    saved = {}
    monkeypatch.setattr(
        keras_tuner.src.utils, "save_json", lambda path, value: saved.update({str(path): value})
    )
    trial = oracle.create_trial("ada")
    oracle.save()
    assert saved[oracle._get_oracle_fname()]["ongoing_trials"] == {"ada": trial.trial_id}


def test_trials_to_run_again_are_taken_from_the_end_of_a_queue(oracle):
    """`Oracle.reload` fills `_retry_queue`. If it went, running trials are not resumed."""
    first, second = oracle.create_trial("ada"), oracle.create_trial("emmy")
    oracle._retry_queue = [second.trial_id, first.trial_id]
    assert oracle.create_trial("grace").trial_id == first.trial_id
    assert oracle.create_trial("joan").trial_id == second.trial_id


def test_bayesian_optimization_draws_from_a_generator_that_can_be_set(oracle):
    """`populate_space` sets `_random_state`. If it is another attribute, a resumed search tries
    other points than an undisturbed one."""
    assert "_random_state" in inspect.getsource(BAYESIAN.populate_space)
    assert hasattr(oracle, "_random_state")


def test_an_oracle_knows_points_that_it_has_tried_and_can_draw_another(oracle):
    """`populate_space` calls `_duplicate` and `_random_populate_space`. If they went, Bayesian
    optimization may try a point twice."""
    values = oracle.create_trial("ada").hyperparameters.values
    drawn = oracle._random_populate_space()
    assert drawn["status"] == keras_tuner.engine.trial.TrialStatus.RUNNING
    assert oracle._duplicate(values) and not oracle._duplicate({"rate": 0.123})
    assert drawn["values"] != values


def test_a_tuner_fills_its_space_by_a_method_that_can_be_replaced():
    """`Tuner._populate_initial_space` takes up a search where this process has no file of its own.
    If keras-tuner calls another method, a worker under a new name begins the search anew."""
    assert "_populate_initial_space" in inspect.getsource(keras_tuner.engine.base_tuner.BaseTuner)
    assert callable(keras_tuner.Tuner._is_worker)
