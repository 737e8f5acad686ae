"""One shard, without Beam: what stands in it and in its record, and when it is written again."""

import base64
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import pathlib
import pickle
import struct

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2
from volumes import head, image, write_head

from beam_preprocess import shards
from beam_preprocess.shards import ShardTask, shard_name, write_shard
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.formats import READ_FORMATS
from ixi_tfds.system.errors import ScanError

CONFIG = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))


@pytest.fixture
def task(tmp_path):
    """A shard of two heads, the second one in an uncompressed file in a folder of its own."""
    source, work = tmp_path / "source", tmp_path / "work"
    work.mkdir()
    first = write_head(source, "IXI701-Guys-0000-T1", seed=1)
    second = source / "more" / "IXI702-HH-0001-T1.nii"
    second.parent.mkdir()
    nib.save(image(head(seed=2)), second)
    people = (
        Scan("IXI701", "Guys", str(first), sex="female", ethnicity="white", age=35.456),
        Scan("IXI702", "HH", str(second)),
    )
    return ShardTask("ixi_t1", "train", 3, 12, people, CONFIG, str(source), str(work))


def record_of(task):
    return json.loads(task.record_path.read_text())


def examples_in(task):
    """The fields of each example, in the order of the file."""
    content, found = task.path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        record, content = content[12 : 12 + length], content[12 + length + 4 :]
        found.append(tf_example_pb2.Example.FromString(record).features.feature)
    return found


def names_in(task):
    return sorted(path.name for path in task.path.parent.iterdir())


def bad_scan(task, content=b"not an image at all"):
    """One more person, whose file is no volume."""
    path = pathlib.Path(task.source_dir, "IXI709-IOP-0009-T1.nii.gz")
    path.write_bytes(content)
    return dataclasses.replace(task, scans=(*task.scans, Scan("IXI709", "IOP", str(path))))


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_written_again(task):
    """Whether another call writes the shard, rather than leaves what stands there."""
    before = [path.stat().st_ino for path in (task.path, task.record_path)]
    # Its number would be given to the next file, were it not kept.
    kept = [path.open("rb") for path in (task.path, task.record_path)]
    write_shard(task)
    for file in kept:
        file.close()
    after = [path.stat().st_ino for path in (task.path, task.record_path)]
    changed = [one != other for one, other in zip(before, after, strict=True)]
    assert changed[0] == changed[1]
    return changed[0]


def test_a_shard_is_named_as_tfds_names_it(task, tmp_path):
    assert shard_name("ixi_t1", "train", 3, 12) == "ixi_t1-train.tfrecord-00003-of-00012"
    assert task.path == tmp_path / "work/ixi_t1-train.tfrecord-00003-of-00012"
    assert task.record_path == tmp_path / "work/ixi_t1-train.tfrecord-00003-of-00012.json"


def test_a_task_travels_to_workers_and_cannot_be_changed(task):
    # Not by ==, for an age that is unknown equals nothing.
    assert repr(pickle.loads(pickle.dumps(task))) == repr(task)
    assert not task.strict
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.index = 4


def test_a_shard_holds_every_slice_of_the_window_as_the_scan_has_it(task):
    write_shard(task)
    seen = {}
    for fields in examples_in(task):
        subject = fields["subject"].bytes_list.value[0].decode()
        index = fields["slice_index"].int64_list.value[0]
        seen[subject, index] = fields
    assert len(examples_in(task)) == len(seen) == 12
    for scan, sex, ethnicity in zip(task.scans, (0, 2), (0, 5), strict=True):
        data = nib.load(scan.path).get_fdata()
        for index in range(8, 14):
            fields, plane = seen[scan.subject, index], data[:, :, index]
            low, high = plane.min(), plane.max()
            pixels = ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)
            assert fields["image"].bytes_list.value[0] == pixels.tobytes()
            assert fields["site"].bytes_list.value[0].decode() == scan.site
            assert fields["low"].float_list.value[0] == low
            assert fields["high"].float_list.value[0] == high
            assert fields["sex"].int64_list.value[0] == sex
            assert fields["ethnicity"].int64_list.value[0] == ethnicity
            age = fields["age"].float_list.value[0]
            assert age == pytest.approx(scan.age) or (math.isnan(age) and math.isnan(scan.age))


