"""Files against what the manifest says of them: each kind of damage has its own words."""

import dataclasses
import hashlib
import shutil
import struct

import google_crc32c
import pytest

from ixi_tfds import integrity
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.integrity import Damage
from ixi_tfds.system.errors import DatasetError

# What tf.io.TFRecordWriter of TensorFlow 2.15 wrote for the records below.
RECORDS = [b"one", b"", bytes(range(5))]
FRAMES = bytes.fromhex(
    "0300000000000000b099490e6f6e650140550800000000000000002903"
    "9807d8ea82a20500000000000000eab2043e000102030423338f04"
)
STARTS = (0, 19, 35)
NAMES = {
    split: f"ixi_t1-{split}.tfrecord-00000-of-00001" for split in ("train", "validation", "test")
}


@pytest.fixture
def folder(tmp_path):
    """A dataset of three shards, as far as its files are concerned."""
    folder = tmp_path / "root/ixi_t1/small/1.0.0"
    folder.mkdir(parents=True)
    for split, name in NAMES.items():
        # So that no two are the same.
        (folder / name).write_bytes(FRAMES[: {"train": None, "validation": 35, "test": 19}[split]])
    (folder / "features.json").write_text("{}")
    return folder


@pytest.fixture
def manifest(folder):
    def sha256(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return Manifest(
        version="1.0.0",
        config=SliceConfig("small"),
        fingerprint="",
        shards={name: sha256(folder / name) for name in NAMES.values()},
        shard_bytes={NAMES["train"]: 56, NAMES["validation"]: 35, NAMES["test"]: 19},
        metadata={"features.json": sha256(folder / "features.json")},
    )


def change(path, place, to=None):
    """Other bytes at a place, by default one flipped bit."""
    content = bytearray(path.read_bytes())
    to = bytes([content[place] ^ 1]) if to is None else to
    content[place : place + len(to)] = to
    path.write_bytes(content)


def test_records_are_those_that_tensorflow_wrote(folder):
    assert list(integrity.records(folder / NAMES["train"])) == RECORDS
    (folder / "empty").write_bytes(b"")
    assert list(integrity.records(folder / "empty")) == []


def test_the_mask_is_that_of_tfrecords():
    # CRC-32C of these nine digits, as RFC 3720's successors list it.
    assert google_crc32c.value(b"123456789") == 0xE3069283
    rotated = int(f"{0xE3069283:032b}"[-15:] + f"{0xE3069283:032b}"[:-15], 2)
    assert integrity.masked_crc(b"123456789") == (rotated + 0xA282EAD8) % 2**32
    for data in (b"", b"one", bytes(range(5)), bytes(1000)):
        bits = f"{google_crc32c.value(data):032b}"
        mask = (int(bits[-15:] + bits[:-15], 2) + 0xA282EAD8) % 2**32
        assert integrity.masked_crc(data) == mask


@pytest.mark.parametrize(
    ("length", "record", "words"),
    [
        (1, 1, "is cut off"),
        (11, 1, "is cut off"),
        (12, 1, "is cut off"),
        (18, 1, "is cut off"),
        (19, None, None),
        (20, 2, "is cut off"),
        (34, 2, "is cut off"),
        (35, None, None),
        (46, 3, "is cut off"),
        (55, 3, "is cut off"),
    ],
)
def test_a_record_that_is_cut_off_is_named_by_number_and_place(length, record, words, tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(FRAMES[:length])
    whole = sum(start < length for start in STARTS) - (record is not None)
    found = integrity.records(path)
    assert [next(found) for _ in range(whole)] == RECORDS[:whole]
    if record is None:
        assert list(found) == []
    else:
        with pytest.raises(DatasetError) as caught:
            next(found)
        place = STARTS[record - 1]
        assert str(caught.value) == f"{path}: record {record} (from byte {place}) {words}"


@pytest.mark.parametrize("record", [0, 1, 2])
def test_each_part_of_a_record_is_checked(record, tmp_path):
    path, start, data = tmp_path / "shard", STARTS[record], RECORDS[record]
    end = start + 12 + len(data)
    places = {
        # The length, its checksum, the data, its checksum.
        **dict.fromkeys(range(start, start + 12), "has a damaged length"),
        **dict.fromkeys(range(start + 12, end + 4), "is damaged"),
    }
    for place, words in places.items():
        path.write_bytes(FRAMES)
        change(path, place)
        with pytest.raises(DatasetError) as caught:
            list(integrity.records(path))
        assert str(caught.value) == f"{path}: record {record + 1} (from byte {start}) {words}"


def test_a_length_that_is_none_is_not_believed(tmp_path):
    """With a checksum that fits, as nothing but malice makes it: the file ends before it does."""
    length = struct.pack("<Q", 1000)
    crc = google_crc32c.value(length)
    mask = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    (tmp_path / "shard").write_bytes(length + struct.pack("<I", mask) + b"short")
    with pytest.raises(DatasetError, match=r"record 1 \(from byte 0\) is cut off"):
        list(integrity.records(tmp_path / "shard"))


def test_a_whole_dataset_has_no_damage(folder, manifest):
    assert integrity.find_damage(folder, manifest) == []
    assert integrity.find_damage(folder, manifest, full=False) == []
    assert integrity.check_dataset(folder, manifest, integrity.SPLITS) is None


DAMAGES = {
    "a bit of a length": ("train", 40, "is damaged: record 3 (from byte 35) has a damaged length"),
    "a bit of a checksum": ("train", 55, "is damaged: record 3 (from byte 35) is damaged"),
    "the end": ("train", FRAMES[:-1], "is damaged: record 3 (from byte 35) is cut off"),
    "other records": (
        "test",
        FRAMES[19:],
        "is of another run: its records are whole, but not those that the manifest tells of",
    ),
    "no record": (
        "test",
        b"",
        "is of another run: its records are whole, but not those that the manifest tells of",
    ),
}


@pytest.mark.parametrize(("split", "what", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_shard_that_differs_is_named_with_what_is_wrong(split, what, words, folder, manifest):
    path = folder / NAMES[split]
    if isinstance(what, int):
        change(path, what)
    else:
        path.write_bytes(what)
    assert integrity.find_damage(folder, manifest) == [Damage(path.name, words)]
    # A manifest of an earlier version has no sizes.
    manifest = dataclasses.replace(manifest, shard_bytes=None)
    assert integrity.find_damage(folder, manifest) == [Damage(path.name, words)]


def test_a_quick_look_tells_both_sizes(folder, manifest):
    (folder / NAMES["validation"]).write_bytes(FRAMES)
    (found,) = integrity.find_damage(folder, manifest, full=False)
    assert found == Damage(NAMES["validation"], "has 56 bytes, and 35 were written")
    # A damage is handed about, and is not to change on its way.
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.what = "nothing"


def test_a_quick_look_reads_no_shard_but_what_tfds_reads_beside_them(folder, manifest):
    change(folder / NAMES["train"], 40)
    assert integrity.find_damage(folder, manifest, full=False) == []
    assert len(integrity.find_damage(folder, manifest, full=True)) == 1
    (folder / "features.json").write_text("[]")
    assert integrity.find_damage(folder, manifest, full=False) == [
        Damage("features.json", "is not what was written (its SHA-256 differs)")
    ]


def test_large_numbers_of_bytes_are_spelled_in_groups(folder, manifest):
    manifest.shard_bytes[NAMES["train"]] = 1234567
    (found,) = integrity.find_damage(folder, manifest, full=False)
    assert found.what == "has 56 bytes, and 1,234,567 were written"


def test_sizes_that_a_manifest_lacks_are_not_missed(folder, manifest):
    """Those of earlier versions have neither sizes nor digests of the metadata."""
    old = dataclasses.replace(manifest, shard_bytes=None, metadata=None)
    (folder / "features.json").write_text("[]")
    assert integrity.find_damage(folder, old) == []
    (folder / NAMES["train"]).write_bytes(b"")
    assert integrity.find_damage(folder, old, full=False) == []
    assert [damage.name for damage in integrity.find_damage(folder, old)] == [NAMES["train"]]


@pytest.mark.parametrize("full", [True, False])
def test_what_is_missing_or_cannot_be_read_is_named(full, folder, manifest):
    (folder / NAMES["train"]).unlink()
    (folder / "features.json").unlink()
    assert integrity.find_damage(folder, manifest, full=full) == [
        Damage("features.json", "is missing"),
        Damage(NAMES["train"], "is missing"),
    ]
    (folder / "features.json").mkdir()
    assert integrity.find_damage(folder, manifest, full=full)[0] == Damage(
        "features.json", "cannot be read (Is a directory)"
    )


@pytest.mark.parametrize("sizes", [True, False])
def test_a_folder_in_the_place_of_a_shard_is_named(sizes, folder, manifest):
    (folder / NAMES["test"]).unlink()
    (folder / NAMES["test"]).mkdir()
    if not sizes:
        manifest = dataclasses.replace(manifest, shard_bytes=None)
    assert integrity.find_damage(folder, manifest) == [
        Damage(NAMES["test"], "cannot be read (Is a directory)")
    ]


def test_a_shard_that_the_manifest_does_not_name_is_found(folder, manifest):
    stray = "ixi_t1-validation.tfrecord-00000-of-00002"
    shutil.copy(folder / NAMES["validation"], folder / stray)
    what = "is of another run: the manifest does not name it"
    assert integrity.find_damage(folder, manifest) == [Damage(stray, what)]
    assert integrity.find_damage(folder, manifest, full=False) == [Damage(stray, what)]
    assert integrity.find_damage(folder, manifest, splits=("train", "test")) == []


def test_only_the_splits_that_are_asked_for_are_looked_at(folder, manifest):
    for name in NAMES.values():
        (folder / name).unlink()
    for split, name in NAMES.items():
        assert [d.name for d in integrity.find_damage(folder, manifest, splits=(split,))] == [name]
    found = integrity.find_damage(folder, manifest, splits=("train", "validation"))
    assert {damage.name for damage in found} == {NAMES["train"], NAMES["validation"]}
    assert {damage.name for damage in integrity.find_damage(folder, manifest)} == {*NAMES.values()}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("ixi_t1-train.tfrecord-00000-of-00012", "train"),
        ("ixi_t1-validation.tfrecord-00011-of-00012", "validation"),
        ("other-test.tfrecord-1-of-2", "test"),
        ("features.json", ""),
        ("ixi_t1-train.tfrecord-00000-of-00012.json", ""),
        (".ixi_t1-train.tfrecord-00000-of-00012", ""),
    ],
)
def test_the_split_of_a_shard_is_in_its_name(name, split):
    assert integrity.split_of(name) == split


def test_a_damaged_dataset_is_refused_in_one_sentence_that_says_what_to_do(folder, manifest):
    root = folder.parents[2]
    mending = (
        f"python -m beam_preprocess verify --data_dir={root} --dataset=ixi_t1/small lists what is "
        "damaged, and with --repair --source_dir=FOLDER_OF_THE_VOLUMES mends it"
    )
    assert integrity.repair_hint(folder) == mending
    (folder / NAMES["train"]).unlink()
    expected = f"{folder / NAMES['train']}: is missing; {mending}"
    for how in ("full", "quick"):
        with pytest.raises(DatasetError) as caught:
            integrity.check_dataset(folder, manifest, ("train",), how)
        assert str(caught.value) == expected
    for more, name in enumerate((NAMES["validation"], NAMES["test"]), start=1):
        (folder / name).unlink()
        with pytest.raises(DatasetError) as caught:
            integrity.check_dataset(folder, manifest, integrity.SPLITS)
        assert str(caught.value) == (
            f"{folder / NAMES['train']}: is missing (and {more} more files); {mending}"
        )


def test_a_dataset_is_checked_in_full_unless_a_quick_look_is_asked_for(folder, manifest):
    change(folder / NAMES["train"], 40)
    assert integrity.CHECKS == ("full", "quick")
    integrity.check_dataset(folder, manifest, ("train",), "quick")
    integrity.check_dataset(folder, manifest, ("validation", "test"))
    for how in ((), ("full",)):
        with pytest.raises(DatasetError, match="record 3"):
            integrity.check_dataset(folder, manifest, ("train",), *how)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("sizes", [True, False])
def test_the_progress_bar_counts_the_bytes_of_the_shards(
    full, sizes, folder, manifest, monkeypatch
):
    bars = []

    class Bar(integrity.tqdm):
        def __init__(self, **options):
            bars.append((options, []))
            super().__init__(**options)

        def update(self, n=1):
            bars[-1][1].append(n)
            return super().update(n)

    monkeypatch.setattr(integrity, "tqdm", Bar)
    if not sizes:
        manifest = dataclasses.replace(manifest, shard_bytes=None)
    integrity.find_damage(folder, manifest, splits=("train", "test"), full=full)
    ((options, updates),) = bars
    assert options == {
        "total": 75 if sizes else 0,
        "desc": "checking small",
        "unit": "B",
        "unit_scale": True,
        "leave": False,
        "delay": 1,
        # Of a quick look there is nothing to see; otherwise tqdm decides by the terminal.
        "disable": None if full else True,
    }
    assert updates == ([56, 19] if sizes else [0, 0])


def test_what_tensorflow_says_of_a_damaged_record_becomes_one_sentence(folder):
    import tensorflow as tf

    path = folder / NAMES["train"]
    change(path, 31, b"x")
    with pytest.raises(DatasetError) as caught, integrity.user_error_if_damaged("ixi_t1/small"):
        list(tf.data.TFRecordDataset(str(path)))
    assert str(caught.value) == (
        "--dataset=ixi_t1/small: a shard is damaged (corrupted record at 31); "
        "python -m beam_preprocess verify names it, and mends it with --repair"
    )
    with pytest.raises(DatasetError) as caught, integrity.user_error_if_damaged("a/b"):
        raise tf.errors.DataLossError(None, None, "no place is named")
    assert "--dataset=a/b: a shard is damaged; python" in str(caught.value)
    for error in (tf.errors.NotFoundError(None, None, "gone"), ValueError("other")):
        with pytest.raises(type(error)), integrity.user_error_if_damaged("a/b"):
            raise error
    with integrity.user_error_if_damaged("a/b"):
        whole = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / NAMES["test"]))]
    assert whole == RECORDS[:1]
