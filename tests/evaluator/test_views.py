"""Views beside the maps, through the commands that write them."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from shown_heads import held
from test_reconstruct import SMALL, SMALL_GEOMETRY, reconstruct, write_copier
from volumes import write_head

from evaluator import __main__ as evaluator


@pytest.fixture(scope="module")
def halver(tmp_path_factory):
    """A model whose residual is half of the input."""
    return write_copier(tmp_path_factory.mktemp("half") / "m", SMALL, SMALL_GEOMETRY, factor=0.5)


def shown_in(html):
    return json.loads(re.search(r'id="shown">(.*?)</script>', html, re.DOTALL)[1])


@pytest.mark.parametrize("axes", ["PSR", "LPI"])
def test_the_page_shows_the_map_that_lies_beside_it_at_the_same_millimetres(halver, tmp_path, axes):
    path = write_head(tmp_path, "x", axes=axes)
    assert reconstruct(halver, path, tmp_path / "out", "--view") == 0
    html = (tmp_path / "out" / "x_view.html").read_text()
    shown, page = shown_in(html), nib.Nifti1Image.from_bytes(held(html, "anomaly"))
    beside = nib.load(tmp_path / "out" / "x_anomaly.nii.gz")
    values, wanted = page.get_fdata(), beside.get_fdata()
    for voxel in np.random.default_rng(0).integers(0, values.shape, (50, 3)):
        mm = nib.affines.apply_affine(page.affine, voxel)
        there = np.rint(nib.affines.apply_affine(np.linalg.inv(beside.affine), mm)).astype(int)
        expected = np.clip(wanted[tuple(there)], -shown["limit"], shown["limit"])
        assert values[tuple(voxel)] == pytest.approx(expected, abs=shown["limit"] / 127)
    # Slices 8 to 13 of 24, counted to the right.
    assert shown["window"] == pytest.approx([8 / 24, 14 / 24])
    facts = json.loads((tmp_path / "out" / "x_reconstruction.json").read_text())
    assert facts["model_sha256"] in html and facts["anomaly"] in html
    assert (tmp_path / "out" / "x_view.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_model_never_saw_is_marked(halver, tmp_path):
    path = write_head(tmp_path, "x", shape=(32, 40, 24))
    assert reconstruct(halver, path, tmp_path / "out", "--view") == 0
    html = (tmp_path / "out" / "x_view.html").read_text()
    seen = nib.load(tmp_path / "out" / "x_seen.nii.gz").get_fdata() > 0
    assert not seen.all() and np.count_nonzero(np.frombuffer(held(html, "marks"), np.uint8)) == (
        seen.size - np.count_nonzero(seen)
    )


def test_a_view_can_be_left_out_and_an_old_one_goes(halver, tmp_path):
    path = write_head(tmp_path, "x")
    flags = [f"--saved_model={halver}", f"--input={path}", f"--output_dir={tmp_path / 'out'}"]
    assert evaluator.run(["reconstruct", *flags]) == 0
    with_view = {file.name for file in (tmp_path / "out").iterdir()}
    assert reconstruct(halver, path, tmp_path / "out", "--view=false") == 0
    without = {file.name for file in (tmp_path / "out").iterdir()}
    assert with_view - without == {"x_view.html", "x_view.png"}