def test_slices_stand_in_the_order_of_a_hash_of_shard_and_key(task):
    """Else a training buffer would have to hold whole heads to mix neighbouring slices."""
    write_shard(task)
    order = [
        (
            f["subject"].bytes_list.value[0].decode(),
            f["slice_index"].int64_list.value[0],
        )
        for f in examples_in(task)
    ]
    names = {(s.subject, i): f"{s.subject}/{i:03d}" for s in task.scans for i in range(8, 14)}
    hashes = {
        slice_: hashlib.sha256(f"ixi_t1-train.tfrecord-00003-of-00012:{name}".encode()).hexdigest()
        for slice_, name in names.items()
    }
    assert order == sorted(hashes, key=hashes.get)
    assert order != sorted(hashes)
    other = dataclasses.replace(task, index=4)
    write_shard(other)
    assert [f["slice_index"].int64_list.value[0] for f in examples_in(other)] != [
        index for _, index in order
    ]


def test_the_record_says_what_the_shard_holds(task):
    write_shard(task)
    content = task.path.read_bytes()
    record = record_of(task)
    assert record.keys() == {"shard", "split", "sha256", "bytes", "slices", "volumes", "rejected"}
    assert record["shard"] == "ixi_t1-train.tfrecord-00003-of-00012"
    assert record["split"] == "train"
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["bytes"] == len(content)
    assert record["slices"] == 12
    assert record["rejected"] == []
    assert [volume["path"] for volume in record["volumes"]] == [
        "IXI701-Guys-0000-T1.nii.gz",
        "more/IXI702-HH-0001-T1.nii",
    ]
    assert names_in(task) == [task.path.name, task.record_path.name]


def test_the_record_describes_each_volume_in_scanner_units(task):
    """Of the window only, with a slope that turns the order of values round."""
    scan = task.scans[1]
    voxels = head(seed=2)
    voxels[:, :, 7], voxels[:, :, 14] = 5000, -5000
    nib.save(image(voxels), scan.path)
    content = bytearray(pathlib.Path(scan.path).read_bytes())
    content[112:120] = struct.pack("<ff", -0.3712, 12.5678)
    pathlib.Path(scan.path).write_bytes(content)
    write_shard(task)
    first, second = (dict(volume) for volume in record_of(task)["volumes"])
    values = voxels[:, :, 8:14] * float(np.float32(-0.3712)) + float(np.float32(12.5678))
    thumbnails = first.pop("thumbnail"), second.pop("thumbnail")
    assert all(thumbnails) and thumbnails[0] != thumbnails[1]
    assert second == {
        "path": "more/IXI702-HH-0001-T1.nii",
        "subject": "IXI702",
        "site": "HH",
        "sex": "unknown",
        "ethnicity": "unknown",
        "age": None,
        "shape": [32, 32, 24],
        "zooms": [4.0, 4.0, 5.0],
        "git_blob_sha1": git_sha1(content),
        "lowest": float(f"{values.min():.3f}"),
        "mean": float(f"{values.mean():.3f}"),
        "highest": float(f"{values.max():.3f}"),
        "tilt": 0.0,
    }
    assert second["mean"] != float(f"{values.mean():.2f}")
    assert second["lowest"] != float(f"{values.min():.2f}")
    assert second["highest"] != float(f"{values.max():.4f}")
    assert second["highest"] - second["lowest"] > 100
    told = {name: first[name] for name in ("subject", "site", "sex", "ethnicity", "age")}
    assert told == {
        "subject": "IXI701",
        "site": "Guys",
        "sex": "female",
        "ethnicity": "white",
        "age": 35.46,
    }


def test_a_thumbnail_is_the_middle_slice_upright(tmp_path):
    """Rows run to posterior and columns to superior; a person wants to see superior above."""
    voxels = head((160, 120, 24), seed=3) // 8
    for index in range(24):
        # A mark in the corner that is anterior and superior, longer in each slice.
        voxels[: 6 * index, 100:, index] = 1200
    write_head(tmp_path, "someone", voxels=voxels)
    path = str(tmp_path / "someone.nii.gz")
    config = SliceConfig("large", in_plane=(160, 120), size=(160, 120), window=(8, 14))
    scans = (Scan("someone", "", path),)
    task = ShardTask("ixi_t1", "test", 0, 1, scans, config, str(tmp_path), str(tmp_path))
    write_shard(task)
    picture = Image.open(
        io.BytesIO(base64.b64decode(record_of(task)["volumes"][0]["thumbnail"], validate=True))
    )
    assert picture.format == "JPEG" and picture.mode == "L"
    # At most 112 a side, the longer one lying; the first step of luminance at a quality of 70.
    assert picture.size == (112, 84)
    assert picture.quantization[0][0] == 10
    seen = np.asarray(picture, float)
    # The middle of slices 8 to 13 is 11, whose mark has 66 of 160 columns and 20 of 120 rows.
    marked = seen[:14] > 200
    assert marked[2:12, 2:44].all() and not marked[:, 49:].any()
    assert not (seen[-10:] > 200).any()


