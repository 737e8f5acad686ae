"""`python -m evaluator calibrate` through the real main."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import tiny_dataset
from brain_models import (
    config_of,
    read_brains,
    write_brain_model,
    write_brains,
    write_ensemble_models,
)

from evaluator.__main__ import run
from evaluator.brains import calibration, ensemble, tally
from evaluator.lesions import histograms
from evaluator.lesions.tallies import Tally
from evaluator.options import ModelChecks
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.resampling import Places
from ixi_tfds.images.tissue import tissue_means

FOLDERS = ("repair_sagittal", "repair_axial", "denoise_sagittal", "denoise_axial")


def calibrate(models, data, output, *more, dataset="brain_sagittal"):
    named = ",".join(str(pathlib.Path(model)) for model in models)
    where = [f"--data_dir={data}", f"--dataset=ixi_t1/{dataset}", f"--output_dir={output}"]
    return run(["calibrate", f"--saved_model={named}", *where, *more])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_brains(folder, copies=1)
    write_brains(folder, "axial")
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A folder with the models and, beside them, the ensemble."""
    folder = tmp_path_factory.mktemp("made")
    write_ensemble_models(folder)
    assert calibrate([folder / name for name in FOLDERS], data, folder) == 0
    return folder


def told(folder):
    return json.loads((folder / "ensemble.json").read_text())


def dataset(data):
    return data / "ixi_t1/brain_sagittal/1.0.0"


def digests(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "ensemble.json"
    }


def brain(values, mask, side=5.0):
    places = [Places(n, side, -(n - 1) / 2 * side) for n in mask.shape]
    return Brain(values, mask, (places[0], places[1], places[2]), 0.0)


def error_of(capsys):
    """The one line that a command says before it exits."""
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    return line


def test_the_file_names_each_model_by_its_place_task_plane_and_digest(made):
    for member, name in zip(told(made)["members"], FOLDERS, strict=True):
        task, plane = name.split("_")
        assert (member["path"], member["task"], member["plane"]) == (name, task, plane)
        files = ("saved_model.pb", "variables/variables.data-00000-of-00001")
        card = json.loads((made / name / "assets.extra/model_card.json").read_text())
        assert member["digest"] == card["digest"]
        assert all((made / name / file).is_file() for file in files)


@pytest.mark.parametrize("percentile", [99.5, 90.0])
def test_the_threshold_is_a_percentile_of_the_scores_of_validation_brains(
    made, data, tmp_path, percentile
):
    models = [made / name for name in FOLDERS]
    assert calibrate(models, data, tmp_path, f"--percentile={percentile}") == 0
    judge = tally.Judge(tuple(ensemble.read(made, ModelChecks())[1]))
    each = [
        abs(judge.judge(brain(values, mask), name).scores["ensemble"][mask])
        for name, values, mask in read_brains(dataset(data), "validation")
    ]
    scores = np.concatenate(each)
    found = told(tmp_path)
    assert found["percentile"] == percentile
    assert found["threshold"] == pytest.approx(np.percentile(scores, percentile), abs=2e-4)
    for at, score in found["healthy"]["percentiles"].items():
        assert score == pytest.approx(np.percentile(scores, float(at)), abs=2e-3)
    # What lies above in a brain that the threshold has not seen.
    above = []
    for place, mine in enumerate(each):
        others = np.concatenate([one for other, one in enumerate(each) if other != place])
        limit = np.percentile(others, percentile, method="inverted_cdf")
        above.append((mine > limit + 2e-4).sum())
    assert found["healthy"]["heads"] == 3 == len(above)
    shares = [count / mine.size for count, mine in zip(above, each, strict=True)]
    assert found["healthy"]["share"] == pytest.approx(np.mean(shares), rel=0.05, abs=2e-4)
    assert found["healthy"]["ml"] == pytest.approx(np.mean(above) * 0.125, rel=0.05, abs=0.3)


def test_alarms_are_expected_from_brains_that_the_threshold_has_not_seen():
    found = Tally()
    for name, scores in (("low", np.full(1000, 0.2)), ("high", np.full(1000, 0.8))):
        counts = histograms.count(scores, np.zeros(1000, bool))
        found.add(counts, subject=name)
    # All of the high one lies above the threshold of the low one, and none the other way round.
    assert calibration._expected_alarms(found, 99.0, 8.0) == pytest.approx((0.5, 4.0))


def test_the_tissues_are_medians_over_training_brains_without_their_copies(made, data):
    brains = [values[mask] for _, values, mask in read_brains(dataset(data), "train")]
    medians = np.median([tissue_means(values) for values in brains], axis=0)
    assert told(made)["tissues"] == pytest.approx(medians, abs=1e-4)


def test_the_same_command_gives_the_same_bytes_and_changes_no_model(made, data, tmp_path):
    before = digests(made)
    assert calibrate([made / name for name in FOLDERS], data, tmp_path / "again") == 0
    assert calibrate([made / name for name in FOLDERS], data, made) == 0
    assert digests(made) == before
    theirs = told(tmp_path / "again")
    assert all(member["path"].startswith("../") for member in theirs["members"])
    for found in (ours := told(made)), theirs:
        for member in found["members"]:
            member["path"] = pathlib.Path(member["path"]).name
    assert ours == theirs


