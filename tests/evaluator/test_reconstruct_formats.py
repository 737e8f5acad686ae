"""`evaluator reconstruct` of files of other formats, with NaN, and of files that are no scan."""

import json

import nibabel as nib
import numpy as np
import pytest
import test_formats
from test_reconstruct import SMALL, SMALL_GEOMETRY, reconstruct, write_copier
from volumes import head, image, write_head


@pytest.fixture(scope="module")
def halver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halver") / "half"
    return write_copier(folder, SMALL, SMALL_GEOMETRY, factor=0.5)


@pytest.mark.parametrize("name", ["x.mgz", "x.hdr", "x.img", "x.hdr.gz", "x.mnc", "one.mnc.gz"])
def test_maps_of_any_format_are_nifti_on_its_grid(tmp_path, halver, name):
    path = test_formats.write(tmp_path, name, image(head(), axes="RAS"))
    assert reconstruct(halver, path, tmp_path / "out") == 0
    (made,) = (tmp_path / "out").glob("*_anomaly.nii.gz")
    made, scan = nib.load(made), nib.load(path)
    np.testing.assert_allclose(made.affine, scan.affine, atol=1e-4)
    np.testing.assert_allclose(made.get_fdata(), scan.get_fdata() / 2, atol=1e-3)
    facts = json.loads(next((tmp_path / "out").glob("*.json")).read_text())
    assert facts["input"] == name and "assumed_axes" not in facts


def test_a_folder_of_formats_is_reconstructed_and_a_pair_counts_once(tmp_path, halver, capsys):
    for name in ("a_T1.mgz", "b_T1.hdr", "c_T1.mnc"):
        kind = "x" + name[4:]
        test_formats.WRITERS[kind](tmp_path / name, image(head()))
    assert reconstruct(halver, tmp_path, tmp_path / "out") == 0
    made = sorted(path.name for path in (tmp_path / "out").glob("*_anomaly.nii.gz"))
    assert made == ["a_T1_anomaly.nii.gz", "b_T1_anomaly.nii.gz", "c_T1_anomaly.nii.gz"]
    assert "passed over" not in capsys.readouterr().out


def test_an_assumed_orientation_needs_a_flag_and_is_in_the_json(tmp_path, halver, capsys):
    stored = head().transpose(2, 0, 1)
    nib.save(nib.AnalyzeImage(stored, np.diag([-5, 4, 4, 1])), tmp_path / "x.img")
    assert reconstruct(halver, tmp_path / "x.hdr", tmp_path / "out") == 2
    assert "--allow_unknown_orientation" in capsys.readouterr().err
    flag = "--allow_unknown_orientation"
    assert reconstruct(halver, tmp_path / "x.hdr", tmp_path / "out", flag) == 0
    assert "was read as LAS" in capsys.readouterr().err
    facts = json.loads((tmp_path / "out/x_reconstruction.json").read_text())
    assert facts["assumed_axes"] == "LAS" and "check left and right" in facts["warnings"][0]
    made = nib.load(tmp_path / "out/x_reconstruction.nii.gz")
    np.testing.assert_allclose(made.get_fdata(), stored / 2, atol=1e-3)


def test_nan_around_the_head_is_background_and_inside_it_a_reason(tmp_path, halver, capsys):
    voxels = head().astype(np.float32)
    voxels[:2] = np.nan
    nib.save(image(voxels), tmp_path / "x.nii.gz")
    assert reconstruct(halver, tmp_path / "x.nii.gz", tmp_path / "out") == 0
    made = nib.load(tmp_path / "out/x_reconstruction.nii.gz").get_fdata()
    assert np.isfinite(made).all() and (made[:2] == made[0, 0, 0]).all()
    voxels[16, 15, 12] = np.nan
    nib.save(image(voxels), tmp_path / "x.nii.gz")
    assert reconstruct(halver, tmp_path / "x.nii.gz", tmp_path / "out") == 2
    assert "NaN inside the head, the first at [16, 15, 12]" in capsys.readouterr().err


def test_a_label_map_ends_with_exit_code_2_and_an_enlarged_scan_does_not(tmp_path, halver, capsys):
    labels = np.zeros((32, 32, 24), np.float32)
    labels[8:24, 8:24, 14:20] = np.arange(1, 5).repeat(4)[:, None, None]
    nib.save(image(labels), tmp_path / "x.nii.gz")
    assert reconstruct(halver, tmp_path / "x.nii.gz", tmp_path / "out") == 2
    voxels = head()[::2, ::2, ::2].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write_head(tmp_path, "y", voxels=voxels)
    capsys.readouterr()
    assert reconstruct(halver, tmp_path / "y.nii.gz", tmp_path / "out") == 0


def test_a_file_that_is_no_image_says_what_it_is_in_one_line(tmp_path, halver, capsys):
    (tmp_path / "x.nii.gz").symlink_to(".git/annex/objects/x/MD5E-s4--0.nii.gz")
    (tmp_path / "y.nii.gz").write_bytes(b"")
    (tmp_path / "z.mha").write_bytes(b"ObjectType = Image\n" + bytes(800))
    words = {"x.nii.gz": "datalad get", "y.nii.gz": "is empty", "z.mha": "import SimpleITK"}
    for name, said in words.items():
        assert reconstruct(halver, tmp_path / name, tmp_path / "out") == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error and name in error
