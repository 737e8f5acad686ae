"""The page: self-contained, escaped, no larger than promised; its script is NiiVue's own."""

import gzip
import hashlib
import importlib.resources
import re

import nibabel as nib
import numpy as np
import pytest
import shown_heads
from shown_heads import held

from evaluator.viewer import page, remove_view, write_view
from evaluator.viewer.shown import shown_of
from ixi_tfds.nifti import read_volume

HOSTILE = '</script><img src=x onerror="no()">&'


@pytest.fixture
def shown(tmp_path):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    return shown_of(volume, anomaly, window=(9, 24))


def test_the_vendored_script_has_the_checksum_beside_it():
    vendor = importlib.resources.files("evaluator.viewer").joinpath("vendor")
    digest, name = vendor.joinpath("SHA256SUMS").read_text().split()
    assert hashlib.sha256(gzip.decompress(page.niivue())).hexdigest() == digest
    # Of dist/niivue.umd.js in the npm package @niivue/niivue 0.69.0.
    assert digest == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert name == f"niivue-{page.NIIVUE}.umd.js"
    licences = vendor.joinpath("LICENSES.txt").read_text()
    assert "BSD 2-Clause" in licences and "Copyright (c) 2021, Niivue" in licences


def test_a_script_that_was_changed_is_not_used(monkeypatch):
    monkeypatch.setattr(page.gzip, "decompress", lambda packed: b"alert()")
    with pytest.raises(ValueError, match="another checksum"):
        page.niivue()


def test_nothing_is_loaded_from_elsewhere_and_text_brings_in_no_markup(shown):
    html = page.render(shown, HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    assert "<img" not in html and html.count("&lt;img src=x") == 5
    without_data = re.sub(r'<script type="text/plain".*?</script>', "", html)
    assert not re.search(r"https?://|@import|url\(|<link rel=\"style|src=\"", without_data)
    assert re.findall(r'href="([^"]*)"', without_data) == ["data:,"]
    assert "default-src 'none'" in html and "connect-src" not in html


def test_it_says_what_it_shows_and_what_it_is_not(shown):
    html = page.render(shown, "a_T1", "input minus reconstruction", {"Model": "m", "SHA-256": "ab"})
    for text in ("not a medical device", "input minus reconstruction", "<td>ab</td>", "Hatched"):
        assert text in html
    assert "4.94 x 3.95 x 3.92 mm" in re.sub(r"\s+", " ", html)


def test_it_holds_the_volumes_with_eight_bits(shown):
    html = page.render(shown, "a_T1", "input minus reconstruction", {})
    for name, wanted, step in (
        ("scan", shown.scan, (shown.levels[1] - shown.levels[0]) / 255),
        ("anomaly", shown.anomaly, shown.limit / 127),
    ):
        image = nib.Nifti1Image.from_bytes(held(html, name))
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, shown.affine, atol=1e-4)
        low, high = shown.levels if name == "scan" else (-shown.limit, shown.limit)
        values = np.clip(wanted, low, high)
        assert np.abs(image.get_fdata() - values).max() < 0.51 * step
    marks = np.frombuffer(held(html, "marks"), np.uint8).reshape(shown.scan.shape, order="F")
    np.testing.assert_array_equal(marks == page.UNSEEN, ~shown.seen)


def test_a_large_scan_is_averaged_until_it_fits_and_the_page_says_so(shown, monkeypatch):
    whole = page.render(shown, "a_T1", "", {})
    assert "scan's own voxels" in re.sub(r"\s+", " ", whole)
    most = len(whole) - 30_000 + 100_000
    monkeypatch.setattr(page, "MOST_BYTES", most)
    html = page.render(shown, "a_T1", "", {})
    assert len(html) < most
    text = re.sub(r"\s+", " ", html)
    assert re.search(r"averaged from 4\.94 x 3\.95 x 3\.92 to [\d.]+ x [\d.]+ x [\d.]+ mm", text)
    image = nib.Nifti1Image.from_bytes(held(html, "scan"))
    assert max(image.header.get_zooms()) < 8


@pytest.mark.slow
@pytest.mark.real_data
def test_a_whole_head_of_one_millimetre_takes_twelve_megabytes_at_most(real_data):
    path = real_data / "ixi" / "full" / "IXI533-Guys-1066-T1.nii.gz"
    volume = read_volume(str(path))
    noise = np.random.default_rng(0).normal(0, 5, volume.voxels.shape).astype(np.float32)
    html = page.render(shown_of(volume, noise, window=(40, 100)), path.name, "", {})
    assert len(html.encode()) <= 12_000_000


def test_the_same_scan_gives_the_same_bytes_and_an_old_view_goes(tmp_path):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_view(tmp_path / name, "x", volume, anomaly, window=(9, 24), meaning="", facts={})
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1] and set(written[0]) == {"x_view.html", "x_view.png"}
    remove_view(tmp_path / "a", "x")
    assert not list((tmp_path / "a").iterdir())
