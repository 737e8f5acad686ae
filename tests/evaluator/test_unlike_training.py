"""`evaluator reconstruct` and `anomalies` say which scans look unlike the training data."""

import dataclasses
import html
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from made_up_heads import GRID, write_made_up
from test_reconstruct import reconstruct, write_copier
from tiny_dataset import write_tiny_dataset

from evaluator import __main__ as evaluator
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import codec, manifest, model_card
from ixi_tfds.images.look import look_of, typical
from ixi_tfds.nifti import read_volume

CONFIG = SliceConfig("tiny", in_plane=(72, 72), size=(72, 72), window=(18, 24))
GEOMETRY = {"shape": list(GRID["shape"]), "zooms": list(GRID["zooms"])}
STRIPPED = "looks skull-stripped, unlike the training heads"
WHOLE = "looks like a whole head, and the training heads are skull-stripped"


def typical_of(folder, numbers, *, stripped):
    paths = [write_made_up(folder, number, stripped=stripped) for number in numbers]
    return typical([look_of(read_volume(str(path))) for path in paths])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The typical looks of whole and of stripped heads."""
    folder = tmp_path_factory.mktemp("heads")
    return {
        "whole": typical_of(folder / "whole", range(6), stripped=False),
        "stripped": typical_of(folder / "stripped", range(6), stripped=True),
    }


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    return write_copier(tmp_path_factory.mktemp("copier") / "copy", CONFIG, GEOMETRY)


def model_of(folder, copier, *looks):
    """A model trained on datasets of these looks; None for a dataset of before."""
    shutil.copytree(copier, folder)
    path = folder / model_card.CARD
    card = json.loads(path.read_text())
    (facts,) = card["datasets"].values()
    card["datasets"] = {
        f"ixi_t1/{number}": facts | ({"look": codec.to_plain(look)} if look else {})
        for number, look in enumerate(looks)
    }
    path.write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A whole head and a stripped one of people who are not in the training data."""
    folder = tmp_path_factory.mktemp("scans")
    write_made_up(folder, 7)
    write_made_up(folder, 8, stripped=True)
    (whole, bare) = sorted(folder.iterdir())
    return {"whole": whole, "stripped": bare, "folder": folder}


def facts_in(folder, scan):
    name = scan.name.removesuffix(".nii.gz")
    return json.loads((folder / f"{name}_reconstruction.json").read_text())


@pytest.mark.parametrize(("trained", "said"), [("whole", STRIPPED), ("stripped", WHOLE)])
def test_a_scan_of_the_other_kind_gets_a_warning_and_its_maps(
    copier, kinds, scans, tmp_path, capsys, trained, said
):
    model = model_of(tmp_path / "model", copier, kinds[trained])
    assert reconstruct(model, scans["folder"], tmp_path / "out") == 0
    (other,) = {"whole", "stripped"} - {trained}
    captured = capsys.readouterr()
    assert f"warning: {scans[other]}: {said}\n" in captured.err
    assert captured.err.count(said) == 1 and "not checked" not in captured.out
    facts = facts_in(tmp_path / "out", scans[other])
    assert facts["unlike_training"] == [said] and said in facts["warnings"]
    facts = facts_in(tmp_path / "out", scans[trained])
    assert facts["unlike_training"] == [] and said not in facts["warnings"]


def test_strict_refuses_it_and_maps_the_others(copier, kinds, scans, tmp_path, capsys):
    model = model_of(tmp_path / "model", copier, kinds["whole"])
    assert reconstruct(model, scans["folder"], tmp_path / "out", "--strict") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    expected = f"1 of 2 scans refused: {scans['stripped']}: {STRIPPED} (--strict)"
    assert error == f"error: {expected}"
    written = {path.name.split("_")[0] for path in (tmp_path / "out").iterdir()}
    assert written == {scans["whole"].name.removesuffix(".nii.gz")}


def test_a_scan_is_compared_with_each_training_dataset(copier, kinds, scans, tmp_path, capsys):
    model = model_of(tmp_path / "model", copier, kinds["stripped"], kinds["whole"])
    assert reconstruct(model, scans["folder"], tmp_path / "out", "--strict") == 0
    assert "unlike" not in capsys.readouterr().err


