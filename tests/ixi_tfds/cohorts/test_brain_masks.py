"""The mask of a volume is found by its name."""

import pytest

from ixi_tfds.cohorts.brain_masks import find_masks
from ixi_tfds.system.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("volume", "mask"),
    [
        ("IXI012-HH-1211-T1.nii.gz", "IXI012-HH-1211-T1.nii.gz"),
        ("IXI012-HH-1211-T1.nii.gz", "IXI012-HH-1211-T1.labels.nii.gz"),
        ("IXI012-HH-1211-T1.nii.gz", "deep/er/IXI012-HH-1211-T1_mask.nii"),
        ("head.mgz", "head_bet_mask.nii.gz"),
        ("head.nii.gz", "head_bet.nii.gz"),
        ("head.nii.gz", "head_brain_mask.mgz"),
        ("head.nii.gz", "head_synthstrip_mask.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_desc-brain_mask.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01_T1w_mask.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_space-T1w_desc-brain_mask.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_space-orig_label-brain_mask.nii.gz"),
        (
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-1_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-mprage_run-1_desc-brain_mask.nii.gz",
        ),
        (
            "sub-01/anat/sub-01_space-MNI152NLin2009aSym_T1w.nii.gz",
            "sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-brain_mask.nii.gz",
        ),
    ],
)
def test_a_mask_has_the_name_of_its_volume_and_words_for_masks(volume, mask, tmp_path):
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    touch(scans, volume)
    touch(masks, mask)
    path = str(scans / volume)
    assert find_masks(str(masks), str(scans), [path]) == {path: str(masks / mask)}


def test_names_that_repeat_are_told_apart_by_folders(tmp_path):
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    names = ["a/T1.nii.gz", "b/T1.nii.gz"]
    touch(scans, *names)
    touch(masks, "a/T1_mask.nii.gz", "b/T1_mask.nii.gz")
    found = find_masks(str(masks), str(scans), [str(scans / name) for name in names])
    assert found == {
        str(scans / f"{x}/T1.nii.gz"): str(masks / f"{x}/T1_mask.nii.gz") for x in "ab"
    }


@pytest.mark.parametrize(
    ("mask", "stripped"),
    [
        ("head_bet.nii.gz", "head.nii.gz"),  # HD-BET 2
        ("head_mask.nii.gz", "head.nii.gz"),  # HD-BET 1 of a folder
        ("head_bet_mask.nii.gz", "head_bet.nii.gz"),  # HD-BET 1 of a file
        ("head_mask.nii.gz", "head_stripped.nii.gz"),
    ],
)
def test_a_stripped_head_beside_its_mask_is_not_taken_for_one(mask, stripped, tmp_path):
    touch(tmp_path / "masks", mask, stripped)
    path = str(tmp_path / "scans/head.nii.gz")
    found = find_masks(str(tmp_path / "masks"), str(tmp_path / "scans"), [path])
    assert found == {path: str(tmp_path / "masks" / mask)}


def test_a_mask_in_the_space_of_a_template_is_not_that_of_the_scan(tmp_path):
    names = [f"sub-01_{space}desc-brain_mask.nii.gz" for space in ("", "space-MNI152NLin6Asym_")]
    touch(tmp_path / "masks", *names)
    path = str(tmp_path / "scans/sub-01/anat/sub-01_T1w.nii.gz")
    found = find_masks(str(tmp_path / "masks"), str(tmp_path / "scans"), [path])
    assert found == {path: str(tmp_path / "masks" / names[0])}


def test_a_volume_without_a_mask_is_left_out(tmp_path):
    touch(tmp_path / "masks", "a_mask.nii.gz")
    paths = [str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")]
    assert [*find_masks(str(tmp_path / "masks"), str(tmp_path), paths)] == paths[:1]


def test_scans_that_lie_among_the_masks_are_no_masks(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_mask.nii.gz", "b.nii.gz")
    paths = [str(tmp_path / f"{name}.nii.gz") for name in "ab"]
    assert find_masks(str(tmp_path), str(tmp_path), paths) == {
        paths[0]: str(tmp_path / "a_mask.nii.gz")
    }


def test_a_mask_belongs_to_the_volume_with_the_longest_name_that_fits(tmp_path):
    masks = {"a": "a_mask", "a_brain": "a_brain_mask", "sub-1_space-orig_T1w": "sub-1_label-brain"}
    touch(tmp_path / "masks", *(f"{name}.nii.gz" for name in masks.values()))
    paths = {str(tmp_path / f"{name}.nii.gz"): mask for name, mask in masks.items()}
    found = find_masks(str(tmp_path / "masks"), str(tmp_path), [*paths])
    assert found == {
        path: str(tmp_path / "masks" / f"{mask}.nii.gz") for path, mask in paths.items()
    }


@pytest.mark.parametrize(
    ("volumes", "masks", "said"),
    [
        (["a"], ["a_mask.nii.gz", "a_bet_mask.nii.gz"], "both fit .*a.nii.gz; keep one mask"),
        (["x/a", "y/a"], ["a_mask.nii.gz"], "a_mask.nii.gz fits .*x/a.nii.gz and .*y/a.nii.gz"),
        (["a"], ["b_mask.nii.gz"], "none of its 1 volumes has the name of a scan, such as a_mask"),
    ],
)
def test_what_is_not_clear_is_refused(volumes, masks, said, tmp_path):
    touch(tmp_path / "masks", *masks)
    paths = [str(tmp_path / "scans" / f"{name}.nii.gz") for name in volumes]
    with pytest.raises(UserError, match=said):
        find_masks(str(tmp_path / "masks"), str(tmp_path / "scans"), paths)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--brain_masks=.*: no such folder"):
        find_masks(str(tmp_path / "masks"), str(tmp_path), [])
