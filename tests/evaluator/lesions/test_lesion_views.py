"""Views of volumes with masks, beside the report on lesions."""

import json
import re
import urllib.parse

import nibabel as nib
import numpy as np
from shown_heads import held
from test_anomalies import arguments, heads_dir, model, write_pair
from volumes import image, write_head

from evaluator import __main__ as evaluator

__all__ = ["heads_dir", "model"]


def test_each_volume_with_a_mask_has_a_view_that_the_report_links_to(heads_dir, model, tmp_path):
    for seed, name in enumerate(["a", "b #1%41?"]):
        _, mask = write_pair(tmp_path / "source", name, seed=seed)
    out, source = tmp_path / "out", f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(model, heads_dir, out, source)) == 0
    report = (out / "anomalies.html").read_text()
    links = re.findall(r'<a href="(anomaly_views/[^"]*)">', report)
    assert len(links) == 2
    for link in links:
        html = (out / urllib.parse.unquote(link)).read_text()
        marks = np.frombuffer(held(html, "marks"), np.uint8)
        assert np.count_nonzero(marks & 2) == mask.sum()
    assert len(list((out / "anomaly_views").glob("*.png"))) == 2
    assert evaluator.run(arguments(model, heads_dir, out, source, "--view=false")) == 0
    assert not (out / "anomaly_views").exists()
    assert "anomaly_views" not in (out / "anomalies.html").read_text()


def test_volumes_and_masks_of_unknown_orientation_need_a_flag(heads_dir, model, tmp_path, capsys):
    voxels, mask = write_pair(tmp_path / "source", "a", seed=0)
    for name, values in (("a_T1", voxels), ("a_lesion", mask)):
        (tmp_path / f"source/{name}.nii.gz").unlink()
        stored = nib.AnalyzeImage(values.transpose(2, 0, 1), np.diag([-5, 4, 4, 1]))
        nib.save(stored, tmp_path / f"source/{name}.img")
    out, source = tmp_path / "out", f"--source_dir={tmp_path / 'source'}"
    assert evaluator.run(arguments(model, heads_dir, out, source)) == 2
    assert "--allow_unknown_orientation" in capsys.readouterr().err
    flags = arguments(model, heads_dir, out, source, "--allow_unknown_orientation")
    assert evaluator.run(flags) == 0
    assert "the file does not say how the head lies in it" in capsys.readouterr().err
    assert json.loads((out / "anomalies.json").read_text())["counts"]["lesion_voxels"] == mask.sum()


def test_views_warn_and_stay_if_the_next_run_opens_no_scan(heads_dir, model, tmp_path, capsys):
    """The head lies 6 slices of air to the right, and the volume is cropped."""
    source, out = tmp_path / "source", tmp_path / "out"
    voxels, mask = write_pair(source, "a", seed=0)
    air = ((0, 0), (0, 0), (6, 0))
    write_head(source, "a_T1", voxels=np.pad(voxels, air)[:, :, :11])
    nib.save(image(np.pad(mask, air)[:, :, :11], "PSR"), source / "a_lesion.nii.gz")
    assert evaluator.run(arguments(model, heads_dir, out, f"--source_dir={source}")) == 0
    said = "the volume has only 3 of the 6 slices of the training window"
    assert f"warning: a: {said}\n" in capsys.readouterr().err
    assert said in json.loads((out / "anomalies.json").read_text())["warnings"]["a"]
    assert said in (out / "anomalies.html").read_text()
    page = (out / "anomaly_views/a_view.html").read_text()
    assert said in page and "files beside" not in page
    assert "reconstruct</code> writes the map in full" in page
    (source / "a_T1.nii.gz").write_bytes(b"no scan")
    assert evaluator.run(arguments(model, heads_dir, out, f"--source_dir={source}")) == 2
    assert (out / "anomaly_views/a_view.html").read_text() == page
    write_pair(tmp_path / "next", "b", seed=1)
    assert evaluator.run(arguments(model, heads_dir, out, f"--source_dir={tmp_path / 'next'}")) == 0
    assert {path.name for path in (out / "anomaly_views").glob("*.html")} == {"b_view.html"}
