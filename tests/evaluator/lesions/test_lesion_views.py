"""Views of volumes with masks, beside the report on lesions."""

import re
import urllib.parse

import numpy as np
from shown_heads import held
from test_anomalies import arguments, heads_dir, model, write_pair

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