def test_a_shard_that_is_whole_is_left_alone(task):
    write_shard(task)
    assert not is_written_again(task)
    assert not is_written_again(dataclasses.replace(task, strict=True))


def flip_a_bit(task):
    content = bytearray(task.path.read_bytes())
    content[len(content) // 2] ^= 1
    task.path.write_bytes(content)


def cut(task):
    task.path.write_bytes(task.path.read_bytes()[:-1])


def garble_the_record(task):
    task.record_path.write_text(task.record_path.read_text()[:-9])


def change_the_scan(task):
    path = pathlib.Path(task.scans[1].path)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + b"\1\2\3\4" + content[5004:])


def change_the_scan_and_keep_its_time(task):
    before = pathlib.Path(task.scans[0].path).stat()
    write_head(task.source_dir, "IXI701-Guys-0000-T1", seed=9)
    os.utime(task.scans[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [flip_a_bit, cut, garble_the_record, change_the_scan, change_the_scan_and_keep_its_time],
)
def test_a_shard_that_is_not_what_it_should_be_is_written_anew(change, task, tmp_path):
    write_shard(task)
    change(task)
    assert is_written_again(task)
    (tmp_path / "fresh").mkdir()
    fresh = dataclasses.replace(task, work_dir=str(tmp_path / "fresh"))
    write_shard(fresh)
    assert task.path.read_bytes() == fresh.path.read_bytes()
    assert task.record_path.read_bytes() == fresh.record_path.read_bytes()


@pytest.mark.parametrize("lost", ["path", "record_path"])
def test_a_shard_without_its_record_or_the_other_way_round_is_written_anew(lost, task):
    write_shard(task)
    before = getattr(task, lost).read_bytes()
    getattr(task, lost).unlink()
    write_shard(task)
    assert getattr(task, lost).read_bytes() == before


def test_a_shard_of_fewer_or_more_people_is_written_anew(task):
    fewer = dataclasses.replace(task, scans=task.scans[:1])
    write_shard(fewer)
    assert record_of(task)["slices"] == 6
    assert is_written_again(task)
    assert record_of(task)["slices"] == 12
    assert is_written_again(fewer)
    assert record_of(task)["slices"] == 6


def test_a_refused_volume_is_told_of_and_the_others_stay(task):
    worse = bad_scan(task)
    write_shard(worse)
    record = record_of(worse)
    assert record["rejected"] == [
        {
            "path": "IXI709-IOP-0009-T1.nii.gz",
            "subject": "IXI709",
            "split": "train",
            "reason": "not_nifti",
            "detail": f"has no valid header of a format that is read: {READ_FORMATS}",
            "git_blob_sha1": git_sha1(b"not an image at all"),
        }
    ]
    assert [volume["subject"] for volume in record["volumes"]] == ["IXI701", "IXI702"]
    assert record["slices"] == len(examples_in(worse)) == 12
    assert not is_written_again(worse)
    bad_scan(task, b"something else")
    assert is_written_again(worse)


def test_a_volume_refused_after_it_was_read_is_known_by_its_checksum_too(task):
    path = write_head(task.source_dir, "IXI708-IOP-0008-T1", shape=(30, 32, 24))
    # First, so that a volume of the same name is not taken for that of the next person.
    odd = dataclasses.replace(task, scans=(Scan("IXI708", "IOP", str(path)), *task.scans))
    write_shard(odd)
    (entry,) = record_of(odd)["rejected"]
    assert entry["reason"] == "wrong_in_plane_size"
    assert entry["git_blob_sha1"] == git_sha1(path.read_bytes())
    assert not is_written_again(odd)


def test_a_link_to_nowhere_is_refused_and_has_no_checksum(task):
    """It is there, and no volume: a fault of the file, where a file that is gone is none."""
    path = pathlib.Path(task.source_dir, "IXI707-IOP-0007-T1.nii.gz")
    path.symlink_to("nowhere")
    linked = dataclasses.replace(task, scans=(*task.scans, Scan("IXI707", "IOP", str(path))))
    write_shard(linked)
    (entry,) = record_of(linked)["rejected"]
    assert (entry["reason"], entry["git_blob_sha1"]) == ("unreadable", None)
    assert not is_written_again(linked)
    path.unlink()
    write_head(task.source_dir, "IXI707-IOP-0007-T1", seed=7)
    assert is_written_again(linked)
    assert record_of(linked)["slices"] == 18


def test_a_strict_task_that_refuses_a_volume_writes_nothing(task):
    strict = dataclasses.replace(bad_scan(task), strict=True)
    with pytest.raises(ScanError, match="no valid header") as caught:
        write_shard(strict)
    assert names_in(task) == []
    assert str(caught.value) == (
        f"{strict.scans[2].path}: has no valid header of a format that is read: {READ_FORMATS}"
    )


def test_a_strict_task_does_not_take_over_a_shard_with_refused_volumes(task):
    loose = bad_scan(task)
    write_shard(loose)
    with pytest.raises(ScanError, match="no valid header"):
        write_shard(dataclasses.replace(loose, strict=True))


def test_a_scan_that_is_gone_stops_the_task(task):
    pathlib.Path(task.scans[0].path).unlink()
    with pytest.raises(FileNotFoundError):
        write_shard(task)
    assert names_in(task) == []


@pytest.mark.parametrize(
    ("code", "stops"),
    [
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.EIO, True),
        (errno.EACCES, False),
        (errno.EFBIG, False),
    ],
)
def test_only_a_fault_of_the_machine_stops_the_task(code, stops, task, monkeypatch):
    """Else one bad moment would leave a person out of the dataset, or one bad file end the job."""
    real = shards.read_volume

    def read_volume(path, **options):
        if "IXI702" not in path:
            return real(path, **options)
        try:
            raise OSError(code, os.strerror(code), path)
        except OSError as error:
            raise ScanError("unreadable", path, "cannot be read") from error

    monkeypatch.setattr(shards, "read_volume", read_volume)
    if stops:
        with pytest.raises(OSError, match=os.strerror(code)):
            write_shard(task)
        assert names_in(task) == []
    else:
        write_shard(task)
        assert [entry["subject"] for entry in record_of(task)["rejected"]] == ["IXI702"]