def test_a_dataset_of_another_plane_has_the_same_brains(made, data, tmp_path):
    models = [made / name for name in FOLDERS]
    assert calibrate(models, data, tmp_path, dataset="brain_axial") == 0
    assert told(tmp_path)["threshold"] == pytest.approx(told(made)["threshold"], abs=1e-6)


def test_an_ensemble_can_be_moved_with_its_models(made, tmp_path):
    shutil.copytree(made, tmp_path / "elsewhere")
    _, models = ensemble.read(tmp_path / "elsewhere", ModelChecks())
    assert [model.folder for model in models] == [tmp_path / "elsewhere" / n for n in FOLDERS]


def test_few_brains_get_a_note(made, data, tmp_path, capsys):
    assert calibrate([made / "repair_axial"], data, tmp_path) == 0
    said = capsys.readouterr().out
    assert "note: 3 healthy brains are few for a threshold" in said
    assert "99.9% of the voxels of 3 healthy brains of ixi_t1/brain_sagittal" in said


def _whole_head_model(folder, data):
    config = tiny_dataset.TINY
    write_brain_model(folder / "model", config)
    return [folder / "model"], "is no model of brains"


def _other_spacing(folder, data):
    write_brain_model(folder / "ours", config_of())
    write_brain_model(folder / "model", config_of(spacing=4.0))
    return [folder / "ours", folder / "model"], (
        "takes brains in a box of 40x32x36 voxels of 4x4x4 mm, the first model in one of 40x32x36 "
        "voxels of 5x5x5 mm"
    )


def _changed(folder, data):
    write_brain_model(folder / "model", config_of())
    with (folder / "model/saved_model.pb").open("ab") as file:
        file.write(b" ")
    return [folder / "model"], "graph or variables are not those of its model card"


def _missing(folder, data):
    return [folder / "model"], "no such folder"


def _twice(folder, data):
    write_brain_model(folder / "model", config_of())
    return [folder / "model"] * 2, "is named twice"


def _not_finite(folder, data):
    write_brain_model(folder / "model", config_of(), residual=lambda volume: volume * np.inf)
    return [folder / "model"], "IXI904: model gives values that are not finite"


CASES = (_whole_head_model, _other_spacing, _changed, _missing, _twice, _not_finite)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_models_that_cannot_be_joined_get_one_line(data, tmp_path, capsys, case):
    models, said = case(tmp_path, data)
    assert calibrate(models, data, tmp_path / "out") == 2
    assert said in error_of(capsys)
    assert not (tmp_path / "out/ensemble.json").exists()


def test_a_dataset_of_whole_heads_gets_one_line(made, tmp_path, capsys):
    tiny_dataset.write_tiny_dataset(tmp_path)
    assert calibrate([made / "repair_axial"], tmp_path, tmp_path / "out", dataset="tiny") == 2
    said = error_of(capsys)
    assert "--dataset=ixi_t1/tiny: has slices [0, 4)" in said
    assert "the models need brains in a box of 40x32x36 voxels of 5x5x5 mm" in said


def _broken_json(folder):
    (folder / "ensemble.json").write_text("{")
    return "ensemble.json: is not the file of an ensemble"


def _without_threshold(folder):
    kept = {name: value for name, value in told(folder).items() if name != "threshold"}
    (folder / "ensemble.json").write_text(json.dumps(kept))
    return "ensemble.json: is not the file of an ensemble"


def _model_gone(folder):
    shutil.rmtree(folder / "denoise_axial")
    return f"{folder / 'denoise_axial'}: no SavedModel there"


def _another_model(folder):
    shutil.rmtree(folder / "denoise_axial")
    write_brain_model(folder / "denoise_axial", config_of("axial"), task="denoise", sharpness=9.0)
    write_brain_model(folder / "other", config_of("axial"), sharpness=9.0)
    shutil.rmtree(folder / "repair_axial")
    (folder / "other").rename(folder / "repair_axial")
    return "make the file again with python -m evaluator calibrate"


BROKEN = (_broken_json, _without_threshold, _model_gone, _another_model)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.__name__)
@pytest.mark.parametrize("command", ["anomalies", "reconstruct"])
def test_an_ensemble_that_is_not_whole_gets_one_line(made, data, tmp_path, capsys, case, command):
    shutil.copytree(made, tmp_path / "E")
    said = case(tmp_path / "E")
    where = [f"--data_dir={data}", "--dataset=ixi_t1/brain_axial"]
    if command == "reconstruct":
        (tmp_path / "scan.nii.gz").touch()
        where = [f"--input={tmp_path / 'scan.nii.gz'}"]
    flags = [f"--saved_model={tmp_path / 'E'}", f"--output_dir={tmp_path / 'out'}"]
    assert run([command, *flags, *where]) == 2
    assert said in error_of(capsys)
