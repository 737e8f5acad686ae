"""`python -m evaluator reconstruct` with an ensemble, through the real main."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from brain_models import (
    config_of,
    expected_mark,
    made_up_brain,
    write_brain_model,
    write_brains,
    write_ensemble_models,
)
from nibabel import orientations
from scipy import ndimage, stats
from untrained import export_network
from volumes import image

from evaluator.__main__ import run
from evaluator.brains import ensemble, maps, scans, tally
from evaluator.models import load_model, load_models
from evaluator.options import LENIENT, ModelChecks
from ixi_tfds import config as configs
from ixi_tfds.images.brain import Brain
from ixi_tfds.images.resampling import Places
from ixi_tfds.system.errors import UserError
from trainer.models import networks

KINDS = ("mark", "lesions", "anomaly", "reconstruction", "seen")
SHAPE = (52, 44, 40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_brains(folder / "data")
    named = ",".join(map(str, write_ensemble_models(folder)))
    where = [f"--data_dir={folder}/data", "--dataset=ixi_t1/brain_sagittal"]
    assert run(["calibrate", f"--saved_model={named}", *where, f"--output_dir={folder}"]) == 0
    return folder


def head(name="a", shape=SHAPE, lesion=True):
    """A head and its brain: in scanner units, int16 [P, S, R], and bool. 4x4x5 mm voxels."""
    values, brain = made_up_brain(name, shape, 4.3)
    if lesion:
        values[18:28, 18:27, 11:19] = 1.25
    outer = ndimage.binary_dilation(brain, iterations=4)
    scalp = outer & ~ndimage.binary_dilation(brain, iterations=2)
    skull = outer & ~scalp & ~brain
    whole = 700 * (values * brain + 0.9 * scalp + 0.1 * skull)
    return np.round(whole).astype(np.int16), brain


def write(folder, name, voxels, axes="PSR"):
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(image(voxels, axes), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def write_stripped(folder, name="a", axes="PSR", factor=1.0):
    whole, brain = head()
    return write(folder, name, np.round(whole * brain * factor).astype(np.int16), axes)


def judge(made, source, output, *more):
    """Without views, which take a second each, unless `--view` is among the flags."""
    flags = [f"--saved_model={made}", f"--input={source}", f"--output_dir={output}"]
    return run(["reconstruct", *flags, "--view=false", *more])


def maps_of(folder, name="a"):
    return {kind: nib.load(folder / f"{name}_{kind}.nii.gz") for kind in KINDS}


def facts_of(folder, name="a"):
    return json.loads((folder / f"{name}_reconstruction.json").read_text())


def errors(capsys):
    return [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]


@pytest.fixture(scope="module")
def judged(made, tmp_path_factory):
    """A stripped scan and the folder of its maps."""
    folder = tmp_path_factory.mktemp("judged")
    write_stripped(folder)
    assert judge(made, folder / "a.nii.gz", folder, "--view") == 0
    return folder


def test_the_maps_lie_on_the_grid_of_the_scan(judged):
    scan, found = nib.load(judged / "a.nii.gz"), maps_of(judged)
    brain = scan.get_fdata() > 0
    for kind, each in found.items():
        assert each.shape == scan.shape
        np.testing.assert_array_equal(each.affine, scan.affine)
        assert each.get_data_dtype() == (np.uint8 if kind in ("lesions", "seen") else np.float32)
    for kind in ("mark", "anomaly", "reconstruction"):
        values = found[kind].get_fdata()
        assert (np.isfinite(values) == brain).mean() > 0.999
        assert np.isnan(values[~brain]).mean() > 0.999
    seen, mark = (found[kind].get_fdata() for kind in ("seen", "mark"))
    assert (np.isfinite(mark) == (seen > 0)).all()
    # The rim of a voxel of the models, 5 mm, is not judged.
    assert (seen[ndimage.binary_erosion(brain, iterations=3)] == 2).all()
    assert set(np.unique(seen)) == {0, 1, 2} and (seen == 1).sum() > 0.05 * (seen > 0).sum()
    assert not mark[seen == 1].any() and not found["lesions"].get_fdata()[seen < 2].any()


def test_what_is_marked_is_the_mark_above_the_threshold_of_healthy_brains(made, judged):
    threshold = json.loads((made / "ensemble.json").read_text())["threshold"]
    mark, lesions = (maps_of(judged)[kind].get_fdata() for kind in ("mark", "lesions"))
    np.testing.assert_array_equal(lesions, np.nan_to_num(abs(mark)) > threshold)
    lesions = lesions > 0
    assert (mark[21:25, 21:24, 13:16] > threshold).all()
    facts = facts_of(judged)
    assert facts["above_threshold_ml"] == pytest.approx(lesions.sum() * 0.08, abs=0.006)
    assert facts["brain_ml"] == pytest.approx(np.isfinite(mark).sum() * 0.08, rel=2e-3)
    assert facts["above_threshold"] == pytest.approx(
        facts["above_threshold_ml"] / facts["brain_ml"], abs=1e-4
    )
    healthy = json.loads((made / "ensemble.json").read_text())["healthy"]
    assert (facts["healthy"], facts["healthy_ml"]) == (healthy["share"], healthy["ml"])
    assert facts["threshold"] == threshold
    assert facts["brain_mask"] is None
    assert list(facts["tissues"]) == ["fluid", "grey matter", "white matter"]
    # Those of the scan, before they were brought to those of training.
    assert facts["tissues"] != facts["tissues_of_training"]
    assert facts["tissues"]["white matter"] == pytest.approx(0.8, abs=0.05)
    assert (
        f"{healthy['ml']:.1f} ml ({healthy['share']:.2%}) on average in the 3"
        in facts["in_healthy"]
    )
    page = (judged / "a_view.html").read_text()
    assert f"<td>{facts['above_threshold_ml']:.1f} ml</td>" in page and facts["in_healthy"] in page


def test_the_parts_add_up_on_the_scale_of_tissues(judged):
    found = {kind: each.get_fdata() for kind, each in maps_of(judged).items()}
    whole = found["reconstruction"] + found["anomaly"]
    stored = nib.load(judged / "a.nii.gz").get_fdata()
    deep = ndimage.binary_erosion(stored > 0, iterations=2)
    deep[16:30, 16:29, 9:21] = False
    white = deep & (abs(stored - 560) < 20)
    assert np.median(whole[white]) == pytest.approx(0.8, abs=0.02)
    assert np.corrcoef(whole[deep], stored[deep])[0, 1] > 0.9


@pytest.mark.parametrize("mean", ["geometric", "arithmetic", None])
def test_marks_of_planes_are_joined_by_the_mean_of_the_file_and_judged_once(made, tmp_path, mean):
    """Files of earlier versions name none: they were calibrated by the arithmetic one."""
    shutil.copytree(made, tmp_path / "made")
    file = tmp_path / "made/ensemble.json"
    told = json.loads(file.read_text())
    assert told.pop("mean") == "geometric"
    file.write_text(json.dumps(told | ({"mean": mean} if mean else {})))
    path = write_stripped(tmp_path)
    assert judge(tmp_path / "made", path, tmp_path) == 0
    joined, _ = ensemble.read(made, ModelChecks())
    scan = scans.open_scan(str(path), None, joined, LENIENT)
    how = stats.gmean if mean == "geometric" else np.mean
    expected = expected_mark(scan.brain.values, scan.brain.mask, joined=how).astype(np.float32)
    back = scans.score_on_scan(scan, maps.judged(expected, scan.brain))
    mark = nib.load(tmp_path / "a_mark.nii.gz").get_fdata()
    np.testing.assert_allclose(np.nan_to_num(mark), back, atol=1e-5)
    assert np.abs(back).max() > 0.5


def test_models_of_one_plane_are_averaged_before_planes_are_joined(made):
    """So a second model of a plane gives that plane no more weight."""
    _, models = ensemble.read(made, ModelChecks())
    sagittal, axial = (model for model in models if ensemble.task_of(model) == "repair")
    other = dataclasses.replace(axial, name="another axial one")
    one, two, three = (np.full((2, 2, 2), each, np.float32) for each in (0.9, 0.2, 0.6))
    outputs = {
        model.name: {"mark": mark, "residual": np.ones_like(mark)}
        for model, mark in ((sagittal, one), (axial, two), (other, three))
    }
    found = maps.of_models([sagittal, axial, other], outputs, "geometric")["repair"]
    np.testing.assert_allclose(found, np.sqrt(0.9 * 0.4), rtol=1e-6)


def test_a_mean_of_a_later_version_is_refused_in_one_line(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "made")
    file = tmp_path / "made/ensemble.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mean": "harmonic"}))
    assert judge(tmp_path / "made", write_stripped(tmp_path), tmp_path) == 2
    (line,) = errors(capsys)
    assert str(file) in line and "harmonic" in line and "arithmetic and geometric" in line


def test_opposite_neighbours_do_not_cancel_on_the_scans_grid(made, judged):
    joined, _ = ensemble.read(made, ModelChecks())
    scan = scans.open_scan(str(judged / "a.nii.gz"), None, joined, LENIENT)
    stripes = np.ones(scan.brain.mask.shape, np.float32)
    stripes[::2] = -1
    back = scans.score_on_scan(scan, 0.5 * stripes)
    where = scan.inside & scans.seen(scan)
    np.testing.assert_allclose(np.abs(back[where]), 0.5, atol=1e-6)
    assert {-1.0, 1.0} == set(np.sign(back[where])) and not back[~where].any()


def test_the_view_opens_at_the_threshold_and_goes_without_it(made, judged, tmp_path):
    threshold = json.loads((made / "ensemble.json").read_text())["threshold"]
    page = (judged / "a_view.html").read_text()
    assert f"{threshold:.3f}" in page and "repair sagittal" in page
    shutil.copytree(judged, tmp_path / "again")
    assert judge(made, judged / "a.nii.gz", tmp_path / "again") == 0
    assert not [*(tmp_path / "again").glob("*_view.*")]


def test_the_same_scan_gives_the_same_bytes(made, judged, tmp_path):
    assert judge(made, judged / "a.nii.gz", tmp_path, "--view") == 0
    names = {path.name for path in judged.iterdir()} - {"a.nii.gz"}
    assert len(names) == len(KINDS) + 3
    for name in names:
        assert (judged / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("axes", ["LAS", "RPI", "oblique"])
def test_the_same_anatomy_in_other_axes_has_the_same_marks(made, judged, tmp_path, axes):
    path = write_stripped(tmp_path, axes="LAS" if axes == "oblique" else axes)
    if axes == "oblique":
        scan = nib.load(path)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
        nib.save(nib.Nifti1Image(scan.dataobj, turn @ scan.affine), path)
    assert judge(made, path, tmp_path) == 0
    ours, theirs = nib.load(judged / "a_mark.nii.gz"), nib.load(tmp_path / "a_mark.nii.gz")
    turn = orientations.ornt_transform(
        orientations.io_orientation(
            image(np.zeros(SHAPE), "LAS" if axes == "oblique" else axes).affine
        ),
        orientations.axcodes2ornt("PSR"),
    )
    back = orientations.apply_orientation(theirs.get_fdata(), turn)
    np.testing.assert_allclose(back, ours.get_fdata(), atol=2e-3)


def test_a_smooth_bias_field_hardly_changes_the_marks(made, judged, tmp_path):
    p, s, r = (np.linspace(-1, 1, n) for n in SHAPE)
    field = np.exp(0.25 * p[:, None, None] + 0.15 * s[:, None] ** 2 - 0.1 * r)
    assert field.max() / field.min() > 1.8
    path = write_stripped(tmp_path, factor=field)
    assert judge(made, path, tmp_path) == 0
    ours, theirs = (nib.load(each / "a_mark.nii.gz").get_fdata() for each in (judged, tmp_path))
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert abs(ours - theirs)[both].mean() < 0.02
    marked = [nib.load(each / "a_lesions.nii.gz").get_fdata() > 0 for each in (judged, tmp_path)]
    assert 2 * (marked[0] & marked[1]).sum() / sum(each.sum() for each in marked) > 0.9


def write_heads(folder, *names):
    for name in names:
        whole, brain = head(name)
        write(folder / "scans", name, whole)
        write(folder / "masks", f"{name}_mask", brain.astype(np.uint8))
    return folder / "scans"


def test_whole_heads_of_a_folder_are_judged_within_their_masks(made, tmp_path, capsys):
    source = write_heads(tmp_path, "a", "b")
    masks = f"--brain_masks={tmp_path / 'masks'}"
    assert judge(made, source, tmp_path / "out", masks) == 0
    said = capsys.readouterr().out
    assert "ml of brain" in said and "in the 3 healthy brains that the threshold comes from" in said
    assert facts_of(tmp_path / "out")["brain_mask"] == "a_mask.nii.gz"
    whole, brain = head("b")
    mark = nib.load(tmp_path / "out/b_mark.nii.gz").get_fdata()
    assert (np.isfinite(mark) == brain).mean() > 0.999
    # A stripped scan is the same brain.
    stripped = write(tmp_path / "stripped", "b", whole * brain)
    assert judge(made, stripped, tmp_path / "stripped") == 0
    theirs = nib.load(tmp_path / "stripped/b_mark.nii.gz").get_fdata()
    np.testing.assert_allclose(np.nan_to_num(mark), np.nan_to_num(theirs), atol=0.02)
    one = f"--brain_masks={tmp_path / 'masks/b_mask.nii.gz'}"
    assert judge(made, source / "b.nii.gz", tmp_path / "single", one) == 0
    path = "b_mark.nii.gz"
    assert (tmp_path / "single" / path).read_bytes() == (tmp_path / "out" / path).read_bytes()
    assert judge(made, source, tmp_path / "out", one) == 2
    assert "give a folder for several scans" in errors(capsys)[0]


def test_a_whole_head_without_a_mask_gets_one_line_and_no_maps(made, tmp_path, capsys):
    source = write_heads(tmp_path, "a")
    assert judge(made, source / "a.nii.gz", tmp_path / "out") == 2
    (said,) = errors(capsys)
    assert "a.nii.gz: is a whole head, and a model of brains needs a mask of its brain" in said
    assert "HD-BET or SynthStrip" in said and "--brain_masks" in said
    assert not [*(tmp_path / "out").glob("*")]


def test_a_mask_of_another_grid_gets_one_line(made, tmp_path, capsys):
    source = write_heads(tmp_path, "a")
    mask = nib.load(tmp_path / "masks/a_mask.nii.gz")
    moved = mask.affine.copy()
    moved[0, 3] += 6
    nib.save(nib.Nifti1Image(mask.dataobj, moved), tmp_path / "masks/a_mask.nii.gz")
    masks = f"--brain_masks={tmp_path / 'masks'}"
    assert judge(made, source / "a.nii.gz", tmp_path / "out", masks) == 2
    assert "lie up to 6.0 mm elsewhere; make the mask from this very file" in errors(capsys)[0]


def test_a_folder_goes_on_after_a_bad_scan_and_skips_earlier_results(made, tmp_path, capsys):
    for name in ("a", "c"):
        write_stripped(tmp_path, name)
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:2000])
    assert judge(made, tmp_path, tmp_path) == 2
    (said,) = errors(capsys)
    assert "1 of 3 scans refused" in said and "b.nii.gz" in said
    assert all((tmp_path / f"{name}_mark.nii.gz").exists() for name in ("a", "c"))
    (tmp_path / "b.nii.gz").unlink()
    before = {path.name for path in tmp_path.iterdir()}
    assert judge(made, tmp_path, tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out.count("ml of brain") == 2
    # A scan that only sounds like a result.
    write_stripped(tmp_path, "own_mark")
    assert judge(made, tmp_path, tmp_path) == 0
    assert capsys.readouterr().out.count("ml of brain") == 3
    assert (tmp_path / "own_mark_mark.nii.gz").exists()


def _inverted(whole, brain):
    return np.where(brain, 900 - whole, 0)


def _large(whole, brain):
    """A brain twice as long, beyond the box."""
    return np.repeat(whole * brain, 2, axis=0)


ODD = {
    "contrast": (_inverted, "the scan may be no T1-weighted one"),
    "size": (_large, "of the brain lies outside the models' box and was not judged"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_scan_unlike_those_of_training_gets_a_warning_or_is_refused(made, tmp_path, capsys, case):
    changed, said = ODD[case]
    path = write(tmp_path, "a", changed(*head(lesion=False)).astype(np.int16))
    assert judge(made, path, tmp_path / "out", "--view") == 0
    (warning,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert warning.startswith(f"warning: {path}: ") and said in warning
    assert said in facts_of(tmp_path / "out")["warnings"][0]
    assert said.replace("'", "&#39;") in (tmp_path / "out/a_view.html").read_text()
    if case == "size":
        outside = facts_of(tmp_path / "out")["brain_outside_box"]
        seen = nib.load(tmp_path / "out/a_seen.nii.gz").get_fdata() > 0
        brain = nib.load(path).get_fdata() > 0
        assert outside == pytest.approx(1 - (seen & brain).sum() / brain.sum(), abs=0.02)
    assert judge(made, path, tmp_path / "strict", "--strict") == 2
    assert said in errors(capsys)[0] and not [*(tmp_path / "strict").glob("*.nii.gz")]


def test_a_model_that_gives_nan_gets_one_line(made, tmp_path, capsys):
    folder = shutil.copytree(made, tmp_path / "E")
    joined = json.loads((folder / "ensemble.json").read_text())
    bad = write_brain_model(folder / "bad", config_of(), residual=lambda volume: volume * np.nan)
    joined["members"] = joined["members"][:1]
    joined["members"][0]["path"] = "bad"
    joined["members"][0]["digest"] = load_model(bad).sha256
    (folder / "ensemble.json").write_text(json.dumps(joined))
    assert judge(folder, write_stripped(tmp_path), tmp_path / "out") == 2
    assert errors(capsys)[0].endswith("a.nii.gz: bad gives values that are not finite")


def test_only_the_models_that_make_the_mark_are_asked(made, judged, tmp_path):
    """A denoiser beside them that gives NaN changes nothing."""
    folder = shutil.copytree(made, tmp_path / "E")
    joined = json.loads((folder / "ensemble.json").read_text())
    repairs = [each for each in joined["members"] if each["task"] == "repair"]
    bad = write_brain_model(
        folder / "bad", config_of(), task="denoise", residual=lambda volume: volume * np.nan
    )
    denoiser = dict(repairs[0], task="denoise", path="bad", digest=load_model(bad).sha256)
    joined["members"] = [denoiser, *repairs]
    (folder / "ensemble.json").write_text(json.dumps(joined))
    assert judge(folder, judged / "a.nii.gz", tmp_path / "out") == 0
    alone, beside = (maps_of(each)["mark"].get_fdata() for each in (judged, tmp_path / "out"))
    np.testing.assert_array_equal(alone, beside)
    facts = facts_of(tmp_path / "out")
    assert facts["models"].keys() == {each["path"] for each in repairs}


def test_for_maps_the_models_of_the_mark_are_loaded_under_the_same_names(made):
    joined, every = ensemble.read(made, ModelChecks())
    again, some = ensemble.read(made, ModelChecks(), for_mark=True)
    marking = [model for model in every if ensemble.task_of(model) == "repair"]
    assert joined == again and 0 < len(some) == len(marking) < len(every)
    assert [(m.name, m.folder, m.sha256) for m in some] == [
        (m.name, m.folder, m.sha256) for m in marking
    ]


def test_names_differ_from_those_of_models_that_are_not_loaded(made, tmp_path):
    paths = [tmp_path / place / "unet/1" for place in ("a/axial", "a/sagittal", "b/axial")]
    for path in paths:
        shutil.copytree(made / "repair_axial", path)
    both = [model.name for model in load_models(paths[:2])]
    assert both == ["axial", "sagittal"]
    beside = [model.name for model in load_models(paths[:2], beside=paths[2:])]
    assert beside == [model.name for model in load_models(paths)][:2] != both


def test_a_changed_model_beside_those_of_the_mark_is_refused(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "E")
    shutil.rmtree(folder / "denoise_axial")
    write_brain_model(folder / "denoise_axial", config_of("axial"), task="denoise", sharpness=9.0)
    with pytest.raises(UserError, match="denoise_axial: has the digest"):
        ensemble.read(folder, ModelChecks(), for_mark=True)


def test_without_baselines_the_other_scores_are_the_same(made):
    _, models = ensemble.read(made, ModelChecks(), for_mark=True)
    values, mask = made_up_brain("a")
    places = [Places(n, 5.0, 0.0) for n in mask.shape]
    brain = Brain(values, mask, (places[0], places[1], places[2]), 0.0)
    judges = (tally.Judge(tuple(models)), tally.Judge(tuple(models), baselines=False))
    all_scores, some = (judge.judge(brain, "a").scores for judge in judges)
    assert some.keys() == all_scores.keys() - {maps.BLURRED, maps.INTENSITY} == {maps.ENSEMBLE}
    np.testing.assert_array_equal(some[maps.ENSEMBLE], all_scores[maps.ENSEMBLE])


def test_flags_that_an_ensemble_would_ignore_are_refused(made, judged, tmp_path, capsys):
    assert judge(made, judged / "a.nii.gz", tmp_path / "out", "--batch_size=16") == 2
    assert "--batch_size: does not go with an ensemble" in errors(capsys)[0]


def test_brain_masks_without_an_ensemble_are_refused(made, judged, tmp_path, capsys):
    model, scan = made / "repair_axial", judged / "a.nii.gz"
    assert judge(model, scan, tmp_path / "out", f"--brain_masks={tmp_path}") == 2
    assert "--brain_masks goes with an ensemble only" in errors(capsys)[0]


def test_scores_are_zero_in_the_rim_and_outside_and_single_voxels_vanish():
    values, mask = made_up_brain("a")
    places = [Places(n, 5.0, 0.0) for n in mask.shape]
    brain = Brain(values, mask, (places[0], places[1], places[2]), 0.0)
    signed = np.where(mask, 0.5, 0).astype(np.float32)
    signed[20, 16, 18] = -1
    score = maps.judged(signed, brain)
    assert score.dtype == np.float32 and not score[~mask].any()
    deep = ndimage.distance_transform_edt(mask, sampling=5.0)
    assert not score[deep <= 0.8 * maps.RIM_MM].any()
    assert (score[deep > 12] == 0.5).all()


@pytest.mark.slow
@pytest.mark.real_data
def test_real_t1_scans_with_and_without_lesions_get_no_warning(made, real_data, tmp_path):
    joined, _ = ensemble.read(made, ModelChecks())
    joined = dataclasses.replace(
        joined, slices=configs.CONFIGS["brain_2mm_axial"], tissues=(0.45, 0.68, 0.8)
    )
    paths = [
        *(real_data / "ixi/stripped").glob("*T1*.nii.gz"),
        *(real_data / "tumours/brats13").glob("*_T1c*.nii.gz"),
        real_data / "tumours/glioma_FG6692_T1.nii.gz",
        real_data / "lesions/openms_p07_T1_MNI.nii.gz",
    ]
    assert len(paths) == 9
    for path in paths:
        scan = scans.open_scan(str(path), None, joined, LENIENT)
        assert scan.warnings == [], path
        if "stripped" in str(path):
            values = scan.volume.scaled(scan.volume.voxels)
            turned = np.where(scan.inside, values[scan.inside].max() + 1 - values, 0)
            nib.save(
                nib.Nifti1Image(turned.astype(np.int16), scan.volume.affine), tmp_path / "x.nii"
            )
            (warning,) = scans.open_scan(str(tmp_path / "x.nii"), None, joined, LENIENT).warnings
            assert "no T1-weighted one" in warning


def test_the_trainers_own_exports_judge_a_scan(made, judged, tmp_path):
    members = []
    for task in ("repair", "denoise"):
        for plane in ("sagittal", "axial", "coronal"):
            network = networks.UNet(filters=(8, 16), marks=task == "repair")
            network(np.zeros((1, *config_of(plane).size, 1), np.float32))
            folder = tmp_path / f"E/{task}_{plane}/1"
            members.append(
                export_network(network, folder, "unet", brains=config_of(plane), task=task)
            )
    named = ",".join(str(member.parent) for member in members)
    where = [f"--data_dir={made}/data", "--dataset=ixi_t1/brain_sagittal"]
    assert run(["calibrate", f"--saved_model={named}", *where, f"--output_dir={tmp_path}/E"]) == 0
    told = json.loads((tmp_path / "E/ensemble.json").read_text())["members"]
    assert [each["path"] for each in told] == [f"{m.parent.name}/1" for m in members]
    assert [each["plane"] for each in told] == ["sagittal", "axial", "coronal"] * 2
    assert judge(tmp_path / "E", judged / "a.nii.gz", tmp_path / "out") == 0
    found = {kind: each.get_fdata() for kind, each in maps_of(tmp_path / "out").items()}
    brain = found["seen"] > 0
    # The last layer begins with zeros: nothing is changed, and all marks are one half.
    np.testing.assert_allclose(found["anomaly"][brain], 0, atol=1e-5)
    assert np.isfinite(found["mark"][brain]).all()
