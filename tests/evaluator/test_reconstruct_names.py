"""A single file for `evaluator reconstruct` is judged by its name, as one in a folder is."""

import pytest
from test_reconstruct import SMALL, SMALL_GEOMETRY, reconstruct, write_copier
from volumes import write_head


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    return write_copier(tmp_path_factory.mktemp("copier") / "copy", SMALL, SMALL_GEOMETRY)


@pytest.mark.parametrize("name", ["x_T2", "sub-01_FLAIR", "x_T1POST", "x_seg", "inplaneT2"])
def test_a_file_named_as_something_else_is_refused_until_a_flag_allows_it(
    tmp_path, capsys, copier, name
):
    head = write_head(tmp_path, name)
    assert reconstruct(copier, head, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert str(head) in said and "in its name" in said and "--allow_names" in said
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert reconstruct(copier, head, tmp_path / "out", "--allow_names") == 0
    assert (tmp_path / f"out/{name}_anomaly.nii.gz").exists()


def test_in_a_folder_they_are_passed_over_until_the_flag_allows_them(tmp_path, capsys, copier):
    for name in ("a_T1", "PD_001"):
        write_head(tmp_path / "in", name)
    (tmp_path / "in/x.dcm").touch()
    assert reconstruct(copier, tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "passed over by name: 1, such as" in said and "1 DICOM file, such as x.dcm" in said
    assert reconstruct(copier, tmp_path / "in", tmp_path / "out", "--allow_names") == 0
    assert (tmp_path / "out/PD_001_anomaly.nii.gz").exists()
