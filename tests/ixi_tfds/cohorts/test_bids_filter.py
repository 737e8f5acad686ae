"""`--bids_filter`: its forms, what it asks for, and what it says when nothing fits."""

import json

import pytest

from ixi_tfds.cohorts import bids_filter
from ixi_tfds.cohorts.catalog import find_scans, find_volumes
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.system.errors import UserError

NAMES = (
    *("sub-01/ses-01/anat/sub-01_ses-01_acq-mprage_run-01_T1w.nii.gz",),
    *("sub-01/ses-01/anat/sub-01_ses-01_acq-mprage_run-02_T1w.nii.gz",),
    *("sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz",),
    *("sub-02/ses-02/anat/sub-02_ses-02_ce-gad_T1w.nii.gz",),
    *("sub-02/ses-02/anat/sub-02_ses-02_UNIT1.nii.gz",),
    *("sub-02/ses-02/anat/sub-02_T1w.nii.gz",),
)


@pytest.fixture
def study(tmp_path):
    for name in NAMES:
        path = tmp_path / "study" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "study"


def taken(study, text):
    """The names that a filter leaves, without folders, suffix and extension."""
    paths, _ = find_volumes(str(study), bids_filter.read_filter(text))
    return [path.rsplit("/", 1)[1].removesuffix(".nii.gz").rsplit("_", 1)[0] for path in paths]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("session=01", ["sub-01_ses-01_acq-mprage_run-01", "sub-01_ses-01_acq-mprage_run-02"]),
        ("ses=ses-01,run=2", ["sub-01_ses-01_acq-mprage_run-02"]),
        ("acquisition=", ["sub-01_ses-02", "sub-02"]),
        ("acq=null,suffix=T1w", ["sub-01_ses-02", "sub-02"]),
        ("acquisition=*,run=1", ["sub-01_ses-01_acq-mprage_run-01"]),
        ("run=2,run=null", ["sub-01_ses-01_acq-mprage_run-02", "sub-01_ses-02", "sub-02"]),
        ("session=2", ["sub-01_ses-02", "sub-02"]),
        ("subject=02", ["sub-02"]),
        ("ceagent=gad", ["sub-02_ses-02_ce-gad"]),
        ("ceagent=*,ceagent=null,subject=2", ["sub-02", "sub-02_ses-02_ce-gad"]),
        ("suffix=UNIT1", ["sub-02_ses-02"]),
        ("suffix=unit1,suffix=T1w,acq=", ["sub-01_ses-02", "sub-02", "sub-02_ses-02"]),
        ('{"t1w": {"session": "01", "run": 1, "acquisition": "mprage"}}', [NAMES[0][19:-11]]),
        ('{"T1w": {"datatype": "anat", "suffix": "T1w", "ceagent": null, "run": [2, null]}}', None),
        ('{"bold": {"task": "rest"}, "t1w": {"acquisition": null}}', ["sub-01_ses-02", "sub-02"]),
        ('{"t1w": {"extension": [".nii", ".nii.gz"], "subject": ["02"]}}', ["sub-02"]),
    ],
)
def test_a_filter_asks_for_volumes_by_entities(study, tmp_path, text, wanted):
    wanted = wanted or ["sub-01_ses-01_acq-mprage_run-02", "sub-01_ses-02", "sub-02"]
    assert taken(study, text) == wanted
    if text.startswith("{"):
        (tmp_path / "filter.json").write_text(text)
        assert taken(study, str(tmp_path / "filter.json")) == wanted
    # The text that is recorded asks for the same.
    assert taken(study, bids_filter.as_text(bids_filter.read_filter(text))) == wanted


def test_equal_filters_are_recorded_by_equal_texts():
    texts = {
        bids_filter.as_text(bids_filter.read_filter(text))
        for text in (
            "session=01,run=1",
            "run=01,ses=1",
            '{"t1w": {"run": [1], "session": "ses-01"}}',
        )
    }
    assert texts == {'{"t1w": {"run": ["1"], "session": ["1"]}}'}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sesion=01", "'sesion' is no entity of BIDS; known are subject, session"),
        ("session=01,run", "'run' has no '='"),
        ("nowhere.json", "cannot be read; give a JSON file"),
        ('{"t1w": ', "is not JSON"),
        ('{"bold": {"run": 1}}', 'has no object "t1w"'),
        ('{"t1w": ["session"]}', 'has no object "t1w"'),
        ('{"t1w": {"run": 1.5}}', "run has a value that is no text or number"),
        ('{"t1w": {"run": []}}', "run has a value that is no text or number"),
        ('{"t1w": {"run": true}}', "run has a value that is no text or number"),
    ],
)
def test_a_filter_that_cannot_be_read_says_why(text, said):
    with pytest.raises(UserError) as caught:
        bids_filter.read_filter(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_filter_that_fits_nothing_says_what_there_is(study):
    with pytest.raises(UserError) as caught:
        taken(study, "session=03,acquisition=mprage,run=1")
    said = "--bids_filter=session=3,acquisition=mprage,run=1: asks for none of the 5 volumes"
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(
        "there are: session 01, 02; acquisition mprage, none; run 01, 02, none"
    )


def test_a_filter_for_no_bids_folder_is_an_error(tmp_path):
    (tmp_path / "a_T1.nii").touch()
    with pytest.raises(UserError, match="is no BIDS folder"):
        find_volumes(str(tmp_path), {"session": ("1",)})
    with pytest.raises(UserError, match="is no BIDS folder"):
        find_scans(str(tmp_path), IXI, bids_filter={"session": ("1",)})


def test_what_is_not_asked_for_is_listed_and_people_without_a_volume_named(study):
    catalog = find_scans(str(study), IXI, bids_filter=bids_filter.read_filter("session=01"))
    assert [(scan.subject, len(scan.alternatives)) for scan in catalog.scans] == [("sub-01", 1)]
    assert [error.reason for error in catalog.refused] == ["not_asked_for"] * 3
    assert "1 person (sub-02) left out: nothing that --bids_filter asks for" in catalog.warnings


def test_unit1_is_read_on_request_with_a_warning(study):
    asked = bids_filter.read_filter("suffix=UNIT1")
    catalog = find_scans(str(study), IXI, bids_filter=asked)
    assert [scan.subject for scan in catalog.scans] == ["sub-02"]
    assert any("background of MP2RAGE" in warning for warning in catalog.warnings)
    assert "1 person (sub-01) left out: T1w volumes only" in " / ".join(catalog.warnings)
    assert json.loads(bids_filter.as_text(asked)) == {"t1w": {"suffix": ["unit1"]}}
