"""The preprocessing job through its real main: what it publishes, and what it refuses."""

import base64
import collections
import contextlib
import dataclasses
import hashlib
import html
import html.parser
import io
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from volumes import SMALL, ZOOMS, head, image, write_cohort, write_head

from beam_preprocess import workers
from beam_preprocess.__main__ import run
from ixi_tfds.formats import READ_FORMATS
from ixi_tfds.slices import slices_of


def job(source, data, *flags):
    return run([f"--source_dir={source}", f"--data_dir={data}", *flags])


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def examples(data, config, split):
    return list(tfds.as_numpy(tfds.load(f"ixi_t1/{config}", data_dir=str(data), split=split)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert job(source, data, *SMALL, "--volumes_per_shard=3") == 0
    return data


PEOPLE = {
    # id: site, SEX_ID, ETHNIC_ID and age of the workbook, which lacks the last one; sites stand in
    # blocks, so that shards dealt by name would be of one site each.
    701: ("Guys", 1, 1, 25.25),
    702: ("Guys", 2, 1, 61.5),
    703: ("Guys", 1, 4, 33.0),
    704: ("Guys", 2, 1, None),
    705: ("Guys", 1, 1, 44.75),
    706: ("HH", 2, 3, 29.5),
    707: ("HH", 1, 1, 70.0),
    708: ("HH", 2, 1, 52.125),
    709: ("HH", 1, 1, 38.5),
    710: ("HH", 2, 1, 21.0),
    711: ("IOP", 1, 1, 47.5),
    712: ("IOP", 2, 1, 66.0),
    713: ("IOP", 1, 1, 31.0),
    714: ("IOP", 2, 1, 58.5),
    715: ("IOP", None, None, None),
}
VARIED = (
    *("--config=varied", "--in_plane=any", "--size=30x34", "--slices=8:14"),
    *("--volumes_per_shard=4", "--max_rejected_fraction=0.2", "--allow_spacing"),
)


def write_workbook(path, people=PEOPLE):
    """The sheet `Table` as IXI lays it out, with all of the people who have a sex."""
    columns = ("SEX_ID (1=m, 2=f)", "ETHNIC_ID", "AGE")
    rows = [
        {"IXI_ID": number, "HEIGHT": 170, "WEIGHT": 60} | dict(zip(columns, facts, strict=True))
        for number, (_, *facts) in people.items()
        if facts[0]
    ]
    pd.DataFrame(rows).to_csv(path, index=False)


def write_with_zooms(folder, name, voxels, zooms):
    """A volume with voxels of its own size."""
    made = image(voxels)
    affine = made.affine @ np.diag([*np.array(zooms) / ZOOMS, 1])
    nib.save(nib.Nifti1Image(voxels, affine), folder / f"{name}.nii.gz")


@dataclasses.dataclass
class Varied:
    """A cohort of which no two people are alike, and what the job made and said of it."""

    source: pathlib.Path
    folder: pathlib.Path
    manifest: dict
    out: str
    err: str
    voxels: dict  # By subject, of those who are not refused.
    zooms: dict
    splits: dict

    def counted(self, field):
        """Volumes by value of a field and split."""
        return collections.Counter(
            (field(number), self.splits[f"IXI{number}"])
            for number in PEOPLE
            if f"IXI{number}" in self.splits
        )


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    source = tmp_path_factory.mktemp("varied")
    voxels, zooms = {}, {}
    for number, (site, *_) in PEOPLE.items():
        subject = f"IXI{number}"
        shape = ((32, 32, 24), (28, 36, 26), (36, 30, 20))[number % 3]
        scale = {"Guys": 1, "HH": 2, "IOP": 3}[site]
        voxels[subject] = scale * head(shape, seed=number)
        # Bright where it is anterior and superior, where air is else; in each slice otherwise.
        voxels[subject][:9, -7:] = scale * (1000 + 10 * np.arange(shape[2]))
        zooms[subject] = tuple(
            first + step * (number * factor % 15)
            for first, step, factor in ((1.0, 0.1, 1), (1.5, 0.07, 4), (2.0, 0.3, 7))
        )
        write_with_zooms(source, f"{subject}-{site}-0001-T1", voxels[subject], zooms[subject])
    (source / "IXI703-Guys-0001-T1.nii.gz").write_bytes(b"no image")
    del voxels["IXI703"], zooms["IXI703"]
    write_head(source, "IXI721-HH-0021-T2")
    write_workbook(source / "IXI.csv")
    data = tmp_path_factory.mktemp("data")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert job(source, data, *VARIED) == 0
    folder = data / "ixi_t1/varied/1.0.0"
    manifest = json.loads((folder / "manifest.json").read_text())
    splits = {
        fields["subject"].bytes_list.value[0].decode(): path.name.split(".")[0].split("-")[1]
        for path in folder.glob("*.tfrecord-*")
        for fields in records_in(path)
    }
    assert len(splits) == 14
    return Varied(source, folder, manifest, out.getvalue(), err.getvalue(), voxels, zooms, splits)


def records_in(path):
    """The fields of each example of a shard, in the order of the file, as TensorFlow reads it."""
    return [
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset(str(path))
    ]


def fitted(plane, size, value):
    """A plane cut or padded with a value to a size, the odd row or column at the end."""
    for axis, wanted in enumerate(size):
        over = plane.shape[axis] - wanted
        if over > 0:
            plane = np.take(plane, range(over // 2, over // 2 + wanted), axis)
        else:
            widths = [(0, 0), (0, 0)]
            widths[axis] = (-over // 2, -over - -over // 2)
            plane = np.pad(plane, widths, constant_values=value)
    return plane


def border(voxels):
    """The median of the six faces of a volume."""
    faces = [np.take(voxels, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    return np.median(np.concatenate(faces))


def stretch(plane):
    low, high = plane.min(), plane.max()
    return ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)


def test_every_slice_is_there_once_and_right(source, made):
    seen = set()
    for split in ("train", "validation", "test"):
        for example in examples(made, "small", split):
            subject, index = example["subject"].decode(), int(example["slice_index"])
            (path,) = source.glob(f"{subject}-*.nii.gz")
            plane = nib.load(path).get_fdata()[:, :, index]
            np.testing.assert_array_equal(example["image"][..., 0], stretch(plane))
            assert example["site"].decode() == path.name.split("-")[1]
            seen.add((subject, index))
    assert len(seen) == 12 * 6


def test_slices_of_any_size_with_what_the_workbook_tells(varied):
    """Planes of three sizes, cut and padded to one that is not square."""
    seen = set()
    for path in varied.folder.glob("*.tfrecord-*"):
        for fields in records_in(path):
            subject = fields["subject"].bytes_list.value[0].decode()
            index = fields["slice_index"].int64_list.value[0]
            voxels = varied.voxels[subject]
            plane = fitted(voxels[:, :, index].astype(float), (30, 34), border(voxels))
            assert fields["image"].bytes_list.value[0] == stretch(plane).tobytes()
            assert fields["low"].float_list.value[0] == plane.min()
            assert fields["high"].float_list.value[0] == plane.max()
            site, sex, ethnic, age = PEOPLE[int(subject[3:])]
            assert fields["site"].bytes_list.value[0].decode() == site
            assert fields["sex"].int64_list.value[0] == {2: 0, 1: 1, None: 2}[sex]
            ethnicity = {1: 0, 4: 1, 3: 2, None: 5}[ethnic]
            assert fields["ethnicity"].int64_list.value[0] == ethnicity
            told = fields["age"].float_list.value[0]
            assert told == age or (age is None and math.isnan(told))
            seen.add((subject, index))
    assert len(seen) == 14 * 6


def test_nobody_is_in_two_splits(made, varied):
    people = [
        {example["subject"] for example in examples(made, "small", split)}
        for split in ("train", "validation", "test")
    ]
    assert [len(p) for p in people] == [9, 2, 1]
    assert len(set.union(*people)) == 12
    for data, config, everyone in ((made, "small", 12), (varied.folder.parents[2], "varied", 14)):
        found = collections.defaultdict(set)
        for path in data.glob(f"ixi_t1/{config}/1.0.0/*.tfrecord-*"):
            for fields in records_in(path):
                found[fields["subject"].bytes_list.value[0]].add(path.name.split(".")[0])
        assert [len(splits) for splits in found.values()] == [1] * everyone


def test_people_are_dealt_to_shards_in_the_order_of_a_hash(varied):
    """Named by site, as IXI's files are in blocks, each shard of a run of names is of one site."""
    shards = collections.defaultdict(set)
    for subject, volume in varied.manifest["volumes"].items():
        shards[volume["shard"]].add(subject)
    for split, count in (("train", 3), ("validation", 1), ("test", 1)):
        planned = [s for s, its in splits_of(varied.source, PEOPLE).items() if its == split]
        planned.sort(key=lambda subject: hashlib.sha256(f"shards:{subject}".encode()).hexdigest())
        for index in range(count):
            name = f"ixi_t1-{split}.tfrecord-{index:05d}-of-{count:05d}"
            assert shards[name] == set(planned[index::count]) - {"IXI703"}
            found = {f["subject"].bytes_list.value[0] for f in records_in(varied.folder / name)}
            assert found == {subject.encode() for subject in shards[name]}
            if split == "train":
                assert len({PEOPLE[int(subject[3:])][0] for subject in shards[name]}) > 1


def test_slices_are_mixed_within_a_shard(varied):
    for path in varied.folder.glob("*.tfrecord-*"):
        keys = [
            f"{f['subject'].bytes_list.value[0].decode()}/{f['slice_index'].int64_list.value[0]:03}"
            for f in records_in(path)
        ]
        hashes = [hashlib.sha256(f"{path.name}:{key}".encode()).hexdigest() for key in keys]
        assert hashes == sorted(hashes) and keys != sorted(keys)


def test_tfds_is_told_of_the_slices_and_bytes_in_each_shard(varied):
    """By these numbers it finds slices by their index: those of two shards are not alike."""
    splits = tfds.builder_from_directory(varied.folder).info.splits
    assert set(splits) == {"train", "validation", "test"}
    for name, info in splits.items():
        paths = sorted(varied.folder.glob(f"ixi_t1-{name}.tfrecord-*"))
        assert info.shard_lengths == [len(records_in(path)) for path in paths]
        assert info.num_bytes == sum(path.stat().st_size for path in paths)
        assert [path.name for path in paths] == info.filenames
        (one,) = tfds.as_numpy(
            tfds.load("ixi_t1/varied", data_dir=varied.folder.parents[2], split=f"{name}[-1:]")
        )
        last = records_in(paths[-1])[-1]
        assert one["subject"] == last["subject"].bytes_list.value[0]
        assert one["slice_index"] == last["slice_index"].int64_list.value[0]
    assert len(set(splits["train"].shard_lengths)) > 1


def test_serialized_examples_are_those_of_tfds(source, made):
    """Our encoder against TFDS's own, on the same example."""
    from ixi_tfds.cohorts import DEFAULT
    from ixi_tfds.cohorts.catalog import find_scans
    from ixi_tfds.config import SliceConfig
    from ixi_tfds.features import encode_slice, slice_features

    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    features = slice_features(config.size)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    _, example = next(slices_of(find_scans(str(source), DEFAULT).scans[0], config))
    example["age"] = 35.8  # a missing age is NaN, which equals nothing
    theirs = tf.train.Example.FromString(
        serializer.serialize_example(features.encode_example(example))
    )
    assert tf.train.Example.FromString(encode_slice(example)) == theirs


def test_one_or_two_workers_write_the_same_bytes(source, made, tmp_path, monkeypatch):
    started = []
    real = workers.CONTEXT.Process
    monkeypatch.setattr(
        workers.CONTEXT, "Process", lambda **given: (started.append(given), real(**given))[1]
    )
    # The mode sets a hook of its own, which is not for the tests after this one.
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    two = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert job(source, tmp_path, *SMALL, "--volumes_per_shard=3", *two) == 0
    assert len(started) == 2
    assert tree(tmp_path) == tree(made)


def test_the_manifest_names_the_shards_by_digest(made):
    folder = made / "ixi_t1/small/1.0.0"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["splits"]["train"] == {"volumes": 9, "slices": 54}
    # The window's middle is at slice 10.5, the ball's at 12, and slices are 5 mm apart.
    off = {"off_middle": pytest.approx(-7.5, abs=0.5)}
    assert manifest["geometry"] == {"shape": [32, 32, 24], "zooms": [4.0, 4.0, 5.0]} | off
    assert manifest["shards"] == {k: v for k, v in tree(folder).items() if "tfrecord" in k}
    assert not [path for path in made.rglob("*") if path.name.startswith(".")]


def test_the_manifest_tells_all_of_the_dataset(varied):
    manifest, folder = dict(varied.manifest), varied.folder
    shards = sorted(folder.glob("*.tfrecord-*"))
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True)
    assert manifest.pop("digest") == hashlib.sha256(text.encode()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", manifest.pop("fingerprint"))
    strata = collections.Counter()
    for number, (_, sex, ethnic, _) in PEOPLE.items():
        if number != 703:
            sex = {1: "male", 2: "female", None: "unknown"}[sex]
            ethnicity = {1: "white", 3: "asian", 4: "black", None: "unknown"}[ethnic]
            strata[varied.splits[f"IXI{number}"], f"{sex}/{ethnicity}"] += 1
    volumes = {}
    for path in shards:
        for fields in records_in(path):
            subject = fields["subject"].bytes_list.value[0].decode()
            file = next(varied.source.glob(f"{subject}-*"))
            content = file.read_bytes()
            volumes[subject] = {
                "split": varied.splits[subject],
                "shard": path.name,
                "path": file.name,
                "git_blob_sha1": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
    splits = ("train", "validation", "test")
    people = {split: sum(its == split for its in varied.splits.values()) for split in splits}
    # The seventh of fourteen, axis by axis.
    shape = np.sort([voxels.shape for voxels in varied.voxels.values()], axis=0)[6].tolist()
    zooms = np.sort([*varied.zooms.values()], axis=0)[6].tolist()
    geometry = manifest.pop("geometry")
    assert abs(geometry.pop("off_middle")) < 20
    assert geometry == {"shape": shape, "zooms": pytest.approx(zooms, abs=1e-5)}
    assert set(manifest.pop("look")) == {"low", "high"}
    assert manifest == {
        "version": "1.0.0",
        "config": {
            "name": "varied",
            "in_plane": None,
            "size": [30, 34],
            "window": [8, 14],
            "scaling": "slice",
            "padding": "background",
        },
        "voxels": {
            "lowest": np.round(np.min([*varied.zooms.values()], axis=0), 6).tolist(),
            "highest": np.round(np.max([*varied.zooms.values()], axis=0), 6).tolist(),
        },
        "volumes_per_shard": 4,
        "splits": {split: {"volumes": n, "slices": 6 * n} for split, n in people.items()},
        "strata": {
            split: {stratum: n for (its, stratum), n in sorted(strata.items()) if its == split}
            for split in splits
        },
        "rejected": {"not_nifti": 1},
        "skipped": {"other_modality": 1},
        "bytes": sum(path.stat().st_size for path in shards),
        "shards": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards},
        "volumes": volumes,
        "shard_bytes": {path.name: path.stat().st_size for path in shards},
        "metadata": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in ("dataset_info.json", "features.json", "*.labels.txt")
            for path in folder.glob(pattern)
        },
    }
    assert len(manifest["metadata"]) == 4


def test_the_command_tells_the_plan_and_what_became_of_it(varied):
    train, validation, test = (
        varied.manifest["splits"][split] for split in ("train", "validation", "test")
    )
    planned = list(splits_of(varied.source, PEOPLE).values())
    counts = [planned.count(split) for split in ("train", "validation", "test")]
    lines = varied.out.splitlines()
    assert lines[0].startswith("varied: slices [8, 14) of any in-plane size, stored as 30x34")
    assert lines[1] == (
        f"planned subjects {'/'.join(map(str, counts))}, "
        f"slices {'/'.join(str(6 * n) for n in counts)} (train/validation/test)"
    )
    words = [line.split() for line in lines]
    assert ["split", "volumes", "slices"] in words
    for name, made in (("train", train), ("validation", validation), ("test", test)):
        assert [name, str(made["volumes"]), str(made["slices"])] in words
        place = words.index([name, str(made["volumes"]), str(made["slices"])]) + 1
        strata = varied.manifest["strata"][name]
        told = dict(words[place : place + len(strata)])
        assert {stratum: int(count) for stratum, count in told.items()} == strata
    assert ["rejected:", "not_nifti", "1"] in words and ["skipped:", "other_modality", "1"] in words
    assert any(re.match(rf"{varied.manifest['bytes']:,} bytes in \d+\.\d s$", x) for x in lines)
    assert lines[-2:] == [
        f"dataset: {varied.folder}",
        f"quality: {varied.folder / 'quality.html'}",
    ]
    assert varied.err.startswith("warning: voxels of the volumes differ by 210%")
    assert [line.partition(": ")[0] for line in varied.err.splitlines()] == ["warning"] * 2
    assert " has another contrast than the other heads" in varied.err


class _Page(html.parser.HTMLParser):
    """The rows of all tables of a page, as lists of texts."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.open = tag in ("td", "th")
        if self.open:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def test_the_numbers_on_the_quality_page_are_those_of_the_cohort(varied):
    page = (varied.folder / "quality.html").read_text()
    rows = {row[0]: row[1:] for row in _Page(page).rows}
    splits = ("train", "validation", "test")
    people = {s: [n for n in PEOPLE if varied.splits.get(f"IXI{n}") == s] for s in splits}
    assert rows["volumes"] == [str(len(people[split])) for split in splits]
    assert rows["slices"] == [str(6 * len(people[split])) for split in splits]
    ages = []
    for split in splits:
        known = [PEOPLE[number][3] for number in people[split] if PEOPLE[number][3] is not None]
        middle, low, high = statistics.median(known), min(known), max(known)
        ages.append(f"{middle:.0f} ({low:.0f} to {high:.0f}), {len(known)} known")
    assert rows["age, years: median (range)"] == ages
    balances = {
        "male": lambda number: PEOPLE[number][1] == 1,
        "female": lambda number: PEOPLE[number][1] == 2,
        "white": lambda number: PEOPLE[number][2] == 1,
        "asian": lambda number: PEOPLE[number][2] == 3,
    }
    for value, holds in balances.items():
        # The share of the split, not of everyone.
        assert rows[value] == [
            f"{sum(map(holds, people[split]))} "
            f"({sum(map(holds, people[split])) / len(people[split]):.0%})"
            for split in splits
        ]
    assert "black" not in rows  # That one was refused.
    sites = {row[0]: row[1:] for row in _Page(page).rows if row[0] in ("Guys", "HH", "IOP")}
    assert set(sites) == {"Guys", "HH", "IOP"}
    for site, cells in sites.items():
        mine = [f"IXI{n}" for n in PEOPLE if PEOPLE[n][0] == site and n != 703]
        windows = [varied.voxels[subject][:, :, 8:14] for subject in mine]
        numbers = [
            statistics.median(float(f(window)) for window in windows)
            for f in (np.min, np.mean, np.max)
        ]
        assert cells[0] == str(len(mine))
        assert [float(cell) for cell in cells[1:4]] == pytest.approx(numbers, abs=0.051)
        shapes = collections.Counter("x".join(map(str, varied.voxels[s].shape)) for s in mine)
        assert sorted(cells[4].split(", ")) == sorted(f"{s} ({n})" for s, n in shapes.items())
    balance = [row for row in _Page(page).rows if row[0] in sites and len(row) == 4]
    assert {row[0]: row[1:] for row in balance} == {
        site: [
            f"{sum(PEOPLE[n][0] == site for n in people[s])} "
            f"({sum(PEOPLE[n][0] == site for n in people[s]) / len(people[s]):.0%})"
            for s in splits
        ]
        for site in sites
    }
    assert "Of 14 volumes: 14 without a published checksum." in page
    assert [row for row in _Page(page).rows if len(row) == 3 and row[0].endswith(".gz")] == [
        [
            "IXI703-Guys-0001-T1.nii.gz",
            "not_nifti",
            f"has no valid header of a format that is read: {READ_FORMATS}",
        ],
        [
            "IXI721-HH-0021-T2.nii.gz",
            "other_modality",
            "'t2' in its name says another modality than T1",
        ],
    ]
    assert varied.manifest["fingerprint"] in page


def test_every_volume_has_its_middle_slice_upright_on_the_quality_page(varied):
    page = (varied.folder / "quality.html").read_text()
    found = re.findall(
        r"<h3>(\w+)</h3>|slice of (\w+)\" src=\"data:image/jpeg;base64,([^\"]+)\">"
        r"\s*<figcaption><b>(\w+)</b> (\w+)<br>([^<]*)<br>([^<]*)<br>([^<]*)</figcaption>",
        page,
    )
    split, seen = None, []
    for heading, subject, jpeg, told, site, shape, values, sides in found:
        if heading:
            split = heading
            continue
        seen.append(subject)
        voxels = varied.voxels[subject]
        window = voxels[:, :, 8:14]
        assert (told, site) == (subject, PEOPLE[int(subject[3:])][0])
        assert split == varied.splits[subject]
        assert shape == f"{'x'.join(map(str, voxels.shape))}, without a published checksum"
        assert values == f"{window.min():.0f} | {window.mean():.0f} | {window.max():.0f}"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))), float)
        # Stored rows run to posterior and columns to superior; superior is above here.
        plane = stretch(fitted(voxels[:, :, 11].astype(float), (30, 34), border(voxels)))
        upright = plane.T[::-1].astype(float)
        # As wide and high as in mm.
        posterior, superior, _ = varied.zooms[subject]
        wide, high = (side / min(posterior, superior) for side in (posterior, superior))
        assert picture.shape == pytest.approx((34 * high, 30 * wide), abs=0.51)
        rows, columns = (
            np.linspace(0, n - 1, m).round().astype(int)
            for n, m in zip(upright.shape, picture.shape, strict=True)
        )
        upright = upright[rows][:, columns]
        told = f"{posterior:.4g}x{superior:.4g}x{varied.zooms[subject][2]:.4g} mm"
        assert re.fullmatch(re.escape(told) + r", crop \d\d?\.\d%", sides)
        assert np.abs(picture - upright).mean() < 12
        others = (upright[::-1], upright[:, ::-1], upright[::-1, ::-1])
        assert min(np.abs(picture - other).mean() for other in others) > 25
    assert seen == sorted(varied.voxels, key=lambda s: (_ORDER[varied.splits[s]], s))


_ORDER = {"train": 0, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """Uncompressed heads with a workbook, one broken file among them, and their dataset."""
    root = tmp_path_factory.mktemp("settled")
    (root / "source").mkdir()
    for number, (site, *_) in itertools.islice(PEOPLE.items(), 8):
        path = root / f"source/IXI{number}-{site}-0001-T1.nii"
        nib.save(image(head(seed=number)), path)
    (root / "source/IXI799-HH-0099-T1.nii.gz").write_bytes(b"broken")
    write_workbook(root / "source/IXI.csv")
    assert job(root / "source", root / "data", *SMALL, *_LOOSE) == 0
    return root


_LOOSE = ("--max_rejected_fraction=0.2",)


def change_a_byte(path, place):
    """As a careless editor does it that keeps the size and the time of the file."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_facts(source, number, **facts):
    site, sex, ethnic, age = PEOPLE[number]
    told = (site, facts.get("sex", sex), facts.get("ethnic", ethnic), facts.get("age", age))
    write_workbook(source / "IXI.csv", PEOPLE | {number: told})


INPUTS = {
    "a head more": lambda source: write_head(source, "IXI798-HH-0098-T1", seed=98),
    "a head less": lambda source: (source / "IXI704-Guys-0001-T1.nii").unlink(),
    "the first head": lambda source: change_a_byte(source / "IXI701-Guys-0001-T1.nii", 20_000),
    "another head": lambda source: change_a_byte(source / "IXI705-Guys-0001-T1.nii", 9_000),
    "the last head": lambda source: change_a_byte(source / "IXI708-HH-0001-T1.nii", -1),
    "a refused file": lambda source: change_a_byte(source / "IXI799-HH-0099-T1.nii.gz", 0),
    "two heads' names": lambda source: swap(
        source / "IXI701-Guys-0001-T1.nii", source / "IXI705-Guys-0001-T1.nii"
    ),
    "an age": lambda source: change_facts(source, 702, age=61.75),
    "an age that was unknown": lambda source: change_facts(source, 704, age=40.0),
    "a sex": lambda source: change_facts(source, 707, sex=2),
    "an ethnicity": lambda source: change_facts(source, 708, ethnic=3),
    "the workbook": lambda source: (source / "IXI.csv").unlink(),
}


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def check_refused(source, data, capsys, flags):
    before = tree(data)
    assert job(source, data, *flags, *_LOOSE) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("warning: ")]
    assert "was made from other inputs or settings; pass --overwrite" in line
    assert f"{data / 'ixi_t1/small/1.0.0'}: " in line
    assert tree(data) == before


@pytest.mark.parametrize("what", INPUTS)
def test_a_dataset_from_other_inputs_is_refused_and_stays(what, settled, tmp_path, capsys):
    source = shutil.copytree(settled / "source", tmp_path / "source")
    data = shutil.copytree(settled / "data", tmp_path / "data")
    INPUTS[what](source)
    check_refused(source, data, capsys, SMALL)


SETTINGS = {
    "--slices": ("--config=small", "--in_plane=32x32", "--size=32x32", "--slices=9:15"),
    "--size": ("--config=small", "--in_plane=32x32", "--size=32x30", "--slices=8:14"),
    "--in_plane": ("--config=small", "--in_plane=any", "--size=32x32", "--slices=8:14"),
    "--scaling": (*SMALL, "--scaling=volume"),
    "--volumes_per_shard": (*SMALL, "--volumes_per_shard=4"),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_a_dataset_of_other_settings_is_refused_and_stays(what, settled, tmp_path, capsys):
    data = shutil.copytree(settled / "data", tmp_path / "data")
    check_refused(settled / "source", data, capsys, SETTINGS[what])


def test_the_same_inputs_change_nothing(settled, tmp_path, capsys):
    """Wherever they are, and however old; nor does --overwrite, which makes the same again."""
    source = shutil.copytree(settled / "source", tmp_path / "elsewhere")
    data = shutil.copytree(settled / "data", tmp_path / "data")
    for path in source.iterdir():
        os.utime(path, (1e9, 1e9))
    folder = data / "ixi_t1/small/1.0.0"
    before = {path: path.stat() for path in folder.iterdir()}
    assert job(source, data, *SMALL, *_LOOSE) == 0
    assert "already made from these inputs and settings; nothing to do" in capsys.readouterr().out
    after = {path: path.stat() for path in folder.iterdir()}
    assert {p: (f.st_ino, f.st_mtime_ns) for p, f in after.items()} == {
        p: (f.st_ino, f.st_mtime_ns) for p, f in before.items()
    }
    assert tree(data) == tree(settled / "data")
    assert job(source, data, *SMALL, *_LOOSE, "--overwrite") == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert tree(data) == tree(settled / "data")


def test_overwrite_replaces_a_dataset_by_that_of_the_new_inputs(settled, tmp_path):
    source = shutil.copytree(settled / "source", tmp_path / "source")
    data = shutil.copytree(settled / "data", tmp_path / "data")
    change_a_byte(source / "IXI705-Guys-0001-T1.nii", 9_001)
    assert job(source, data, *SETTINGS["--scaling"], *_LOOSE, "--overwrite") == 0
    assert job(source, tmp_path / "fresh", *SETTINGS["--scaling"], *_LOOSE) == 0
    assert tree(data) == tree(tmp_path / "fresh") != tree(settled / "data")


def test_an_interrupted_job_goes_on_with_the_whole_shards(source, made, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    def write_four_and_die(tasks, options):
        assert len(tasks) == 5
        for task in tasks[:4]:
            shards.write_shard(task)
        # The first one is whole. With its record: damaged, cut. Without: half, and not begun.
        change_a_byte(tasks[1].path, 5000)
        tasks[2].path.write_bytes(tasks[2].path.read_bytes()[:5000])
        tasks[3].path.write_bytes(b"half a sh")
        tasks[3].record_path.unlink()
        kept.append(tasks[0].path.name)
        raise SystemError("killed")

    kept = []

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job_module, "write_shards", write_four_and_die)
        job(source, tmp_path, *SMALL, "--volumes_per_shard=3")
    assert not (tmp_path / "ixi_t1/small/1.0.0").exists()

    written = []
    real = shards._write_whole
    monkeypatch.setattr(
        shards,
        "_write_whole",
        lambda path, parts: (written.append(path.name), real(path, parts))[1],
    )
    assert job(source, tmp_path, *SMALL, "--volumes_per_shard=3") == 0
    names = [path.name for path in made.rglob("*.tfrecord-*")]
    assert sorted(name for name in written if not name.endswith(".json")) == sorted(
        set(names) - set(kept)
    )
    assert tree(tmp_path) == tree(made)


def test_a_scan_that_changed_during_the_interruption_is_read_again(source, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    copy = shutil.copytree(source, tmp_path / "source")

    def write_all_and_die(tasks, options):
        for task in tasks:
            shards.write_shard(task)
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job_module, "write_shards", write_all_and_die)
        job(copy, tmp_path / "data", *SMALL)
    write_head(copy, "IXI701-Guys-0000-T1", voxels=head(seed=77))
    assert job(copy, tmp_path / "data", *SMALL) == 0
    assert job(copy, tmp_path / "fresh", *SMALL) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("what", ["--slices", "--scaling", "--volumes_per_shard", "an age"])
def test_shards_of_other_settings_are_not_gone_on_with(what, settled, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    source = shutil.copytree(settled / "source", tmp_path / "source")

    def write_all_and_die(tasks, options):
        for task in tasks:
            shards.write_shard(task)
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job_module, "write_shards", write_all_and_die)
        job(source, tmp_path / "data", *SMALL, *_LOOSE)
    if what in INPUTS:
        INPUTS[what](source)
    flags = SETTINGS.get(what, SMALL)
    assert job(source, tmp_path / "data", *flags, *_LOOSE) == 0
    assert job(source, tmp_path / "fresh", *flags, *_LOOSE) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "fresh")


def test_a_whole_unfinished_job_writes_no_shard_again(source, made, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    def write_all_and_die(tasks, options):
        for task in tasks:
            shards.write_shard(task)
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job_module, "write_shards", write_all_and_die)
        job(source, tmp_path, *SMALL, "--volumes_per_shard=3")
    monkeypatch.setattr(shards, "_write_whole", None)
    assert job(source, tmp_path, *SMALL, "--volumes_per_shard=3") == 0
    assert tree(tmp_path) == tree(made)


def test_each_volume_is_read_once_and_counted_once(source, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    read, bars = [], []
    real = shards.read_volume
    monkeypatch.setattr(
        shards, "read_volume", lambda path, **o: (read.append(path), real(path, **o))[1]
    )

    class Bar(job_module.tqdm):
        def update(self, n=1):
            bars.append((self.total, n))
            return super().update(n)

    monkeypatch.setattr(job_module, "tqdm", Bar)
    assert job(source, tmp_path, *SMALL, "--volumes_per_shard=3") == 0
    assert sorted(read) == sorted(map(str, source.glob("*.nii.gz")))
    assert {total for total, _ in bars} == {12}
    assert sorted(n for _, n in bars) == [1, 2, 3, 3, 3]


def bad_cohort(folder):
    write_cohort(folder, subjects=12)
    (folder / "IXI720-HH-0020-T1.nii.gz").write_bytes(b"not an image at all")
    write_head(folder, "IXI721-HH-0021-T2", seed=5)
    write_head(folder, "IXI701-Guys-0000-T1.labels", seed=5)
    write_head(folder, "<script>alert(1)<", seed=6, shape=(30, 32, 24))
    return folder


def test_rejects_are_listed_and_the_job_goes_on(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=0.5") == 0
    folder = tmp_path / "ixi_t1/small/1.0.0"
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert {entry["path"]: entry["reason"] for entry in rejected} == {
        "IXI720-HH-0020-T1.nii.gz": "not_nifti",
        "IXI721-HH-0021-T2.nii.gz": "other_modality",
        "IXI701-Guys-0000-T1.labels.nii.gz": "label_map",
        "<script>alert(1)<.nii.gz": "wrong_in_plane_size",
    }
    assert [entry["path"] for entry in rejected] == sorted(entry["path"] for entry in rejected)
    out = capsys.readouterr().out
    for line in ("rejected: not_nifti", "rejected: wrong_in_plane_size", "skipped: label_map"):
        assert re.search(rf"^{line} +1$", out, re.MULTILINE)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rejected"] == {"not_nifti": 1, "wrong_in_plane_size": 1}
    assert manifest["skipped"] == {"label_map": 1, "other_modality": 1}
    # Nothing of them counts as accepted.
    assert sorted(manifest["volumes"]) == [f"IXI{701 + index}" for index in range(12)]
    assert sum(counts["volumes"] for counts in manifest["splits"].values()) == 12
    assert sum(len(records_in(path)) for path in folder.glob("*.tfrecord-*")) == 12 * 6
    report = (folder / "quality.html").read_text()
    assert "<script>" not in report
    assert html.escape("<script>alert(1)<") in report


def test_too_many_rejects_publish_nothing(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL) == 2
    error = capsys.readouterr().err
    assert "2 of 14 volumes were refused, more than --max_rejected_fraction=0.05" in error
    assert not (tmp_path / "ixi_t1/small/1.0.0").exists()
    report = re.search(r"nothing was published, (\S+) lists them", error)[1]
    told = [json.loads(line)["path"] for line in pathlib.Path(report).read_text().splitlines()]
    assert told == [
        "<script>alert(1)<.nii.gz",
        "IXI701-Guys-0000-T1.labels.nii.gz",
        "IXI720-HH-0020-T1.nii.gz",
        "IXI721-HH-0021-T2.nii.gz",
    ]


def test_the_share_that_may_be_refused_is_what_was_said(tmp_path, capsys):
    """By default one of twenty, but not one of nineteen; then, and when the dataset is there."""
    source = write_cohort(tmp_path / "source", subjects=20)
    (source / "IXI701-Guys-0000-T1.nii.gz").write_bytes(b"broken")
    assert job(source, tmp_path / "data", *SMALL) == 0
    assert job(source, tmp_path / "data", *SMALL) == 0
    assert job(source, tmp_path / "data", *SMALL, "--max_rejected_fraction=0.049") == 2
    assert "without 1 refused volumes" in capsys.readouterr().err
    next(source.glob("IXI720-*")).unlink()
    assert job(source, tmp_path / "other", *SMALL) == 2
    assert "1 of 19 volumes were refused" in capsys.readouterr().err


def test_a_strict_job_that_failed_leaves_nothing_in_the_dataset(tmp_path):
    """Neither the words of its failure nor a shard."""
    source = bad_cohort(tmp_path / "source")
    flags = (*SMALL, "--max_rejected_fraction=0.5")
    assert job(source, tmp_path / "data", *flags, "--strict") == 2
    assert job(source, tmp_path / "data", *flags) == 0
    assert job(source, tmp_path / "fresh", *flags) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "fresh")
    assert not [name for name in tree(tmp_path / "data") if "strict" in name]


def test_a_volume_of_every_split_refused_is_said_with_the_first(tmp_path, capsys):
    source = write_cohort(tmp_path / "source", subjects=4)
    for path in source.iterdir():
        path.write_bytes(b"broken")
    assert job(source, tmp_path / "data", *SMALL, "--max_rejected_fraction=1") == 2
    error = capsys.readouterr().err
    assert "all 4 volumes were refused, the first one: " in error and "no valid header" in error
    assert not list(tmp_path.rglob("manifest.json"))


def test_height_comes_before_width(tmp_path, capsys):
    """Posterior before superior, in what a volume must have and in what is stored."""
    source = write_cohort(tmp_path / "source", subjects=3, shape=(30, 34, 24))
    flags = ("--config=small", "--slices=8:14", "--size=28x36")
    assert job(source, tmp_path / "data", *flags, "--in_plane=34x30") == 2
    assert "is 30x34 in the plane of its slices (posterior x superior)" in capsys.readouterr().err
    # Without --in_plane the stored size is what they must have.
    assert job(source, tmp_path / "data", *flags) == 2
    assert "not 28x36" in capsys.readouterr().err
    assert job(source, tmp_path / "data", *flags, "--in_plane=30x34") == 0
    info = tfds.builder_from_directory(tmp_path / "data/ixi_t1/small/1.0.0").info
    assert info.features["image"].shape == (28, 36, 1)


def test_the_workbook_that_is_named_counts(settled, tmp_path):
    """Not the one beside the volumes."""
    changed = {n: (site, 2, 5, 80.5) for n, (site, *_) in PEOPLE.items()}
    write_workbook(tmp_path / "other.csv", changed)
    flags = (*SMALL, *_LOOSE, f"--workbook={tmp_path / 'other.csv'}")
    assert job(settled / "source", tmp_path / "data", *flags) == 0
    for split in ("train", "validation", "test"):
        for example in examples(tmp_path / "data", "small", split):
            assert (example["sex"], example["ethnicity"], example["age"]) == (0, 3, 80.5)


@pytest.mark.parametrize(("rows", "shown"), [(5, 5), (6, 6), (9, 6)])
def test_five_warnings_are_shown_and_the_others_counted(rows, shown, settled, tmp_path, capsys):
    source = shutil.copytree(settled / "source", tmp_path / "source")
    people = {
        number: (site, sex, ethnic, 30.0) for number, (site, sex, ethnic, _) in PEOPLE.items()
    }
    for number in list(people)[:rows]:
        people[number] = (*people[number][:3], 1000.0)
    write_workbook(source / "IXI.csv", people)
    assert job(source, tmp_path / "data", *SMALL, *_LOOSE) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == shown and all(line.startswith("warning: ") for line in lines)
    if rows > 5:
        assert lines[5] == f"warning: and {rows - 5} more; quality.html lists all of them"
    page = (tmp_path / "data/ixi_t1/small/1.0.0/quality.html").read_text()
    warnings = page[page.index("<h2>Warnings</h2>") :]
    assert warnings.count("<li>") == rows
    assert all(line.removeprefix("warning: ") in html.unescape(warnings) for line in lines[:5])


def test_strict_fails_at_the_first_reject(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL, "--strict", "--max_rejected_fraction=1") == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: --strict: ")
    # The first one ends it: there is no word of the other.
    assert ("IXI720" in error) != ("script" in error)
    assert not (tmp_path / "ixi_t1/small/1.0.0").exists()


def test_a_shard_of_rejects_only_does_not_reach_the_dataset(tmp_path):
    source = write_cohort(tmp_path / "source", subjects=12)
    for path in sorted(source.glob("*.nii.gz"))[:4]:
        path.write_bytes(b"broken")
    flags = (*SMALL, "--volumes_per_shard=1", "--max_rejected_fraction=0.5")
    assert job(source, tmp_path, *flags) == 0
    builder = tfds.builder_from_directory(tmp_path / "ixi_t1/small/1.0.0")
    assert sum(split.num_examples for split in builder.info.splits.values()) == 8 * 6
    assert sum(1 for split in builder.info.splits for _ in builder.as_dataset(split=split)) == 48


def test_a_split_that_loses_everyone_is_an_error(tmp_path, capsys):
    source = write_cohort(tmp_path / "source", subjects=4)
    (first,) = (subject for subject, split in splits_of(source).items() if split == "validation")
    next(source.glob(f"{first}-*")).write_bytes(b"broken")
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=1") == 2
    assert "every volume of the validation split was refused" in capsys.readouterr().err
    assert not (tmp_path / "ixi_t1/small/1.0.0").exists()


def splits_of(source, people=None):
    from ixi_tfds.cohorts import DEFAULT
    from ixi_tfds.cohorts.catalog import find_scans
    from ixi_tfds.cohorts.roster import read_roster
    from ixi_tfds.splits import assign_splits

    scans = find_scans(str(source), DEFAULT).scans
    return assign_splits(scans, read_roster(DEFAULT.roster))


def test_strict_is_kept_when_the_dataset_is_there_already(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=0.5") == 0
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=0.5") == 0
    for flag in ("--strict", "--max_rejected_fraction=0.01"):
        assert job(source, tmp_path, *SMALL, flag) == 2
        assert "without 2 refused volumes" in capsys.readouterr().err


def test_publishing_that_was_killed_leaves_no_stray_shard(tmp_path, monkeypatch):
    """Killed after shards were numbered anew, then the broken files are mended."""
    from beam_preprocess import publish

    source = write_cohort(tmp_path / "source", subjects=12)
    whole = {path: path.read_bytes() for path in sorted(source.glob("*.nii.gz"))[:2]}
    for path in whole:
        path.write_bytes(b"broken")
    flags = (*SMALL, "--volumes_per_shard=1", "--max_rejected_fraction=0.5")

    def die(*arguments):
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(publish, "write_tfds_metadata", die)
        job(source, tmp_path / "data", *flags)
    for path, content in whole.items():
        path.write_bytes(content)
    assert job(source, tmp_path / "data", *flags) == 0
    assert job(source, tmp_path / "fresh", *flags) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "fresh")


def test_a_dataset_comes_back_when_its_replacement_is_killed(settled, tmp_path, capsys):
    """Put back, not made again: else other inputs would take its place without being told to."""
    source = shutil.copytree(settled / "source", tmp_path / "source")
    data = shutil.copytree(settled / "data", tmp_path / "data")
    before, folder = tree(data), data / "ixi_t1/small"
    files = {path.name: path.stat().st_ino for path in (folder / "1.0.0").iterdir()}

    def is_the_old_one():
        assert tree(data) == before
        now = {path.name: path.stat().st_ino for path in (folder / "1.0.0").iterdir()}
        return now == files

    (folder / "1.0.0").rename(folder / ".replaced-1.0.0")
    assert job(source, data, *SMALL, *_LOOSE) == 0
    assert "nothing to do" in capsys.readouterr().out and is_the_old_one()
    change_a_byte(source / "IXI705-Guys-0001-T1.nii", 9_000)
    (folder / "1.0.0").rename(folder / ".replaced-1.0.0")
    assert job(source, data, *SMALL, *_LOOSE) == 2
    assert "--overwrite" in capsys.readouterr().err and is_the_old_one()


def test_a_folder_that_is_no_dataset_of_ours_is_left_alone(source, tmp_path, capsys):
    folder = tmp_path / "ixi_t1/small/1.0.0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert job(source, tmp_path, *SMALL) == 2
    error = capsys.readouterr().err
    assert f"{folder / 'manifest.json'}: is not the manifest of a dataset" in error
    assert "move the folder away" in error
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert (folder / "manifest.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source_dir=nowhere", "--data_dir=d"], "nowhere: no such folder"),
        (["--data_dir=d"], "--source_dir"),
        (["--source_dir=.", "--data_dir=d", "--no_such_flag=1"], "--no_such_flag=1"),
        (["--source_dir=.", "--data_dir=d", "--direct_num_workers=many"], "option of Beam"),
        (["--source_dir=.", "--data_dir=d", "--runner=Nonsense"], "--runner=Nonsense"),
        (["--source_dir=.", "--data_dir=d", "--direct_num_workers=-3"], "--direct_num_workers"),
        (["--source_dir=.", "--data_dir="], "--data_dir is missing"),
        (["--source_dir=.", "--data_dir=d", "--config=mine"], "needs --slices and --size"),
        (["--source_dir=.", "--data_dir=d", "--size=1x1"], "the config thesis is fixed"),
        (["--source_dir=.", "--data_dir=d", "--config=a", "--size=axb", "--slices=1:2"], "axb"),
        (["--source_dir=.", "--data_dir=d", "--config=a", "--size=2x2", "--slices=2:1"], "FIRST"),
        (["--source_dir=.", "--data_dir=d", "--volumes_per_shard=0"], "at least 1"),
        (["--source_dir=.", "--data_dir=d", "--workbook=gone.xls"], "gone.xls"),
    ],
)
def test_bad_flags_get_one_line(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(flags) == 2
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_subject_twice_names_both_files(tmp_path, capsys):
    write_cohort(tmp_path, subjects=3)
    write_head(tmp_path / "again", "IXI701-Guys-0000-T1")
    assert job(tmp_path, tmp_path / "data", *SMALL) == 2
    error = capsys.readouterr().err
    assert "again" in error
    assert error.count("IXI701-Guys-0000-T1.nii.gz") == 2


@pytest.mark.real_data
def test_the_real_plan_is_the_thesiss(real_data, tmp_path):
    """581 names, the real workbook: 447/86/48 subjects, 26,820/5,160/2,880 slices."""
    from beam_preprocess.plan import SourceConfig, plan_job
    from ixi_tfds.config import THESIS

    for name in (real_data / "ixi/IXI-T1.filenames.txt").read_text().split():
        (tmp_path / name).touch()
    shutil.copy(real_data / "ixi/IXI.xls", tmp_path)
    plan = plan_job(SourceConfig(source_dir=str(tmp_path)), THESIS, tmp_path / "unused")
    assert plan.planned(THESIS) == {
        "train": (447, 26_820),
        "validation": (86, 5_160),
        "test": (48, 2_880),
    }


_PLAIN_READER = """
import sys, importlib.abc
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("ixi_tfds", "beam_preprocess", "trainer", "evaluator"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import hashlib, json, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
found = {}
for split in builder.info.splits:
    for e in tfds.as_numpy(builder.as_dataset(split=split)):
        key = f"{e['subject'].decode()}/{e['slice_index']}"
        found[key] = hashlib.sha256(e["image"].tobytes()).hexdigest()
print(json.dumps(found))
"""


@pytest.mark.real_data
def test_real_full_size_scans_to_the_byte_and_read_without_our_code(real_data, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("full", "stripped"):
        for path in (real_data / "ixi" / folder).glob("*.nii.gz"):
            shutil.copy(path, source)
    shutil.copy(real_data / "ixi/IXI.xls", source)
    assert job(source, tmp_path) == 0
    folder = tmp_path / "ixi_t1/thesis/1.0.0"
    output = subprocess.run(
        [sys.executable, "-c", _PLAIN_READER, folder], capture_output=True, text=True, check=True
    )
    found = json.loads(output.stdout.splitlines()[-1])
    expected = {}
    for path in source.glob("*.nii.gz"):
        data = nib.load(path).get_fdata()
        for index in range(50, 110):
            image = stretch(data[:, :, index])
            expected[f"{path.name[:6]}/{index}"] = hashlib.sha256(image.tobytes()).hexdigest()
    assert found == expected
    assert len(found) == 5 * 60
    report = (folder / "quality.html").read_text()
    assert "1 original, " in report or " 1 original" in report


def test_other_runners_get_only_the_options_that_were_given():
    """Flink's job server refuses a job with a level that Java does not have."""
    from beam_preprocess.runner import beam_options

    level = "default_sdk_harness_log_level"
    assert beam_options([]).get_all_options()[level] == "CRITICAL"
    assert beam_options(["--runner=FlinkRunner"]).get_all_options()[level] is None
    given = [f"--{level}=WARN", "--runner=FlinkRunner"]
    assert beam_options(given).get_all_options()[level] == "WARN"
