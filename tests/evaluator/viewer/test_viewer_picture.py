"""The picture: three planes with the colours where the anomalies are."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
import shown_heads
from matplotlib.text import Text

from evaluator import viewer
from evaluator.viewer import colours, picture
from evaluator.viewer.shown import shown_of


@pytest.fixture
def shown(tmp_path):
    volume, anomaly = shown_heads.write_and_read(tmp_path)
    return dataclasses.replace(shown_of(volume, anomaly, window=(9, 24)), threshold=40.0)


def drawn(shown):
    """The three planes without title and colour bar, int [height, width, 3]."""
    png = picture.draw(shown, "a_T1", {"Model": "m"})
    pixels = np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert pixels.shape[1] == 1400  # 7 inches for print
    return pixels[60:, :1200]


def test_anomalies_are_on_their_own_side_in_the_colour_of_their_sign(shown):
    """Bright and right of the middle: orange, and right in the coronal and axial planes."""
    places = []
    for anomaly in (shown.anomaly, shown.anomaly[::-1], -shown.anomaly):
        pixels = drawn(dataclasses.replace(shown, anomaly=anomaly, place=(15, 28, 25)))
        orange = pixels[..., 0] > pixels[..., 2] + 60
        blue = pixels[..., 2] > pixels[..., 0] + 60
        assert (orange.any(), blue.any()) == (anomaly.sum() > 0, anomaly.sum() < 0)
        places.append(np.nonzero(orange | blue)[1].mean())
    right, left, dark = places
    assert right > left + 50 and dark == right


def test_what_was_never_seen_is_hatched(shown):
    seen = drawn(dataclasses.replace(shown, seen=np.ones_like(shown.seen)))
    changed = np.abs(drawn(shown) - seen).max(axis=-1) > 30
    # Below, in the sagittal and coronal planes.
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 1000 and rows.min() > 0.6 * len(changed) and columns.max() < 900


def test_colours_grow_lighter_with_size_and_differ_in_sign():
    values = np.linspace(0.05, 1, 20)
    for sign in (1, -1):
        shades = colours.colours_of(sign * values, 1.0)
        brightness = shades @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(brightness) > 0).all()
    bright, dark = colours.colours_of(np.array([1.0, -1.0]) * 0.5, 1.0)
    assert bright[0] > bright[2] + 0.3 and dark[2] > dark[0] + 0.3


def test_the_picture_of_a_mark_tells_what_lies_above_the_threshold(shown, monkeypatch):
    said = []
    monkeypatch.setattr(picture.Figure, "suptitle", lambda _, text, **__: said.append(text))
    picture.draw(dataclasses.replace(shown, is_mark=True), "a_T1", {viewer.ABOVE: "0.3 ml"})
    assert said == ["a_T1\nabove the threshold: 0.3 ml; hatched: not judged; for research only"]


def test_the_first_warning_the_dashed_lines_and_the_use_are_told_in_the_title(shown, monkeypatch):
    said = []
    monkeypatch.setattr(picture.Figure, "suptitle", lambda _, text, **__: said.append(text))
    picture.draw(shown, "a_T1", {"Model": "m"}, ["cut " + "long " * 30, "second"])
    picture.draw(shown, "a_T1", {})
    (_, first, last), (_, only) = (text.split("\n") for text in said)
    assert first.startswith("warning: cut long") and "second" not in first and len(first) < 120
    assert (
        last
        == only
        == "dashed: window of training; hatched: not seen by the model; for research only"
    )


@pytest.mark.parametrize("is_mark", [False, True])
def test_no_word_is_cut_off_at_the_edge(is_mark, shown, monkeypatch):
    outside = []

    def look(figure, *_, **__):
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert len(texts) > 12
        frame = figure.bbox.padded(1)
        for text in texts:
            (left, low), (right, high) = text.get_window_extent().get_points()
            if not (frame.contains(left, low) and frame.contains(right, high)):
                outside.append(text.get_text())

    monkeypatch.setattr(picture.Figure, "savefig", look)
    # A brain that fills its file, as stripped ones do, makes a low picture.
    low = dataclasses.replace(shown, is_mark=is_mark, limit=1.0, threshold=0.232)
    picture.draw(low, "a_T1", {viewer.ABOVE: "0.3 ml"})
    assert outside == []
