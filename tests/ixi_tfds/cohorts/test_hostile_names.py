"""Archives, file names and tables that mean harm: taken as text, or refused in one line."""

import contextlib
import html
import io
import json
import os
import pathlib
import re
import shutil
import tarfile
import tracemalloc

import jinja2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_download import T1, extract, make_tar
from test_fuzz import EXAMPLES
from volumes import SMALL, ZOOMS, write_cohort, write_head

import beam_preprocess
import evaluator
from beam_preprocess.__main__ import run
from evaluator import volumes
from evaluator.report import figures
from ixi_tfds.cohorts import participants
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.system.commands import one_line
from ixi_tfds.system.errors import DownloadError, UserError
from ixi_tfds.system.files import PARTIAL

HOSTILE = (
    "<script>alert(1)<",
    'a\n"><img src=x onerror=y>',
    "é\N{SNOWMAN}\N{RIGHT-TO-LEFT OVERRIDE}cod",
    "$\\frac{$ {{ 7*7 }} %s",
    "=HYPERLINK(1)",
    "-rf",
)


def test_ten_thousand_entries_cost_no_memory(tmp_path, caplog, monkeypatch):
    path = make_tar(tmp_path / "t.tar", [(f"junk/{n}-{'x' * 80}", b"") for n in range(10_000)])
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(T1)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"scan!"))
    copy, held = shutil.copyfileobj, []

    def copy_at_the_last_entry(*args):
        # What tarfile holds by then; other memory of the process is not of the archive.
        snapshot = tracemalloc.take_snapshot()
        of_tarfile = snapshot.filter_traces([tracemalloc.Filter(True, tarfile.__file__)])
        held.append(sum(each.size for each in of_tarfile.statistics("filename")))
        copy(*args)

    monkeypatch.setattr("shutil.copyfileobj", copy_at_the_last_entry)
    tracemalloc.start()
    try:
        (found,) = extract(path, str(tmp_path / "out"))
    finally:
        tracemalloc.stop()
    assert pathlib.Path(found).read_bytes() == b"scan!"
    assert [each.name for each in (tmp_path / "out").iterdir()] == [T1]
    assert len(held) == 1 and held[0] < 1 << 20, held
    assert "left out 10000 members that are not T1 volumes" in caplog.text


def test_a_link_under_the_temporary_name_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f"{PARTIAL}{T1}").symlink_to(tmp_path / "precious")
    extract(make_tar(tmp_path / "t.tar", [(T1, b"12345")]), str(tmp_path))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / T1).read_bytes() == b"12345"


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_a_hundred_thousand_letters_are_left_out(tmp_path, format, caplog):
    long = "../" * 30_000 + T1
    path = make_tar(tmp_path / "t.tar", [(long, b"up"), (T1, b"scan!")], format=format)
    assert extract(path, str(tmp_path / "out")) == [str(tmp_path / "out" / T1)]
    assert (tmp_path / "out" / T1).read_bytes() == b"scan!"
    assert "left out 1 members" in caplog.text


