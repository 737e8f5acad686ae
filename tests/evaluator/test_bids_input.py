"""BIDS folders given to `evaluator reconstruct` and `evaluator anomalies`."""

import pathlib

import pytest

from evaluator.anomalies import AnomaliesConfig
from evaluator.lesions.pairs import find_pairs
from evaluator.options import Dataset
from evaluator.reconstruct import ReconstructConfig, find_jobs
from ixi_tfds.cohorts.bids_filter import BidsFlags
from ixi_tfds.system.errors import UserError


def write(folder, *names):
    for name in names:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def study(tmp_path):
    return write(
        tmp_path / "study",
        *("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w"),
        *("sub-02/ses-1/anat/sub-02_ses-1_ce-gad_T1w", "sub-02/ses-1/anat/sub-02_ses-1_UNIT1"),
        "sub-03/ses-2/anat/sub-03_ses-2_acq-a_T1w",
    )


def names(study, tmp_path, text):
    asked = BidsFlags(bids_filter=text).asked
    return [job.name for job in find_jobs(pathlib.Path(study), tmp_path / "out", asked)]


def test_reconstruct_takes_all_sessions_or_those_that_are_asked_for(study, tmp_path, capsys):
    assert names(study, tmp_path, None) == [
        *("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-03_ses-2_acq-a_T1w")
    ]
    assert "passed over by name: 1" in capsys.readouterr().out
    assert names(study, tmp_path, "session=2,acquisition=null") == ["sub-01_ses-2_T1w"]
    assert names(study, tmp_path, "ceagent=*") == ["sub-02_ses-1_ce-gad_T1w"]
    assert "MP2RAGE" not in capsys.readouterr().err
    assert names(study, tmp_path, "suffix=UNIT1") == ["sub-02_ses-1_UNIT1"]
    assert "warning: UNIT1 volumes are read" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"there are: session 1, 2"):
        names(study, tmp_path, "session=3")


def test_a_filter_for_a_single_scan_is_an_error(study, tmp_path):
    scan = next(study.rglob("*.nii.gz"))
    config = ReconstructConfig(
        saved_model=str(tmp_path),
        input=str(scan),
        output_dir=str(tmp_path),
        bids=BidsFlags(bids_filter="session=1"),
    )
    with pytest.raises(UserError, match="is no BIDS folder"):
        find_jobs(scan, tmp_path, config.bids.asked)


def test_of_a_person_with_lesions_the_volume_with_a_mask_is_scored(study, tmp_path):
    write(study, "derivatives/sub-01/ses-2/anat/sub-01_ses-2_label-lesion_mask")
    ((pair,), alone) = find_pairs(str(study))
    assert pair.scan.path.endswith("sub-01_ses-2_T1w.nii.gz") and len(alone) == 1
    with pytest.raises(UserError, match="no volume there has a lesion mask"):
        find_pairs(str(study), BidsFlags(bids_filter="session=1").asked)
    with pytest.raises(UserError, match="goes with --source_dir"):
        AnomaliesConfig(
            saved_model=(str(tmp_path),),
            data=Dataset(data_dir=str(tmp_path)),
            output_dir=str(tmp_path),
            bids=BidsFlags(bids_filter="session=1"),
        )
