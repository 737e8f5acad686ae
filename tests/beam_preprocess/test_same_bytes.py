"""Copies of one volume under the names of two people."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_beam_preprocess import job, tree
from volumes import SMALL, head, image, write_head

from ixi_tfds.builder import builder_for
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system.errors import UserError


def write_people(folder, count=5):
    folder.mkdir(parents=True, exist_ok=True)
    return [write_head(folder, f"{name}_T1", seed=n) for n, name in enumerate("abcdefgh"[:count])]


def same_file(source, path):
    shutil.copy(path, source / "copy_T1.nii.gz")


def without_gzip(source, path):
    (source / "copy_T1.nii").write_bytes(gzip.decompress(path.read_bytes()))


def other_gzip_level(source, path):
    content = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1)
    (source / "copy_T1.nii.gz").write_bytes(content)


def other_axes(source, path):
    write_head(source, "copy_T1", seed=1, axes="RAS")


def other_type(source, path):
    nib.save(image(head(seed=1), dtype=np.float32), source / "copy_T1.nii.gz")


def other_units(source, path):
    write_head(source, "copy_T1", voxels=head(seed=1) * np.int16(2))


COPIES = {
    same_file: "bytes",
    **dict.fromkeys((without_gzip, other_gzip_level, other_axes, other_type), "voxels"),
    other_units: "voxels",
}


@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__name__)
def test_copies_under_two_names_stop_the_job_before_it_publishes(copy, tmp_path, capsys):
    source, data = tmp_path / "source", tmp_path / "data"
    copy(source, write_people(source)[1])
    (name,) = (path.name for path in source.glob("copy_*"))
    assert job(source, data, *SMALL) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: volumes of two people are copies: ")
    assert f"b_T1.nii.gz and {name} (the same {COPIES[copy]}); nothing was published" in error
    assert "--allow_same_bytes" in error
    assert not list(data.rglob("dataset_info.json"))


def test_what_was_written_before_the_stop_is_kept_and_published_when_allowed(tmp_path, capsys):
    source, data = tmp_path / "source", tmp_path / "data"
    same_file(source, write_people(source)[1])
    assert job(source, data, *SMALL) == 2
    shards = {p: p.stat().st_mtime_ns for p in data.rglob("*.tfrecord-*")}
    assert shards
    assert job(source, data, *SMALL, "--allow_same_bytes") == 0
    folder = data / "ixi_t1/small/1.0.0"
    kept = {path.stat().st_mtime_ns for path in folder.glob("*.tfrecord-*")}
    assert kept <= set(shards.values())
    assert len(manifests.read(folder).volumes) == 6
    # What decides the bytes is the same with the flag and without.
    assert job(source, tmp_path / "again", *SMALL, "--allow_same_bytes") == 0
    assert tree(tmp_path / "again") == tree(data)
    assert job(source, data, *SMALL) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_without_the_copy_the_job_goes_on(tmp_path):
    source, data = tmp_path / "source", tmp_path / "data"
    same_file(source, write_people(source)[1])
    assert job(source, data, *SMALL) == 2
    (source / "copy_T1.nii.gz").unlink()
    assert job(source, data, *SMALL) == 0


def test_every_copy_is_named_with_the_first_and_many_are_counted(tmp_path, capsys):
    source = tmp_path / "source"
    path = write_people(source)[0]
    for number in range(14):
        shutil.copy(path, source / f"copy{number:02d}_T1.nii.gz")
    assert job(source, tmp_path / "data", *SMALL) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.count("a_T1.nii.gz and copy") == 10 and "copy09_T1.nii.gz" in error
    assert " and 4 more; nothing was published" in error


def test_copies_of_files_that_are_refused_do_not_count(tmp_path):
    source = tmp_path / "source"
    write_people(source, 8)
    for name in ("IXI012-HH-1211-T1", "IXI015-HH-1258-T1"):  # both in train
        write_head(source, name, seed=50, shape=(30, 32, 24))
    assert job(source, tmp_path / "data", *SMALL, "--max_rejected_fraction=0.3") == 0
    lines = (tmp_path / "data/ixi_t1/small/1.0.0/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["wrong_in_plane_size"] * 2


def build(source, data, **attributes):
    config = SliceConfig("small", (32, 32), (32, 32), (8, 14))
    builder = builder_for(config, str(data))
    for name, value in attributes.items():
        setattr(builder, name, value)
    manual = tfds.download.DownloadConfig(manual_dir=str(source))
    builder.download_and_prepare(download_config=manual)
    return builder


@pytest.mark.parametrize("copy", [same_file, without_gzip], ids=lambda copy: copy.__name__)
def test_the_builder_of_tfds_stops_at_copies_too(copy, tmp_path):
    source = tmp_path / "source"
    copy(source, write_people(source)[1])
    with pytest.raises(UserError, match=r"b_T1\.nii\.gz and .*copy_T1|copy_T1.* and .*b_T1"):
        build(source, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    made = build(source, tmp_path / "allowed", allow_same_bytes=True)
    assert sum(split.num_examples for split in made.info.splits.values()) == 36