@pytest.mark.parametrize("known", [(), ("whole",)])
def test_a_card_that_does_not_tell_looks_is_said_once(
    copier, kinds, scans, tmp_path, capsys, known
):
    """Also if only one of two datasets has them: the scan may be like those of the other."""
    model = model_of(tmp_path / "model", copier, None, *(kinds[name] for name in known))
    assert reconstruct(model, scans["folder"], tmp_path / "out") == 0
    captured = capsys.readouterr()
    said = (
        "not checked whether scans are unlike the training heads: the model's card does not tell "
        "how its scans look\n"
    )
    assert captured.out.count(said) == 1 and STRIPPED not in captured.err
    assert facts_in(tmp_path / "out", scans["stripped"])["unlike_training"] is None
    assert reconstruct(model, scans["folder"], tmp_path / "strict", "--strict") == 2
    assert capsys.readouterr().err == (
        "error: --strict: the model's card does not tell how its scans look; make the dataset "
        "again with beam_preprocess\n"
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, kinds):
    """A dataset whose manifest says that its heads are whole."""
    folder = tmp_path_factory.mktemp("data")
    made = write_tiny_dataset(folder, dataclasses.replace(CONFIG, in_plane=None))
    geometry = codec.from_plain(manifest.Geometry, GEOMETRY)
    known = dataclasses.replace(manifest.read(made), geometry=geometry, look=kinds["whole"])
    manifest.write(made, known)
    return folder


def anomalies(model, data, source, output, *more):
    flags = [f"--saved_model={model}", f"--data_dir={data}", "--dataset=ixi_t1/tiny", *more]
    return evaluator.run(["anomalies", *flags, f"--source_dir={source}", f"--output_dir={output}"])


def write_pairs(folder, *, stripped):
    path = write_made_up(folder, 9, stripped=stripped)
    image = nib.load(path)
    lesion = np.zeros(image.shape, np.uint8)
    lesion[30:34, 40:44, 20:24] = 1
    nib.save(nib.Nifti1Image(lesion, image.affine), str(path).replace("-T1", "-lesion"))
    return folder


def test_anomalies_says_it_of_volumes_and_strict_refuses_them(copier, data_dir, tmp_path, capsys):
    bare = write_pairs(tmp_path / "bare", stripped=True)
    assert anomalies(copier, data_dir, bare, tmp_path / "out") == 0
    stripped = "looks skull-stripped, unlike the dataset's heads"
    assert f": {stripped}\n" in capsys.readouterr().err
    facts = json.loads((tmp_path / "out/anomalies.json").read_text())
    assert list(facts["unlike_training"].values()) == [[stripped]]
    ((subject, said),) = facts["warnings"].items()
    assert stripped in said
    report = html.unescape((tmp_path / "out/anomalies.html").read_text())
    assert f"1 volume has something odd. {subject}: {stripped}" in report
    (page,) = (tmp_path / "out/anomaly_views").glob("*.html")
    assert f'<p class="warning">{stripped}' in html.unescape(page.read_text())
    assert anomalies(copier, data_dir, bare, tmp_path / "strict", "--strict") == 2
    assert f"{stripped} (--strict)" in capsys.readouterr().err
    assert not list((tmp_path / "strict").glob("anomalies*"))
    whole = write_pairs(tmp_path / "whole", stripped=False)
    assert anomalies(copier, data_dir, whole, tmp_path / "whole_out", "--strict") == 0
    assert "unlike" not in capsys.readouterr().err


@pytest.mark.real_data
def test_real_scans_by_a_model_of_the_62_real_heads(real_data, copier, tmp_path, capsys):
    """A whole head of another site at full resolution, and a stripped scan of another source."""
    heads = sorted((real_data / "ixi/heads_2mm").glob("*.nii.gz"))
    known = typical([look_of(read_volume(str(path))) for path in heads])
    model = model_of(tmp_path / "model", copier, known)
    (whole,) = (real_data / "ixi/full").glob("IXI533*")
    (bare,) = (real_data / "lesions").glob("*_T1_MNI.nii.gz")
    for scan in (whole, bare):
        assert reconstruct(model, scan, tmp_path / "out") == 0
    assert f"warning: {bare}: {STRIPPED}\n" in capsys.readouterr().err
    assert facts_in(tmp_path / "out", whole)["unlike_training"] == []
    assert facts_in(tmp_path / "out", bare)["unlike_training"] == [STRIPPED]
    assert reconstruct(model, bare, tmp_path / "strict", "--strict") == 2
