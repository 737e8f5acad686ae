"""The page: escaped, self-contained, and right in a browser where there is one."""

import re

import numpy as np
import pandas as pd
import pytest
from browser import browser, see

from evaluator import figures, report

HOSTILE = '<script>throw Error("x")</script> & "\'<img src=x>'


def page():
    image = np.linspace(0, 1, 64 * 48).reshape(64, 48)
    slices = {HOSTILE: figures.slice_png(image), "b": figures.residual_png(image - 0.5, 0.5)}
    frame = pd.DataFrame(
        {"model": [HOSTILE, "b"] * 50, "key": range(100), "psnr": np.linspace(20, 40, 100)}
    )
    wide = pd.DataFrame([[HOSTILE] * 20], columns=[f"column {n}" for n in range(20)])
    sections = [
        report.Section(HOSTILE, [HOSTILE], {HOSTILE: wide}, notes=[HOSTILE]),
        report.Section("Facts", tables={"": pd.DataFrame({"": ["a" * 200], " ": ["b" * 200]})}),
        report.Section("Slices", figures=[report.Figure(HOSTILE, slices, slices=True)]),
        report.Section(
            "Plots", figures=[report.Figure("", {"": figures.histogram(frame, "psnr")})]
        ),
    ]
    return report.render(HOSTILE, [HOSTILE], sections)


def test_nothing_brings_in_markup():
    html = page()
    assert "<script" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;") >= 25
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:", "#")) for source in sources)


@browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_every_image_and_complains_of_nothing(tmp_path, width):
    """500 pixels is the least that headless Chromium makes its window."""
    assert see(page(), tmp_path / "page.html", width=width) == ((3, 0, False), [])


@browser
@pytest.mark.slow
def test_the_look_at_a_page_finds_what_is_broken(tmp_path):
    broken = re.sub(r"base64,\w{40}", "base64,AAAA", page(), count=1)
    broken = broken.replace(
        "</body>", '<div style="width:3000px">x</div><script>no()</script></body>'
    )
    (images, missing, sideways), console = see(broken, tmp_path / "page.html", width=1200)
    assert (images, missing, sideways) == (3, 1, True)
    assert "no is not defined" in "".join(console)
