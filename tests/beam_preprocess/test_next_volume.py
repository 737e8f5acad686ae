"""A person whose first volume is refused when read stays in the dataset with the next good one."""

import dataclasses
import functools
import json
import pathlib

import forked
import pytest
import tensorflow_datasets as tfds
from test_beam_preprocess import tree
from test_shards import CONFIG, is_written_again, record_of
from volumes import SMALL, head, write_head

from beam_preprocess.__main__ import run
from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.builder import builder_for
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system.errors import ScanError

BAD = {
    # Corrupt, of another size, a link to a file of git-annex that is not here, and no head.
    "sub-02/ses-1/anat/sub-02_ses-1_T1w": "cut",
    "sub-03/anat/sub-03_run-1_T1w": "size",
    "sub-03/anat/sub-03_run-2_T1w": "link",
    "sub-05/anat/sub-05_T1w": "constant",
}
CORRUPT, OTHER_SIZE, BROKEN_LINK, CONSTANT = BAD
GOOD = (
    *("sub-01/anat/sub-01_T1w", "sub-02/ses-2/anat/sub-02_ses-2_T1w"),
    *("sub-03/anat/sub-03_run-3_T1w", "sub-03/anat/sub-03_run-4_T1w", "sub-04/anat/sub-04_T1w"),
    *("sub-05/anat/sub-05_acq-mprage_T1w", "sub-06/anat/sub-06_T1w"),
)
TAKEN = {
    "sub-02": "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
    "sub-03": "sub-03/anat/sub-03_run-3_T1w.nii.gz",
    "sub-05": "sub-05/anat/sub-05_acq-mprage_T1w.nii.gz",
}


def write_bad(folder, name, how):
    path = folder / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "link":
        path.symlink_to("../../.git/annex/objects/a/b")
    elif how == "size":
        write_head(path.parent, path.name.removesuffix(".nii.gz"), shape=(30, 32, 24))
    elif how == "constant":
        write_head(path.parent, path.name.removesuffix(".nii.gz"), voxels=0 * head() + 7)
    else:
        write_head(path.parent, path.name.removesuffix(".nii.gz"))
        path.write_bytes(path.read_bytes()[:9000])
    return path


def write_study(folder, bad=True):
    for number, name in enumerate(GOOD):
        path = pathlib.Path(name)
        write_head(folder / path.parent, path.name, seed=number)
    for name, how in BAD.items() if bad else ():
        write_bad(folder, name, how)
    (folder / "participants.tsv").write_text("participant_id\tsex\tage\nsub-01\tF\t30\n")
    return folder


def flags(source, data, *more):
    where = [f"--source_dir={source}", f"--data_dir={data}"]
    return [*where, *SMALL, "--volumes_per_shard=2", *more]


def dataset(data):
    return data / "ixi_t1/small/1.0.0"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert run(flags(source, data)) == 0
    return data


def test_the_next_good_volume_is_taken_and_everything_refused_is_listed(source, made, tmp_path):
    folder = dataset(made)
    manifest = manifests.read(folder)
    assert sorted(manifest.volumes) == [f"sub-0{number}" for number in range(1, 7)]
    assert {name: manifest.volumes[name].path for name in TAKEN} == TAKEN
    listed = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(line["path"], line["reason"], line.get("instead")) for line in listed] == [
        (f"{CORRUPT}.nii.gz", "corrupt_data", TAKEN["sub-02"]),
        (f"{OTHER_SIZE}.nii.gz", "wrong_in_plane_size", TAKEN["sub-03"]),
        (f"{BROKEN_LINK}.nii.gz", "unreadable", TAKEN["sub-03"]),
        ("sub-03/anat/sub-03_run-4_T1w.nii.gz", "same_person", None),
        (f"{CONSTANT}.nii.gz", "constant", TAKEN["sub-05"]),
    ]
    assert listed[3]["detail"] == f"is another volume of sub-03, of whom {TAKEN['sub-03']} is taken"
    assert f"{TAKEN['sub-02']} is taken instead" in (folder / "quality.html").read_text()
    assert manifest.people_lost == 0 and sum(manifest.rejected.values()) == 4
    assert manifest.skipped == {"same_person": 1}
    # Neither the splits nor the slices depend on what was refused before.
    assert run(flags(write_study(tmp_path / "good", bad=False), tmp_path)) == 0
    assert manifests.read(dataset(tmp_path)).shards == manifest.shards
    assert manifests.read(dataset(tmp_path)).people_lost is None


