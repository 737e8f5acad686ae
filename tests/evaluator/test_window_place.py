"""Where a window by number lies in a head is compared with its place in the training heads."""

import nibabel as nib
import numpy as np
import pytest
from made_up_heads import OF_GRID, write_made_up
from test_reconstruct import reconstruct, write_copier

from beam_preprocess import __main__ as beam_preprocess
from evaluator import scan_facts
from ixi_tfds.documents import codec, manifest
from trainer.data import open_data


def write_shifted(folder, number, *, air):
    """A made-up head behind slices of air on its left."""
    path = write_made_up(folder, number)
    scan = nib.load(path)
    codes = nib.aff2axcodes(scan.affine)
    pads = [(air * (code == "R"), air * (code == "L")) for code in codes]
    nib.save(nib.Nifti1Image(np.pad(np.asarray(scan.dataobj), pads), scan.affine), path)
    return path


def test_a_training_head_off_the_middle_of_its_file_is_in_its_place(tmp_path, capsys):
    heads = [write_shifted(tmp_path / "in", number, air=6) for number in range(10)]
    flags = [f"--source_dir={tmp_path / 'in'}", f"--data_dir={tmp_path}", *OF_GRID]
    assert beam_preprocess.run(flags) == 0
    made = manifest.read(tmp_path / "ixi_t1/made_up/1.0.0")
    known = open_data(str(tmp_path), ["ixi_t1/made_up"]).facts["ixi_t1/made_up"].geometry
    assert known.off_middle == made.geometry.off_middle < -20
    model = write_copier(tmp_path / "m", made.config, codec.to_plain(known))
    capsys.readouterr()
    assert reconstruct(model, heads[0], tmp_path / "out") == 0
    assert "mm to the" not in capsys.readouterr().err
    other = write_shifted(tmp_path / "other", 10, air=0)
    assert reconstruct(model, other, tmp_path / "out") == 0
    assert "mm to the right of its place in the training heads" in capsys.readouterr().err
    unknown = write_copier(
        tmp_path / "u", made.config, codec.to_plain(known) | {"off_middle": None}
    )
    assert reconstruct(unknown, other, tmp_path / "out") == 0
    assert "mm to the" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ([-30, 42], "30 mm left to 42 mm right"),
        ([10, 42.5], "10 to 42.5 mm right"),
        ([-42, -10], "42 to 10 mm left"),
        ([0, 8], "0 to 8 mm right"),
    ],
)
def test_the_window_is_told_by_sides(window, said):
    facts = {"window_mm": window, "window_mm_from": "middle of the head"}
    assert scan_facts.window_in_words(facts) == f"{said} of the middle of the head"