def test_frames_are_those_that_tensorflow_writes():
    """What tf.io.TFRecordWriter of TensorFlow 2.15 wrote for the same three records."""
    assert b"".join(shards._framed([b"one", b"", bytes(range(5))])) == bytes.fromhex(
        "0300000000000000b099490e6f6e650140550800000000000000002903"
        "9807d8ea82a20500000000000000eab2043e000102030423338f04"
    )


def test_a_shard_of_refused_volumes_only_is_empty(task):
    only = dataclasses.replace(bad_scan(task), scans=bad_scan(task).scans[2:])
    write_shard(only)
    assert only.path.read_bytes() == b""
    record = record_of(only)
    assert (record["slices"], record["bytes"], record["volumes"]) == (0, 0, [])
    assert record["sha256"] == hashlib.sha256(b"").hexdigest()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts():
        yield b"new"
        # Under no name that a reader takes for the file.
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.glob(".partial-*-file"))) == 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None)

    with pytest.raises(OSError, match="No space") as caught:
        shards._write_whole(path, parts())
    assert path.read_bytes() == b"old"
    # Errors that name no file are given the one that was written.
    assert str(caught.value.filename).startswith(f"{tmp_path}/.partial-")
    assert shards._write_whole(path, [b"one", b"", b"three"]) == (
        hashlib.sha256(b"onethree").hexdigest(),
        8,
    )
    assert path.read_bytes() == b"onethree"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append((tmp_path / "file").exists()), real(file))
    )
    shards._write_whole(tmp_path / "file", [b"content"])
    assert done == [False]


def test_the_record_is_written_last(task, monkeypatch):
    written = []
    real = shards._write_whole

    def write_whole(path, parts):
        written.append(path)
        return real(path, parts)

    monkeypatch.setattr(shards, "_write_whole", write_whole)
    write_shard(task)
    assert written == [task.path, task.record_path]
