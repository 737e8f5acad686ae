"""The page: escaped, self-contained, and right in a browser where there is one."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
from browser import browser, see

from evaluator.report import figures
from evaluator.report import page as report

HOSTILE = '<script>throw Error("x")</script> & "\'<img src=x>'


def page():
    image = np.linspace(0, 1, 64 * 48).reshape(64, 48)
    slices = {HOSTILE: figures.slice_png(image), "b": figures.residual_png(image - 0.5, 0.5)}
    frame = pd.DataFrame(
        {"model": [HOSTILE, "b"] * 50, "key": range(100), "psnr": np.linspace(20, 40, 100)}
    )
    wide = pd.DataFrame([[HOSTILE] * 20], columns=[f"{HOSTILE} {n}" for n in range(20)])
    sections = [
        report.Section(HOSTILE, [HOSTILE], {HOSTILE: wide}, notes=[HOSTILE]),
        report.Section("Facts", tables={"": pd.DataFrame({"": ["a" * 200], " ": ["b" * 200]})}),
        report.Section("Slices", figures=[report.Figure(HOSTILE, slices, slices=True)]),
        report.Section(
            "Plots", figures=[report.Figure(HOSTILE, {"": figures.histogram(frame, "psnr")})]
        ),
    ]
    return report.render(HOSTILE, [HOSTILE], sections)


def test_nothing_brings_in_markup():
    html = page()
    assert "<script" not in html and "<img src=x" not in html
    # Titles 2, lead 1; headline and its link 2, paragraph, caption and note 3, cells 40; of the
    # slices caption, alternative text and label 3, of the plot caption and alternative text 2.
    assert html.count("&lt;script&gt;") == html.count("&lt;img src=x&gt;") == 53
    assert not re.search(r"https?:|@import|url\(", html)
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_each_section_has_its_own_texts():
    """In their order: headline, paragraphs, tables, figures, notes."""
    dot = figures.slice_png(np.zeros((2, 2)))
    sections = [
        report.Section(
            f"title {n}",
            [f"text {n}", f"more {n}"],
            {f"table {n}": pd.DataFrame([[f"one {n}", f"two {n}", n]], columns=["x", "y", "z"])},
            [report.Figure(f"figure {n}", {f"panel {n}": dot}, slices=True)],
            [f"note {n}"],
        )
        for n in range(3)
    ]
    html = report.render("head", ["lead"], sections)
    before, *parts = re.split(r"<section[^>]*>", html)
    assert re.findall(r"<(?:title|h1|p)>(.*?)</", before) == ["head", "head", "lead"]
    assert re.findall(r'<a href="#(.*?)">(.*?)</a>', before) == [
        (f"part-{n + 1}", f"title {n}") for n in range(3)
    ]
    assert re.findall(r'<section id="(.*?)"', html) == [f"part-{n + 1}" for n in range(3)]
    for n, part in enumerate(parts):
        part = part.split("</section>")[0]
        for tag, texts in {
            "h2": [f"title {n}"],
            "p": [f"text {n}", f"more {n}", f"note {n}"],
            "caption": [f"table {n}"],
            "th": ["x", "y", "z"],
            "td": [f"one {n}", f"two {n}", str(n)],
            "figcaption": [f"figure {n}"],
        }.items():
            assert re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", part) == texts
        ((label, png),) = re.findall(r'alt="(.*?)" src="data:image/png;base64,(.*?)"', part)
        assert (label, base64.b64decode(png)) == (f"panel {n}", dot)


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
