"""The report of a dataset with more volumes than fit on a page of pictures."""

import dataclasses
import html
import re
import shutil

import pytest
import tensorflow_datasets as tfds
from browser import browser, see
from devtools import opened
from volumes import SMALL, write_cohort, write_head

from beam_preprocess import quality
from beam_preprocess.__main__ import run
from beam_preprocess.outstanding import outstanding
from ixi_tfds.cohorts import find_cohort
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.documents.shard_record import ShardRecord, VolumeRecord
from ixi_tfds.images.look import Look
from ixi_tfds.splits import SPLITS

DATASET = "ixi_t1/small/1.0.0"
HOSTILE = "<script>alert(1)</script>{{ 7*7 }}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_cohort(tmp_path_factory.mktemp("source"), subjects=10)
    write_head(folder, "IXI790-<b>-0001-T1", seed=99)
    return folder


def make(source, data, most, *flags):
    """Make the dataset with so many pictures on a page; give its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "MOST_PICTURES", most)
        assert run([f"--source_dir={source}", f"--data_dir={data}", *SMALL, *flags]) == 0
    return data / DATASET


@pytest.fixture(scope="module")
def large(source, tmp_path_factory):
    return make(source, tmp_path_factory.mktemp("large"), 4)


@pytest.fixture(scope="module")
def small(source, tmp_path_factory):
    return make(source, tmp_path_factory.mktemp("small"), 11)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pictures(page):
    """Identifier, subject and picture of each figure."""
    return re.findall(
        r'<figure id="(\w+)"><img [^>]*slice of (.*?)" src="data:image/jpeg;base64,(.*?)">', page
    )


def rows(page):
    """Page, identifier and subject of each row of the table of all volumes."""
    return re.findall(r'<tr><td><a href="([^"#]*)#(\w+)">(.*?)</a>', page)


def test_a_dataset_of_as_many_volumes_as_fit_on_a_page_has_one(small):
    page = (small / "quality.html").read_text()
    assert page.count("<figure>") == 11 and "<script" not in page
    assert [path.name for path in small.glob("quality*")] == ["quality.html"]


def test_the_581_volumes_of_ixi_are_on_one_page():
    assert quality.MOST_PICTURES >= 581


def test_nothing_but_the_pages_depends_on_how_many_there_are(small, large):
    pages = {f"quality-00{number}.html" for number in (1, 2, 3)}
    one, several = files(small), files(large)
    assert several.keys() - one.keys() == pages
    assert {name for name in one if one[name] != several[name]} == {"quality.html"}


def test_every_picture_is_on_the_page_that_the_table_names(small, large):
    found = rows((large / "quality.html").read_text())
    pages = ["quality-001.html", "quality-002.html", "quality-003.html"]
    assert [page for page, _, _ in found] == [page for page in pages for _ in range(4)][:11]
    shown = {page: pictures((large / page).read_text()) for page in pages}
    assert found == [(page, name, who) for page in pages for name, who, _ in shown[page]]
    jpegs = [jpeg for page in pages for _, _, jpeg in shown[page]]
    assert jpegs == re.findall(r"base64,(.*?)\">", (small / "quality.html").read_text())
    volumes = manifests.read(large).volumes
    assert sorted(html.unescape(who) for _, _, who in found) == sorted(volumes)
    for page, figures in shown.items():
        heads = re.findall("<h3>(.*?)</h3>", (large / page).read_text())
        assert heads == list(
            dict.fromkeys(volumes[html.unescape(who)].split for _, who, _ in figures)
        )


def test_the_pages_lead_to_each_other(large):
    for path in large.glob("quality*.html"):
        links = set(re.findall(r'href="(.*?)"', path.read_text()))
        for name in links - {"#volumes"}:
            page, _, place = name.partition("#")
            assert f'id="{place}"' in (large / page).read_text() or not place
        others = {other.name for other in large.glob("quality*.html")} - {path.name}
        assert others <= links


def test_a_dataset_with_further_pages_is_whole_and_read_as_any(large, capsys):
    data = large.parents[2]
    assert run(["verify", f"--data_dir={data}"]) == 0
    assert "still damaged" not in capsys.readouterr().out
    slices = tfds.load("ixi_t1/small", data_dir=str(data), split="train+validation+test")
    assert len(slices) == 11 * 6


def test_a_smaller_dataset_in_its_place_leaves_none_of_its_pages(source, small, large, tmp_path):
    shutil.copytree(large.parents[2], tmp_path / "data")
    assert files(make(source, tmp_path / "data", 11, "--overwrite")) == files(small)


def test_pages_of_a_publishing_that_was_killed_are_not_left(source, small, tmp_path, monkeypatch):
    def die(*args):
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(manifests, "write", die)
        make(source, tmp_path, 4)
    assert len(list(tmp_path.rglob("quality-*.html"))) == 3
    assert files(make(source, tmp_path, 11)) == files(small)


LOOK = Look(
    zooms=(1.0, 1.0, 1.0),
    extent=(190.0, 165.0, 150.0),
    tilt=0.0,
    shear=0.0,
    cut=0.0,
    shell=1.0,
    rim=1.0,
    cortex=0.8,
    histogram=(0.5, 0.8, 1.0, 1.1, 1.2),
)


def volume(number, **facts):
    """A volume like all others but for some facts."""
    name = f"P{number:03d}"
    usual = VolumeRecord(
        path=f"in/{name}.nii.gz",
        subject=name,
        site="A",
        sex="male",
        ethnicity="",
        age=50.0,
        shape=(9, 9, 9),
        zooms=(1.0, 1.0, 1.0),
        git_blob_sha1=name,
        lowest=0.0,
        mean=100.0 + number % 5,
        highest=1000.0,
        thumbnail="/9j/",
        off_middle=float(number % 3),
        tilt=1.0,
        look=LOOK,
    )
    return dataclasses.replace(usual, **facts)


ODD = {
    3: {"mean": 400.0},
    4: {"mean": 5.0},
    5: {"mean": 400.0, "site": "B"},
    6: {"tilt": 20.0},
    7: {"tilt": 30.0},
    8: {"off_middle": -40.0},
    9: {"cropped": 0.02},
    10: {"cropped": 0.31},
    11: {"assumed_axes": "LAS"},
    12: {"look": dataclasses.replace(LOOK, shell=0.1)},
}


def records(numbers=range(40), odd=ODD):
    """Three shards of such volumes; site B has means of 300 to 500."""
    some = [volume(number, **odd.get(number, {})) for number in numbers]
    some += [volume(900 + n, site="B", mean=300.0 + 20 * n) for n in range(11)]
    return [
        ShardRecord(f"x-{split}", split, "", 0, 1, tuple(some[start::3]), ())
        for start, split in enumerate(SPLITS)
    ]


def test_what_stands_out_is_named_the_worst_first():
    found = {way: list(by_path.items()) for way, by_path in outstanding(records()).items()}
    assert found == {
        "unlike the others": [("in/P012.nii.gz", "looks skull-stripped, unlike the other heads")],
        # P005 is as the others of its site.
        "extreme mean": [
            ("in/P003.nii.gz", "mean 400; half of its site have 101 to 103"),
            ("in/P004.nii.gz", "mean 5; half of its site have 101 to 103"),
        ],
        "tilted": [
            ("in/P007.nii.gz", "tilted by 30 degrees"),
            ("in/P006.nii.gz", "tilted by 20 degrees"),
        ],
        "off the middle": [("in/P008.nii.gz", "slices 41 mm off those of the others")],
        "cropped": [("in/P010.nii.gz", "31.0% cropped"), ("in/P009.nii.gz", "2.0% cropped")],
        "axes assumed": [("in/P011.nii.gz", "axes assumed: LAS")],
    }
    assert outstanding(records(odd={})) == {}


@pytest.fixture(scope="module")
def report(large, tmp_path_factory):
    """The pages of made-up records, 20 pictures a page, in a folder."""
    folder = tmp_path_factory.mktemp("report")
    odd = {**ODD, 20: {"subject": HOSTILE, "site": HOSTILE}}
    odd |= {number: {"tilt": number} for number in range(23, 40)}
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "MOST_PICTURES", 20)
        made, cohort = manifests.read(large), find_cohort("ixi_t1")
        for name, page in quality.render(made, records(odd=odd), (), [HOSTILE], cohort):
            (folder / name).write_text(page)
            written.append(name)
    assert written == ["quality.html", *(f"quality-{n:03d}.html" for n in (1, 2, 3))]
    return folder


def test_the_first_page_shows_what_stands_out_and_no_other_picture(report):
    page = (report / "quality.html").read_text()
    groups = re.split("<h3>", page)[1:]
    heads = [group.partition("<")[0] for group in groups]
    assert heads == [
        "Unlike the others: 1 of 51 volumes",
        "Extreme mean: 2 of 51 volumes",
        "Tilted: 19 of 51 volumes, the first 12",
        "Off the middle: 1 of 51 volumes",
        "Cropped: 2 of 51 volumes",
        "Axes assumed: 1 of 51 volumes",
    ]
    shown = [re.findall(r"<figcaption><b>(.*?)</b>", group) for group in groups]
    assert [len(group) for group in shown] == [1, 2, 12, 1, 2, 1]
    assert shown[2] == [f"P{number:03d}" for number in (*range(39, 30, -1), 7, 30, 29)]
    assert "<br><b>tilted by 39 degrees</b>" in groups[2]
    assert page.index("<h3>Unlike") < page.index("<h2>Splits")


def test_names_are_text_on_all_pages(report):
    for path in report.iterdir():
        page = path.read_text()
        assert "alert(1)</script>" not in page
        assert page.count("<script") == (path.name == "quality.html")
    assert "{{ 7*7 }}" in (report / "quality.html").read_text()


SEEN = "[...document.querySelectorAll('.volumes tbody tr')].filter(r => !r.hidden)"


def column(page, number):
    return page.run(f"{SEEN}.map(row => row.cells[{number}].textContent.trim())")


def press(page, number):
    page.run(f"document.querySelectorAll('.volumes th button')[{number}].click()")


@browser
@pytest.mark.slow
@pytest.mark.parametrize("width, mobile", [(1280, False), (390, True)])
def test_the_table_of_all_volumes_is_sorted_and_searched(report, tmp_path, width, mobile):
    with opened(report / "quality.html", tmp_path, width=width, mobile=mobile) as page:
        assert not page.run("document.documentElement.scrollWidth > innerWidth")
        press(page, 8)
        means = [float(mean) for mean in column(page, 8)]
        assert means == sorted(means) and (means[0], len(means)) == (5.0, 51)
        press(page, 8)
        assert [float(mean) for mean in column(page, 8)] == sorted(means, reverse=True)
        # Empty cells are last both ways.
        for ends in (["2.0", "31.0", ""], ["31.0", "2.0", ""]):
            press(page, 10)
            assert column(page, 10)[:3] == ends
        press(page, 0)
        assert column(page, 0) == sorted(column(page, 0))
        page.set("find", "TILTED p00")
        assert column(page, 0) == ["P006", "P007"]
        assert page.text("count") == "2 of 51 volumes"
        page.set("find", "")
        assert len(column(page, 0)) == 51
        page.follow(f"{SEEN}[50].querySelector('a').click()")
        assert page.documents[-1].partition("#")[0].endswith("/quality-003.html")
        assert page.console == []
        assert all(url.startswith(("file:", "data:")) for url in page.requests)


@browser
@pytest.mark.slow
def test_a_long_table_shows_the_first_500_of_what_is_sought(large, tmp_path):
    made, cohort = manifests.read(large), find_cohort("ixi_t1")
    pages = dict(quality.render(made, records(range(700)), (), (), cohort))
    (tmp_path / "quality.html").write_text(pages["quality.html"])
    with opened(tmp_path / "quality.html", tmp_path / "profile", width=1280) as page:
        assert page.text("count") == "711 of 711 volumes, the first 500 are shown"
        for first, last in (("P000", "P499"), ("P910", "P211")):
            press(page, 0)
            assert (len(column(page, 0)), *column(page, 0)[::499]) == (500, first, last)
        page.set("find", "P6")
        assert (page.text("count"), column(page, 0)[-1]) == ("100 of 711 volumes", "P600")


@browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_every_picture_and_complains_of_nothing(large, tmp_path, width):
    for name, count in (("quality-001.html", 4), ("quality-003.html", 3)):
        page = (large / name).read_text().replace(' loading="lazy"', "")
        assert see(page, tmp_path / name, width=width) == ((count, 0, False), [])