def test_the_same_inputs_change_nothing_and_others_are_noticed(source, made, tmp_path, capsys):
    before = tree(made)
    assert run(flags(source, made)) == 0
    assert "nothing to do" in capsys.readouterr().out and tree(made) == before
    # What was refused is read now: another dataset. What was never read does not count.
    other = write_study(tmp_path / "other")
    name = pathlib.Path(CORRUPT)
    write_head(other / "sub-03/anat", "sub-03_run-4_T1w", seed=77)
    assert run(flags(other, made)) == 0
    write_head(other / name.parent, name.name, seed=99)
    assert run(flags(other, made)) == 2
    assert "from other inputs" in capsys.readouterr().err and tree(made) == before


def test_verify_and_repair_give_the_same_bytes(source, made, tmp_path, capsys):
    data = tmp_path / "data"
    assert run(flags(source, data)) == 0
    before = tree(data)
    assert before == tree(made)
    assert run(["verify", f"--data_dir={data}"]) == 0
    for shard in dataset(data).glob("*.tfrecord-*"):
        shard.write_bytes(b"")
    assert run(["verify", f"--data_dir={data}", "--repair", f"--source_dir={source}"]) == 0
    assert tree(data) == before
    # Volumes that were refused then and are good now do not get in the way.
    mended = write_study(tmp_path / "mended")
    name = pathlib.Path(CORRUPT)
    write_head(mended / name.parent, name.name, seed=99)
    for shard in dataset(data).glob("*.tfrecord-*"):
        shard.write_bytes(b"")
    assert run(["verify", f"--data_dir={data}", "--repair", f"--source_dir={mended}"]) == 0
    assert tree(data) == before


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_killed_job_goes_on_to_the_same_bytes(source, made, tmp_path, share):
    argv, log = flags(source, tmp_path / "data"), tmp_path / "log"
    count = functools.partial(forked.count_touches, tmp_path / "count", tmp_path / "number")
    counted = forked.start(flags(source, tmp_path / "count"), log, count, module="beam_preprocess")
    assert forked.finish(counted) == [0]
    moment = int(share * int((tmp_path / "number").read_text()))
    deadly = functools.partial(forked.die_at_touch, tmp_path / "data", moment)
    assert forked.finish(forked.start(argv, log, deadly, module="beam_preprocess")) == [-9]
    assert not dataset(tmp_path / "data").exists()
    assert forked.finish(forked.start(argv, log, module="beam_preprocess")) == [0]
    assert tree(tmp_path / "data") == tree(made)


def test_a_person_of_whom_all_volumes_are_refused_counts_once(tmp_path, capsys):
    lost = write_study(tmp_path / "lost")
    write_bad(lost, "sub-02/ses-2/anat/sub-02_ses-2_T1w", "size")
    assert run(flags(lost, tmp_path / "data")) == 2
    said = capsys.readouterr().err
    assert "1 of 6 volumes were refused" in said
    assert run(flags(lost, tmp_path / "data", "--max_rejected_fraction=0.17")) == 0
    manifest = manifests.read(dataset(tmp_path / "data"))
    assert "sub-02" not in manifest.volumes and manifest.people_lost == 1
    assert sum(manifest.rejected.values()) == 5
    assert "people of whom all were rejected" in capsys.readouterr().out
    # The same limit holds for the finished dataset.
    assert run(flags(lost, tmp_path / "data", "--max_rejected_fraction=0.17")) == 0
    assert run(flags(lost, tmp_path / "data")) == 2
    assert "was made without 5 refused volumes" in capsys.readouterr().err


def test_a_strict_job_stops_at_the_first_refused_volume(source, made, tmp_path, capsys):
    assert run(flags(source, tmp_path, "--strict")) == 2
    assert ".nii.gz: " in capsys.readouterr().err
    assert run(flags(source, made, "--strict")) == 2
    assert "--strict" in capsys.readouterr().err