def test_a_sparse_member_that_claims_terabytes_is_left_out(tmp_path):
    info = tarfile.TarInfo(T1)
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": T1,
        "GNU.sparse.realsize": str(1 << 45),
    }  # fmt: skip
    body = b"0\n".ljust(512, b"\0")
    info.size = len(body)
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(body))
    with pytest.raises(DownloadError, match="holds no T1 volume"):
        extract(str(tmp_path / "t.tar"), str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_while_unpacking_is_one_line_and_a_second_run_goes_on(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "t.tar", [(T1, b"12345")])

    def full(data, file, length):
        file.write(b"12")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(DownloadError, match=r"No space left on device.*run the same command"):
            extract(path, str(tmp_path / "out"))
    assert not (tmp_path / "out" / T1).exists()
    extract(path, str(tmp_path / "out"))
    assert [each.name for each in (tmp_path / "out").iterdir()] == [T1]


def test_hostile_names_go_through_preprocessing_as_text(tmp_path, capsys):
    source = write_cohort(tmp_path / "source\nfolder", subjects=18)
    for seed, name in enumerate(HOSTILE):
        write_head(source, name, seed=100 + seed)
    for name in HOSTILE[:2]:
        # Refused: their names stand in error messages, too.
        (source / f"bad {name}.nii.gz").write_bytes(b"not an image")
    os.mkfifo(source / "pipe.nii.gz")
    flags = [f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]
    assert run([*flags, "--max_rejected_fraction=0.5"]) == 0
    folder = tmp_path / "ixi_t1/small/1.0.0"
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert {each["path"]: each["reason"] for each in rejected} == {
        "pipe.nii.gz": "unreadable",
        **{f"bad {name}.nii.gz": "not_nifti" for name in HOSTILE[:2]},
    }
    page = (folder / "quality.html").read_text()
    assert "<script" not in page and "<img src=x" not in page and "{{ 7*7 }}" in page
    for name in HOSTILE:
        assert (
            page.count(html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 1
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(HOSTILE) <= set(manifest["volumes"])
    capsys.readouterr()
    # The same again: pipes are not waited for when inputs are compared either.
    assert run([*flags, "--max_rejected_fraction=0.5"]) == 0
    assert run([*flags, "--config=other", "--strict"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: --strict: ") for line in lines] == [False, False, True]


def test_names_cannot_steer_the_terminal():
    assert one_line("a\x1b[2J\x07\nb\u202ec\u00e9") == "a\\x1b[2J\\x07 b\\u202ec\u00e9"


def test_no_template_turns_escaping_off():
    for package in (beam_preprocess, evaluator):
        for path in pathlib.Path(package.__file__).parent.glob("*.html"):
            tree = jinja2.Environment(extensions=[]).parse(path.read_text())
            filters = {node.name for node in tree.find_all(jinja2.nodes.Filter)}
            assert not filters & {"safe", "forceescape"}, path
            assert not list(tree.find_all(jinja2.nodes.ScopedEvalContextModifier)), path
            for script in re.findall("<script.*?</script>", path.read_text(), re.DOTALL):
                assert not re.search("{[{%]", script), f"{path}: a script with data in it"


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden/1", "$x$", "<b>", "a\nb", "\N{SNOWMAN}"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_models_are_text_in_plots(name):
    frame = pd.DataFrame({"model": [name] * 20, "key": range(20), "psnr": np.linspace(20, 40, 20)})
    assert figures.histogram(frame, "psnr").startswith(b"\x89PNG")
    lines = {name: (np.arange(2), np.arange(2))}
    assert figures.precision_recall("dark", lines, 0.1).startswith(b"\x89PNG")
    shown = figures.learning_curves(
        {name: pd.DataFrame({"epoch": [1, 2], "loss": [1, 0.1]})}, "loss", "loss", models=[name]
    )
    assert shown.startswith(b"\x89PNG")


tsv_cells = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12) | (
    st.sampled_from(["n/a", "1e999", "-0", "89+", "nan", "\t", '"', "\0", "sub-", "f", "M", "٣"])
)


@settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, database=None, deadline=None)
@given(lines=st.lists(st.lists(tsv_cells, max_size=5), max_size=6), named=st.booleans())
def test_any_participants_give_people_or_one_error(tmp_path_factory, lines, named):
    folder = tmp_path_factory.mktemp("bids")
    rows = ["participant_id\tsex\tage"] * named + ["\t".join(line) for line in lines]
    (folder / "participants.tsv").write_text("\n".join(rows), encoding="utf-8")
    try:
        people, warnings = participants.read_participants(str(folder))
    except UserError as error:
        assert str(folder) in str(error)
        return
    for person in people.values():
        assert person["sex"] in ("female", "male", "unknown")
        assert not person["age"] < 0 and not person["age"] > 120
    assert all(len(warning) < 400 for warning in warnings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("participant_id\tsex\tage\nsub-01\tF\t" + "9" * 100_000, "is not an age in years"),
        (
            "participant_id\tage\tsex\nsub-01\t\t<script>alert(1)</script>",
            "'<script>alert(1)</script>'",
        ),
        (
            "participant_id\tage\tsex\nsub-01\t30\nsub-01\t31\nsub-01\t32\nsub-01\t33",
            "disagree on age",
        ),
    ],
)
def test_hostile_participants_are_warned_of_briefly(tmp_path, content, said):
    (tmp_path / "participants.tsv").write_text(content)
    people, (warning,) = participants.read_participants(str(tmp_path))
    assert said in warning and len(warning) < 200
    assert list(people) == ["sub-01"] and np.isnan(people["sub-01"]["age"])


def test_a_row_without_a_participant_is_passed_over(tmp_path):
    (tmp_path / "participants.tsv").write_text("sex\tage\tparticipant_id\nF\nM\t3\tsub-02\n")
    people, _ = participants.read_participants(str(tmp_path))
    assert people == {"sub-02": {"sex": "male", "age": 3.0}}


def test_a_field_that_never_ends_is_one_line(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\n" + "x" * 200_000)
    with pytest.raises(UserError, match=r"participants\.tsv: cannot be read as a table"):
        participants.read_participants(str(tmp_path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
SLICES = {"name": "a", "in_plane": [9, 9], "size": [8, 8], "window": [1, 4], "scaling": "slice"}
RECORDED = {"shape": [32, 32, 24], "zooms": list(ZOOMS)}


PLACES = [
    *(("slices", name) for name in SLICES),
    *(("geometry", name) for name in RECORDED),
    *(("slices",), ("geometry",), ()),
]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return str(write_head(tmp_path_factory.mktemp("head"), "x"))


@settings(max_examples=EXAMPLES or 100, derandomize=not EXAMPLES, database=None, deadline=None)
@given(place=st.sampled_from(PLACES), value=json_values)
def test_any_card_gives_a_geometry_or_one_error(scan, place, value):
    plain = {"datasets": {"d": {"slices": dict(SLICES), "geometry": dict(RECORDED)}}}
    *parents, last = "datasets", "d", *place
    at = plain
    for name in parents:
        at = at[name]
    at[last] = value
    with contextlib.suppress(UserError):
        card = codec.from_plain(ModelCard, plain)
        volumes.open_stack(scan, volumes.training_geometry(card))
