"""What a job publishes is whole before it has its name, and nothing but that."""

import errno
import functools
import json
import os
import shutil

import pytest
from volumes import SMALL, write_cohort

from beam_preprocess import job, publish, quality
from beam_preprocess.__main__ import run
from ixi_tfds import integrity
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system import folders

DATASET = "ixi_t1/small/1.0.0"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("source"), subjects=6)


def make(source, data, *flags):
    return run([f"--source_dir={source}", f"--data_dir={data}", *SMALL, *flags])


def tree(folder):
    """The bytes of all files in a folder, by path within it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    data = tmp_path_factory.mktemp("made")
    assert make(source, data) == 0
    return data


def call_before(monkeypatch, owner, name, first):
    """Have `first` called with the arguments of a function, just before it."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def both(*args, **kwargs):
        first(*args, **kwargs)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, both)


STRAYS = [
    ".partial-0123456789abcdef-ixi_t1-train.tfrecord-00000-of-00001",
    ".partial-0123456789abcdef-ixi_t1-train.tfrecord-00000-of-00001.json",
    "ixi_t1-train.tfrecord-00001-of-00009",
    "ixi_t1-train.tfrecord-00001-of-00009.json",
]


@pytest.mark.parametrize("stray", STRAYS)
def test_what_workers_of_a_killed_job_left_is_not_published(
    stray, source, made, tmp_path, monkeypatch
):
    call_before(
        monkeypatch,
        publish,
        "publish",
        lambda config, plan, *rest: (plan.work_dir / stray).write_bytes(b"stray"),
    )
    assert make(source, tmp_path) == 0
    assert tree(tmp_path) == tree(made)


def test_what_earlier_versions_left_in_an_unfinished_job_is_not_published(source, made, tmp_path):
    """The job goes on in their folder; they wrote these when a strict job failed or was killed."""
    from beam_preprocess import shards

    def die(tasks, options):
        shards.write_shard(tasks[0])
        kept.append(tasks[0].path)
        raise SystemError("killed")

    kept = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job, "write_shards", die)
        make(source, tmp_path)
    work_dir, inode = kept[0].parent, kept[0].stat().st_ino
    for name in ("strict-failure.txt", f"{kept[0].name}.json.0123.tmp", "strict-failure.txt.1.tmp"):
        (work_dir / name).write_bytes(b"left")
    assert make(source, tmp_path) == 0
    assert tree(tmp_path) == tree(made)
    assert (tmp_path / DATASET / kept[0].name).stat().st_ino == inode


def test_a_dataset_is_whole_before_it_stands_in_its_place(source, made, tmp_path, monkeypatch):
    """So that a kill right after the renaming leaves nothing to be done."""
    seen = []

    def look(work_dir, dataset_dir, marker):
        assert integrity.find_damage(work_dir, manifests.read(work_dir)) == []
        assert (marker, (work_dir / marker).exists()) == ("dataset_info.json", True)
        assert not dataset_dir.exists()
        seen.append(tree(work_dir))

    call_before(monkeypatch, folders, "put_in_place", look)
    assert make(source, tmp_path) == 0
    assert seen == [tree(made / DATASET)]
    assert {path.name for path in (tmp_path / DATASET).iterdir()} == {
        *("dataset_info.json", "features.json", "manifest.json", "quality.html"),
        *("rejected.jsonl", *manifests.read(made / DATASET).shards),
        *(path.name for path in (made / DATASET).glob("*.labels.txt")),
    }


@pytest.mark.parametrize(
    "owner, name",
    [
        (job, "write_shards"),
        (publish, "write_tfds_metadata"),
        (quality, "render"),
        (manifests, "write"),
        (folders, "put_in_place"),
    ],
)
def test_the_old_dataset_stays_until_the_new_one_is_ready(
    owner, name, source, made, tmp_path, monkeypatch, capsys
):
    """A fault at any step of replacing it: one line, and readers find the old one as it was."""
    assert make(source, tmp_path, "--volumes_per_shard=2") == 0
    before = tree(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        call_before(patch, owner, name, fail)
        assert make(source, tmp_path, "--overwrite") == 2
    assert f"error: --data_dir={tmp_path}/ixi_t1/small: No space" in capsys.readouterr().err
    assert {path: data for path, data in tree(tmp_path).items() if DATASET in path} == before
    assert make(source, tmp_path, "--overwrite") == 0
    assert tree(tmp_path) == tree(made)


def test_the_lock_is_held_from_the_first_look_to_the_last_rename(source, tmp_path, monkeypatch):
    held = []

    def look(*args, **kwargs):
        held.append((tmp_path / "ixi_t1/small/.lock").exists())

    for owner, name in (
        *((folders, "recover"), (job, "_open_work_dir"), (job, "write_shards")),
        *((publish, "publish"), (folders, "put_in_place")),
    ):
        call_before(monkeypatch, owner, name, look)
    assert make(source, tmp_path) == 0
    assert held == [True] * 5
    assert sorted(path.name for path in (tmp_path / "ixi_t1/small").iterdir()) == ["1.0.0"]


def test_all_that_was_refused_is_listed_by_path(source, made, tmp_path):
    """Scans refused for what they hold, and files for their names, in one order."""
    ours = shutil.copytree(source, tmp_path / "source")
    volumes = manifests.read(made / DATASET).volumes.values()
    train = sorted(volume.path for volume in volumes if volume.split == "train")
    broken = [train[2], train[0]]
    for name in broken:
        (ours / name).write_bytes(b"broken")
    named = ["IXI712-Guys-0828-T2.nii.gz", "IXI700-Guys-0828-MRA.nii.gz"]
    for name in named:
        (ours / name).write_bytes(b"")
    flags = ("--volumes_per_shard=1", "--max_rejected_fraction=0.9")
    assert make(ours, tmp_path / "data", *flags) == 0
    lines = (tmp_path / "data" / DATASET / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == sorted(broken + named)
    manifest = manifests.read(tmp_path / "data" / DATASET)
    assert sum(manifest.rejected.values()) == sum(manifest.skipped.values()) == 2
    # Shards are counted without those that hold nobody.
    shards = [f"ixi_t1-train.tfrecord-{index:05d}-of-00002" for index in range(2)]
    assert [name for name in manifest.shards if "train" in name] == shards