def test_the_tfds_builder_takes_the_same_volumes(source, made, tmp_path, capsys):
    builder = builder_for(CONFIG, str(tmp_path))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    assert capsys.readouterr().err.count("refused: ") == 4
    for split in ("train", "validation", "test"):
        one, other = (
            {(e["subject"], int(e["slice_index"])): e["image"].tobytes() for e in examples}
            for examples in (
                tfds.as_numpy(builder.as_dataset(split=split)),
                tfds.as_numpy(tfds.load("ixi_t1/small", data_dir=str(made), split=split)),
            )
        )
        assert one == other and one


def test_a_filter_makes_a_dataset_of_its_own_that_repairs_without_it(tmp_path, capsys):
    source, data = write_study(tmp_path / "study"), tmp_path / "data"
    write_head(source / "sub-07/anat", "sub-07_ce-gad_T1w", seed=70)
    asked = "--bids_filter=session=2,session=null,run=null,run=4,ceagent=null,ceagent=gad"
    assert run(flags(source, data, asked)) == 0
    manifest = manifests.read(dataset(data))
    assert manifest.volumes["sub-03"].path == "sub-03/anat/sub-03_run-4_T1w.nii.gz"
    assert "sub-07" in manifest.volumes
    assert manifest.skipped == {"not_asked_for": 4} and "session" in manifest.bids_filter
    before = tree(data)
    same = tmp_path / "filter.json"
    same.write_text('{"t1w": {"run": [null, 4], "session": ["2", null], "ce": ["gad", null]}}')
    assert run(flags(source, data, f"--bids_filter={same}")) == 0
    assert run(flags(source, data)) == 2
    assert "other inputs or settings" in capsys.readouterr().err
    for shard in dataset(data).glob("*.tfrecord-*"):
        shard.write_bytes(b"")
    assert run(["verify", f"--data_dir={data}", "--repair", f"--source_dir={source}"]) == 0
    assert tree(data) == before


@pytest.fixture
def task(tmp_path):
    """A shard of one person with four volumes, the second of them the first good one."""
    names = ("a", "b", "c")
    paths = [
        str(write_head(tmp_path / "s", name, seed=seed)) for seed, name in enumerate(names, start=1)
    ]
    first = str(write_bad(tmp_path / "s", "0", "cut"))
    scan = Scan("x", "", first, alternatives=tuple(paths))
    (tmp_path / "w").mkdir()
    source, work = str(tmp_path / "s"), str(tmp_path / "w")
    return ShardTask("ixi_t1", "train", 0, 1, (scan,), CONFIG, source, work)


def test_a_shard_is_kept_only_while_the_same_volume_would_be_taken(task):
    write_shard(task)
    assert [volume["path"] for volume in record_of(task)["volumes"]] == ["a.nii.gz"]
    assert [entry["instead"] for entry in record_of(task)["rejected"]] == ["a.nii.gz"]
    assert not is_written_again(task)
    (scan,) = task.scans
    first, *others = scan.candidates
    # One that was not read counts for nothing.
    pathlib.Path(others[-1].path).write_bytes(b"")
    assert not is_written_again(task)
    # A better one has come, the refused one was mended, the taken one is gone.
    better = str(write_head(pathlib.Path(task.source_dir), "better", seed=9))
    new = dataclasses.replace(scan, path=better, alternatives=(scan.path, *scan.alternatives))
    assert is_written_again(dataclasses.replace(task, scans=(new,)))
    assert is_written_again(task)
    write_head(pathlib.Path(task.source_dir), "0", seed=8)
    assert is_written_again(task)
    assert [volume["path"] for volume in record_of(task)["volumes"]] == ["0.nii.gz"]
    gone = dataclasses.replace(scan, path=others[1].path, alternatives=())
    assert is_written_again(dataclasses.replace(task, scans=(gone,)))
    assert first.alternatives == ()


def test_a_strict_shard_does_not_go_on_to_the_next_volume(task):
    with pytest.raises(ScanError, match=r"0\.nii\.gz"):
        write_shard(dataclasses.replace(task, strict=True))
