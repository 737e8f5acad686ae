"""The page in a browser: from a file, without a network; every control changes what one sees."""

import json
import re

import numpy as np
import pytest
import shown_heads
from browser import browser
from devtools import opened
from shown_heads import AFFINE, BRIGHT, DARK, SHAPE

from evaluator.viewer import write_view

pytestmark = [browser, pytest.mark.slow]

HOSTILE = "a b#?%41</script>&_T1"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    volume, anomaly = shown_heads.write_and_read(folder)
    lesion = np.zeros(volume.voxels.shape, bool)
    i, j, k = BRIGHT
    # Posterior, superior, right.
    lesion[SHAPE[1] - 1 - j - 3 : SHAPE[1] - j + 3, k - 3 : k + 4, i - 3 : i + 4] = True
    name = HOSTILE.replace("/", "")
    facts = {"Model": "m", "SHA-256 of the model": "0" * 64}
    write_view(
        folder, name, volume, anomaly, window=(9, 24), meaning="m", facts=facts, lesion=lesion
    )
    return folder / f"{name}_view.html"


@pytest.fixture(scope="module")
def desktop(path, tmp_path_factory):
    with opened(path, tmp_path_factory.mktemp("profile"), width=1280) as page:
        yield page


@pytest.fixture
def page(desktop):
    """The page as it opens; at the end its console has said nothing."""
    desktop.run(
        "document.querySelectorAll('input, select').forEach(it => {"
        "if (it.type === 'checkbox') it.checked = true;"
        "else if (it.tagName === 'SELECT') it.selectedIndex = 0; })"
    )
    for name in ("sign", "layout", "side"):
        desktop.run(f"document.getElementById('{name}').dispatchEvent(new Event('input'))")
    desktop.set("threshold", "60")
    desktop.set("opacity", "80")
    go(desktop, BRIGHT)
    yield desktop
    assert desktop.console == []


def stage(page):
    return page.pixels("stage").astype(int)


def orange(pixels):
    return (pixels[..., 0] > pixels[..., 2] + 60) & (pixels[..., 1] < pixels[..., 0] + 20)


def blue(pixels):
    return (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 1] < pixels[..., 2] + 20)


def go(page, voxel):
    for name, place in zip("xyz", voxel, strict=True):
        page.set(name, str(place))


def test_it_opens_from_a_file_and_asks_for_nothing(page):
    assert page.run("document.documentElement.dataset.ready") == "yes"
    first, *others = page.requests
    assert first.startswith("file:") and all(url.startswith("data:") for url in others)
    assert page.text("state") == "" and np.ptp(stage(page)) > 200
    # The name is text, and brought in no markup.
    assert HOSTILE.replace("/", "") in page.run("document.querySelector('h1').textContent")


def test_the_sliders_move_the_planes_and_the_values_are_those_of_the_maps(page):
    before = None
    for voxel in ((15, 20, 20), BRIGHT, DARK):
        go(page, voxel)
        text = page.text("readout").replace("\u2212", "-")
        x, y, z = AFFINE[:3] @ [*voxel, 1]
        assert f"x {x:.1f}, y {y:.1f}, z {z:.1f} mm" in text
        told = {
            name: float(value)
            for name, value in re.findall(r"(scan|anomaly) (?:[\u2264\u2265] )?\+?(-?[\d.]+)", text)
        }
        low, high, limit = page.run("[...shown.levels, shown.limit]")
        assert told["scan"] == pytest.approx(
            np.clip(shown_heads.scan_ras()[voxel], low, high), abs=(high - low) / 255
        )
        assert told["anomaly"] == pytest.approx(
            np.clip(shown_heads.anomaly_ras()[voxel], -limit, limit), abs=limit / 127
        )
        now = stage(page)
        assert before is None or (np.abs(now - before) > 30).mean() > 0.02
        before = now


def test_a_click_and_the_keys_move_the_planes(page):
    go(page, (15, 20, 20))
    left, top, width, height = page.box("stage")
    # The axial plane is the first of three: towards its left and front.
    page.click(left + width * 0.1, top + height * 0.2)
    x, y, z = (page.run(f"Number(document.getElementById('{name}').value)") for name in "xyz")
    assert (x < 13, y > 25, z) == (True, True, 20)
    for key, name, wanted in (
        ("ArrowRight", "x", x + 1),
        ("PageUp", "y", y + 1),
        ("ArrowUp", "z", 21),
    ):
        page.press(key)
        assert page.run(f"Number(document.getElementById('{name}').value)") == wanted
    planes = stage(page)
    # The key by which NiiVue alone would show one plane instead of three.
    page.press("KeyV")
    np.testing.assert_array_equal(stage(page), planes)


def test_the_threshold_hides_what_is_below_it(page):
    limit = page.run("shown.limit")
    seen = []
    for share in (0.02, 0.5, 0.9):
        page.set("threshold", str(127 * share))
        assert float(page.text("threshold-value")) == pytest.approx(limit * share, abs=limit / 100)
        seen.append((np.abs(stage(page) @ [1, 0, -1]) > 40).sum())
    # Noise, then the bright block alone.
    assert seen[0] > 3 * seen[1] > 3000
    assert seen[1] == pytest.approx(seen[2], rel=0.1)
    # A little below the threshold is hidden, too.
    go(page, DARK)
    for threshold, visible in ((0.9 * 60, True), (1.1 * 60, False)):
        page.set("threshold", str(127 * threshold / limit))
        assert (blue(stage(page)).sum() > 500) == visible


