"""`python -m evaluator anomalies` with an ensemble, through the real main."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import sklearn.metrics
import tiny_dataset
from brain_models import (
    config_of,
    made_up_brain,
    read_brains,
    write_brain_model,
    write_brains,
    write_ensemble_models,
)
from scipy import ndimage
from volumes import image

from evaluator.__main__ import run
from evaluator.brains import ensemble, maps, synthetic, tally
from evaluator.lesions import histograms
from evaluator.lesions.maps import BLURRED, INTENSITY
from evaluator.models import load_model
from evaluator.options import ModelChecks
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.resampling import Places

METHODS = ["ensemble", "denoise", "plain alone", BLURRED, INTENSITY]
VOXEL_ML = 0.125


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_brains(folder)
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    named = ",".join(map(str, write_ensemble_models(folder)))
    where = [f"--data_dir={data}", "--dataset=ixi_t1/brain_sagittal", f"--output_dir={folder}"]
    assert run(["calibrate", f"--saved_model={named}", *where]) == 0
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "plain"
    return write_brain_model(
        folder, config_of(), task="reconstruct", residual=lambda volume: 0.5 * (volume - 0.7)
    )


def anomalies(models, data, output, *more, dataset="brain_sagittal"):
    named = ",".join(map(str, models))
    where = [f"--data_dir={data}", f"--dataset=ixi_t1/{dataset}", f"--output_dir={output}"]
    return run(["anomalies", f"--saved_model={named}", *where, *more])


@pytest.fixture(scope="module")
def output(made, plain, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "new"
    assert anomalies([made, plain], data, folder, "--seed=3") == 0
    return folder


def told_of(file):
    return json.loads(file.read_text())


def told(folder):
    return told_of(folder / "anomalies.json")


def row_of(folder, method, looks_for="either", subject=""):
    with (folder / "anomalies.csv").open() as file:
        (row,) = [
            row
            for row in csv.DictReader(file)
            if (row["method"], row["looks_for"], row["subject"]) == (method, looks_for, subject)
        ]
    return row


@pytest.fixture(scope="module")
def judge(made, plain):
    models = ensemble.read(made, ModelChecks())[1]
    beside = load_model(plain)
    return tally.Judge(tuple(models), (beside,))


def brains(data, split):
    folder = data / "ixi_t1/brain_sagittal/1.0.0"
    for name, values, mask in read_brains(folder, split):
        places = [Places(n, 5.0, -(n - 1) / 2 * 5.0) for n in mask.shape]
        yield name, Brain(values, mask, (places[0], places[1], places[2]), 0.0)


@pytest.fixture(scope="module")
def scored(judge, data):
    """Scores of each method in the test brains with lesions, what is lesion, and who it is."""
    found = {}
    for name, brain in brains(data, "test"):
        for number in range(tally.ROUNDS):
            ill, numbers = synthetic.add_lesions(brain, name=f"{name} {number}", seed=3)
            judged = judge.judge(ill, name)
            found[name, number] = judged.scores, brain.mask, numbers
    return found


def percentile(judge, data, method, of=abs, at=99.9):
    scores = [
        of(judge.judge(brain, name).scores[method][brain.mask])
        for name, brain in brains(data, "validation")
    ]
    return np.percentile(np.concatenate(scores), at, method="inverted_cdf")


@pytest.mark.parametrize("method", ["ensemble", "denoise", "plain", BLURRED, INTENSITY])
@pytest.mark.parametrize("looks_for", ["either", "dark"])
def test_numbers_are_those_of_scikit_learn_on_the_same_voxels(
    output, scored, judge, data, method, looks_for
):
    of = abs if looks_for == "either" else np.negative
    limit = percentile(judge, data, method, of)
    shown = f"{method} alone" if method == "plain" else method
    for subject in ("", "IXI908"):
        chosen = [each for (name, _), each in scored.items() if subject in ("", name)]
        scores = np.concatenate([of(scores[method][mask]) for scores, mask, _ in chosen])
        marked = np.concatenate([numbers[mask] > 0 for _, mask, numbers in chosen])
        row = row_of(output, shown, looks_for, subject)
        assert int(row["pixels"]) == marked.size
        assert int(row["lesion_pixels"]) == marked.sum() > 100
        assert float(row["threshold"]) == pytest.approx(limit, abs=3e-4)
        area = sklearn.metrics.average_precision_score(marked, scores)
        assert float(row["auprc"]) == pytest.approx(area, abs=histograms.TOLERANCE)
        area = sklearn.metrics.roc_auc_score(marked, scores)
        assert float(row["auroc"]) == pytest.approx(area, abs=histograms.TOLERANCE)
        dice = sklearn.metrics.f1_score(marked, scores > float(row["threshold"]))
        assert float(row["dice"]) == pytest.approx(dice, abs=0.01)


def test_intervals_are_of_people_not_of_the_rounds_of_lesions(output):
    row = row_of(output, "ensemble")
    assert float(row["auprc_low"]) < float(row["auprc"]) < float(row["auprc_high"])
    with (output / "anomalies.csv").open() as file:
        people = {row["subject"] for row in csv.DictReader(file)} - {""}
    assert people == {"IXI907", "IXI908", "IXI909"}
    assert "as few as 3 people" in told(output)["intervals"]["caution"]


def test_every_method_goes_through_the_same_post_processing(judge, data, monkeypatch):
    name, brain = next(brains(data, "test"))
    seen = []
    monkeypatch.setattr(
        maps, "judged", lambda signed, inside: seen.append(inside) or np.full_like(signed, 0.25)
    )
    scores = judge.judge(brain, name).scores
    assert list(scores) == ["ensemble", "denoise", "plain", BLURRED, INTENSITY]
    assert all((score == 0.25).all() for score in scores.values())
    assert len(seen) == len(scores) and all(inside is brain for inside in seen)


def test_false_alarms_are_those_of_healthy_test_brains(output, judge, data):
    rows = {
        row["method"]: row for row in told(output)["false_alarms"] if row["looks_for"] == "either"
    }
    assert list(rows) == METHODS and told(output)["healthy_heads"] == 3
    for method in ("ensemble", "plain", INTENSITY):
        shown = f"{method} alone" if method == "plain" else method
        limit = float(row_of(output, shown)["threshold"])
        above, voxels = 0, 0
        for name, brain in brains(data, "test"):
            score = judge.judge(brain, name).scores[method][brain.mask]
            above += (abs(score) > limit).sum()
            voxels += score.size
        assert rows[shown]["share"] == pytest.approx(above / voxels, abs=2e-5)
        assert rows[shown]["ml"] == pytest.approx(above * VOXEL_ML / 3, abs=0.1)


def test_lesions_are_found_by_size(output, scored):
    limit = float(row_of(output, "ensemble")["threshold"])
    found = {}
    for scores, _, numbers in scored.values():
        for number in range(1, numbers.max() + 1):
            inside = numbers == number
            ml = inside.sum() * VOXEL_ML
            if ml:
                size = next(i for i, top in enumerate((1, 5, 20, np.inf)) if ml < top)
                share = (abs(scores["ensemble"][inside]) > limit).mean()
                found.setdefault(size, []).append(share >= 0.1)
    sizes = ("0 to 1 ml", "1 to 5 ml", "5 to 20 ml", "from 20 ml")
    rows = [row for row in told(output)["by_size"] if row["method"] == "ensemble"]
    assert [(row["size"], row["lesions"]) for row in rows] == [
        (sizes[size], len(each)) for size, each in sorted(found.items())
    ]
    assert [row["found"] for row in rows] == [
        pytest.approx(np.mean(each), abs=1e-6) for _, each in sorted(found.items())
    ]
    assert told(output)["counts"]["lesions"] == sum(map(len, found.values()))


def test_quality_is_the_psnr_of_healthy_brains_by_each_model(output, judge, data):
    quality = told(output)["quality"]
    assert list(quality) == ["repair", "denoise", "plain alone"]
    errors = [
        np.square(0.5 * (brain.values - 0.7))[brain.mask] for _, brain in brains(data, "test")
    ]
    assert quality["plain alone"] == pytest.approx(
        10 * np.log10(1.6**2 / np.concatenate(errors).mean()), abs=0.01
    )
    page = (output / "anomalies.html").read_text()
    assert "Reconstruction against finding" in page and "False alarms" in page


def test_the_same_command_gives_the_same_bytes(made, plain, data, output, tmp_path):
    assert anomalies([made, plain], data, tmp_path, "--seed=3") == 0
    for path in output.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name
    assert anomalies([made, plain], data, tmp_path, "--seed=4") == 0
    assert told(tmp_path)["overall"] != told(output)["overall"]


@pytest.mark.parametrize(
    "flag",
    ["percentile=99", "region=head", "smooth_sigma=0", "blur_sigma=0.02", "batch_size=32"],
)
def test_flags_that_an_ensemble_would_ignore_are_refused(made, data, tmp_path, capsys, flag):
    assert anomalies([made], data, tmp_path / "out", f"--{flag}") == 2
    said = capsys.readouterr().err
    assert f"error: --{flag.split('=')[0]}: does not go with an ensemble" in said
    assert not (tmp_path / "out").exists()


def _two(made, plain):
    return [made, made], "name one ensemble, and that first"


def _behind(made, plain):
    return [plain, made], "name one ensemble, and that first"


@pytest.mark.parametrize("case", [_two, _behind], ids=lambda case: case.__name__)
def test_an_ensemble_comes_first_and_alone(made, plain, data, tmp_path, capsys, case):
    models, said = case(made, plain)
    assert anomalies(models, data, tmp_path / "out") == 2
    assert said in capsys.readouterr().err


def test_a_model_of_whole_heads_beside_it_gets_one_line(made, data, tmp_path, capsys):
    write_brain_model(tmp_path / "heads", tiny_dataset.TINY)
    assert anomalies([made, tmp_path / "heads"], data, tmp_path / "out") == 2
    assert f"--saved_model={tmp_path / 'heads'}: is no model of brains" in capsys.readouterr().err


def test_an_ensemble_of_an_earlier_version_is_scored_by_the_mean_it_was_calibrated_by(
    made, plain, data, output, tmp_path
):
    shutil.copytree(made, tmp_path / "made")
    file = tmp_path / "made/ensemble.json"
    file.write_text(json.dumps({k: v for k, v in told_of(file).items() if k != "mean"}))
    assert anomalies([tmp_path / "made", plain], data, tmp_path / "out", "--seed=3") == 0
    assert told(tmp_path / "out")["settings"]["mean_over_planes"] == "arithmetic"
    assert told(output)["settings"]["mean_over_planes"] == "geometric"
    # These models rank voxels alike; marks of one and three differ by their means.
    old, new = (float(row_of(each, "ensemble")["threshold"]) for each in (tmp_path / "out", output))
    assert new / old == pytest.approx(3**0.5 / 2, rel=0.01)
    for method in METHODS[1:]:
        assert row_of(tmp_path / "out", method) == row_of(output, method)


def test_a_model_of_the_ensemble_can_stand_beside_it(made, data, tmp_path):
    assert anomalies([made, made / "denoise_axial"], data, tmp_path) == 0
    alone, task = (row_of(tmp_path, method) for method in ("denoise_axial alone", "denoise"))
    assert alone["auprc"] == task["auprc"]


def test_brain_masks_without_an_ensemble_are_refused(plain, data, tmp_path, capsys):
    assert anomalies([plain], data, tmp_path / "out", f"--brain_masks={tmp_path}") == 2
    assert "error: --brain_masks goes with an ensemble only" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    """Two whole heads with a bright lesion each, their lesion masks, and masks of their brains."""
    folder = tmp_path_factory.mktemp("ill")
    (folder / "scans").mkdir()
    (folder / "masks").mkdir()
    for number, name in enumerate(("a", "b")):
        write_ill(folder, name, number)
    return folder


def write_ill(folder, name, number):
    values, brain = made_up_brain(name, (52, 44, 40), 4.5)
    lesion = np.zeros(brain.shape, bool)
    lesion[18:24, 20 + number : 25 + number, 12:17] = True
    lesion &= brain
    values = np.where(lesion, 1.3, values)
    outer = ndimage.binary_dilation(brain, iterations=4)
    scalp = outer & ~ndimage.binary_dilation(brain, iterations=2)
    head = np.round(700 * (values * brain + 0.9 * scalp + 0.1 * (outer & ~scalp & ~brain)))
    stored = (("scans", f"{name}_T1", head), ("scans", f"{name}_lesion", lesion))
    for kind, stem, voxels in (*stored, ("masks", f"{name}_T1_mask", brain)):
        nib.save(image(voxels.astype(np.int16)), folder / kind / f"{stem}.nii.gz")


@pytest.fixture(scope="module")
def judged(made, data, ill, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    where = [f"--source_dir={ill / 'scans'}", f"--brain_masks={ill / 'masks'}"]
    assert anomalies([made], data, folder, *where) == 0
    return folder


def test_lesions_of_scans_are_scored_on_the_scans_own_grids(judged, made, ill, tmp_path):
    flags = [f"--saved_model={made}", f"--output_dir={tmp_path}", "--noview"]
    where = [f"--input={ill / 'scans'}", f"--brain_masks={ill / 'masks'}"]
    assert run(["reconstruct", *flags, *where]) == 0
    for name in ("a", "b"):
        mark = nib.load(tmp_path / f"{name}_T1_mark.nii.gz").get_fdata()
        marked = nib.load(ill / f"scans/{name}_lesion.nii.gz").get_fdata() > 0
        seen = np.isfinite(mark)
        row = row_of(judged, "ensemble", "bright", name)
        missed = (marked & ~seen).sum()
        assert int(row["lesion_pixels"]) == marked.sum()
        assert int(row["pixels"]) == seen.sum() + missed
        area = sklearn.metrics.average_precision_score(
            np.append(marked[seen], np.ones(missed)), np.append(mark[seen], np.full(missed, -1))
        )
        assert float(row["auprc"]) == pytest.approx(area, abs=histograms.TOLERANCE)
        assert area > 0.5


def test_scans_have_a_view_with_the_lesion_outlined(judged):
    assert told(judged)["views"] == ["a", "b"]
    page = (judged / "anomaly_views/a_view.html").read_text()
    assert 'id="data-marks"' in page
    assert (judged / "anomaly_views/b_view.png").stat().st_size > 10_000
    assert told(judged)["lesions"] == "those of 2 scans with a mask, on the scans' own grids"


def test_a_whole_head_without_its_mask_gets_one_line(made, data, ill, tmp_path, capsys):
    assert anomalies([made], data, tmp_path, f"--source_dir={ill / 'scans'}", "--noview") == 2
    said = capsys.readouterr().err
    assert "a_T1.nii.gz: is a whole head" in said and "HD-BET or SynthStrip" in said


def test_lesions_outside_the_brain_mask_are_told_and_masks_without_lesion_end_in_a_report(
    made, data, ill, tmp_path, capsys
):
    shutil.copytree(ill, tmp_path / "ill")
    where = [f"--source_dir={tmp_path / 'ill/scans'}", f"--brain_masks={tmp_path / 'ill/masks'}"]
    for name, voxels in (("a", 0), ("b", 8)):
        path = tmp_path / f"ill/scans/{name}_lesion.nii.gz"
        lesion = nib.load(path)
        empty = np.zeros(lesion.shape, np.int16)
        # In a corner, far from the brain.
        empty[:voxels, 0, 0] = 1
        nib.save(nib.Nifti1Image(empty, lesion.affine), path)
    assert anomalies([made], data, tmp_path / "out", *where, "--noview") == 0
    assert "warning: b: 8 of 8 lesion voxels (100.0%) lie outside" in capsys.readouterr().err
    assert told(tmp_path / "out")["lesion_voxels_unseen"] == {"b": 8}
    (tmp_path / "ill/scans/b_lesion.nii.gz").write_bytes(
        (tmp_path / "ill/scans/a_lesion.nii.gz").read_bytes()
    )
    assert anomalies([made], data, tmp_path / "none", *where, "--noview") == 0
    assert (tmp_path / "none/anomalies.html").exists()
