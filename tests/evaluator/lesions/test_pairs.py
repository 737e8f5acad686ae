"""Which volume belongs to which mask, and to which person."""

import pytest

from evaluator.lesions.pairs import find_pairs
from ixi_tfds.cohorts import NameFlags
from ixi_tfds.system.errors import UserError


def pairs(folder, names, **flags):
    for name in names.split():
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found, alone = find_pairs(str(folder), names=NameFlags(**flags))
    below = len(str(folder)) + 1
    return (
        {pair.scan.subject: (pair.scan.path[below:-7], pair.mask[below:-7]) for pair in found},
        [path[below:-7] for path in alone],
    )


def test_masks_belong_to_volumes_in_their_own_folder(tmp_path):
    names = "p01/T1 p01/lesion p02/T1 p02/lesion p03/T1"
    assert pairs(tmp_path, names) == (
        {"p01": ("p01/T1", "p01/lesion"), "p02": ("p02/T1", "p02/lesion")},
        ["p03/T1"],
    )


def test_ids_that_sound_like_another_modality_are_allowed_and_masks_stay_masks(tmp_path):
    names = "PD_001 PD_001_lesion"
    with pytest.raises(UserError, match="2 refused by name"):
        pairs(tmp_path, names)
    found = {"PD_001": ("PD_001", "PD_001_lesion")}
    assert pairs(tmp_path, names, allow_names=True) == (found, [])


def test_two_visits_of_one_person_do_not_count_as_two_people(tmp_path):
    names = "a_ses1_T1 a_ses1_lesion a_ses2_T1 a_ses2_lesion"
    with pytest.raises(UserError, match="--subject_pattern"):
        pairs(tmp_path, names)
    found, _ = pairs(tmp_path, names, subject_pattern="(?P<person>[a-z])_ses")
    assert found == {"a": ("a_ses1_T1", "a_ses1_lesion")}