def test_an_anomaly_is_orange_or_blue_by_its_sign_and_can_be_shown_alone(page):
    page.set("show-lesion", False)
    for voxel, there, other, shown, hidden in (
        (BRIGHT, orange, blue, "bright", "dark"),
        (DARK, blue, orange, "dark", "bright"),
    ):
        go(page, voxel)
        for sign, visible in (("either", True), (shown, True), (hidden, False)):
            page.set("sign", sign)
            pixels = stage(page)
            assert (there(pixels).sum() > 500) == visible and other(pixels).sum() < 20
        page.set("sign", "either")
    page.set("opacity", "0")
    assert blue(stage(page)).sum() < 20


def test_right_is_on_the_right_and_on_the_left_in_radiological_convention(page):
    """The bright blob is right, in front and above the middle; planes: axial, coronal, sagittal."""
    width = stage(page).shape[1]
    ends = np.cumsum([0, SHAPE[0] * 4.94, SHAPE[0] * 4.94, SHAPE[1] * 3.95])
    ends = (ends / ends[-1] * width).astype(int)
    for side, on_right in (("neurological", True), ("radiological", False)):
        page.set("side", side)
        pixels = stage(page)
        page.set("show-lesion", False)
        outline = np.abs(stage(page) - pixels).max(axis=-1) > 40
        page.set("show-lesion", True)
        for plane, expected in ((0, on_right), (1, on_right), (2, True)):
            part = slice(ends[plane], ends[plane + 1])
            rows, columns = np.nonzero(orange(pixels[:, part]))
            middle = (ends[plane + 1] - ends[plane]) / 2
            assert (columns.mean() > middle) == expected
            assert rows.mean() < len(pixels) / 2
            # What we draw above the planes is around what NiiVue draws.
            drawn = [(line.min() + line.max()) / 2 for line in np.nonzero(outline[:, part])]
            wanted = [(line.min() + line.max()) / 2 for line in (rows, columns)]
            np.testing.assert_allclose(drawn, wanted, atol=4)


@pytest.mark.parametrize("name", ["show-window", "show-unseen", "show-lesion"])
def test_marks_can_be_shown_and_hidden(page, name):
    with_marks = stage(page)
    page.set(name, False)
    without = stage(page)
    changed = np.abs(with_marks - without).max(axis=-1) > 40
    assert changed.sum() > 100
    rows, columns = np.nonzero(changed)
    if name == "show-unseen":
        # Below, in the coronal and sagittal planes.
        assert rows.min() > 0.6 * len(changed) and columns.min() > 0.25 * changed.shape[1]
    page.set(name, True)
    np.testing.assert_array_equal(stage(page), with_marks)


def test_it_says_where_the_model_saw_nothing_and_where_it_was_not_trained(page):
    go(page, (15, 20, 2))
    assert "never seen by the model" in page.text("readout")
    for x, inside in ((8, False), (9, True), (23, True), (24, False)):
        page.set("x", str(x))
        where = "in" if inside else "outside"
        assert page.text("readout").endswith(f"{where} the window of training")


def test_one_plane_can_be_shown_alone(page):
    three = page.box("stage")
    for value in "012":
        page.set("layout", value)
        _, _, width, height = page.box("stage")
        assert width / height < three[2] / three[3] and np.ptp(stage(page)) > 200


def test_a_phone_shows_it_without_scrolling_sideways_and_takes_touches(path, tmp_path):
    with opened(path, tmp_path / "profile", width=390, mobile=True) as page:
        assert page.run("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        go(page, (15, 20, 20))
        before = stage(page)
        left, top, width, height = page.box("stage")
        # The coronal plane is the first of the upper row.
        page.touch(left + width * 0.12, top + height * 0.2)
        assert page.run("Number(document.getElementById('x').value)") < 13
        assert (np.abs(stage(page) - before) > 30).mean() > 0.02
        # What we draw lies on what NiiVue draws, however fine the screen's pixels are.
        go(page, BRIGHT)
        page.set("threshold", "60")
        pixels = stage(page)
        page.set("show-lesion", False)
        outline = np.abs(stage(page) - pixels).max(axis=-1) > 40
        part = np.s_[: len(pixels) // 2, : int(pixels.shape[1] * 0.47)]
        both = np.nonzero(outline[part]), np.nonzero(orange(pixels)[part])
        for drawn, wanted in zip(*both, strict=True):
            assert (drawn.min() + drawn.max()) / 2 == pytest.approx(
                (wanted.min() + wanted.max()) / 2, abs=4
            )
        assert page.console == []


def test_without_webgl_it_says_what_it_needs(path, tmp_path):
    broken = tmp_path / "broken.html"
    html = path.read_text()
    script = "<script>HTMLCanvasElement.prototype.getContext = () => null;</script>"
    broken.write_text(html.replace("<body>", f"<body>{script}"))
    with opened(broken, tmp_path / "profile", width=1280) as page:
        assert page.run("document.documentElement.dataset.ready") == "failed"
        assert "WebGL 2" in page.text("state")


def test_every_control_has_a_name(page):
    unnamed = page.run(
        "[...document.querySelectorAll('input, select, button, canvas:not([aria-hidden])')]"
        ".filter(it => !it.labels?.length && !it.textContent.trim() && !it.ariaLabel"
        " && it.id !== 'planes').map(it => it.id)"
    )
    assert unnamed == [], json.dumps(unnamed)
