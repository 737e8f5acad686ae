"""`--splits`: by a roster, or by a hash of the people who are present."""

import json

import pytest
from test_beam_preprocess import job, tree
from volumes import SMALL, head, write_head

from beam_preprocess.__main__ import run
from evaluator import scoring
from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system.errors import DatasetError
from trainer import data as trainer_data

ROSTER = read_roster(DEFAULT.roster)


def write_people(folder, counts):
    """Heads under the names of so many people of each split of IXI's roster."""
    seed = 0
    for split, count in counts.items():
        entries = [entry for entry in ROSTER.values() if entry.split == split][:count]
        for entry in entries:
            seed += 1
            write_head(folder, entry.name, seed=seed)
    return folder


def made(data, name="small"):
    return manifests.read(data / f"ixi_t1/{name}/1.0.0")


def people_by_split(manifest):
    return {split: counts.volumes for split, counts in manifest.splits.items()}


def test_an_empty_split_is_announced_with_its_reason_and_hash_fills_it(tmp_path, capsys):
    source = write_people(tmp_path / "source", {"train": 9, "test": 1})
    assert job(source, tmp_path / "data", *SMALL) == 0
    captured = capsys.readouterr()
    assert "planned subjects 9/0/1" in captured.out
    (warning,) = [line for line in captured.err.splitlines() if "split" in line]
    assert warning.startswith("warning: nobody is in the validation split: the roster fixes ")
    assert warning.endswith("--splits=hash to divide the people who are present")
    assert job(source, tmp_path / "hashed", *SMALL, "--splits=hash") == 0
    captured = capsys.readouterr()
    assert "planned subjects 7/2/1" in captured.out and "nobody is in" not in captured.err
    assert people_by_split(made(tmp_path / "hashed")) == {"train": 7, "validation": 2, "test": 1}


def test_both_held_out_splits_are_named_where_both_are_empty(tmp_path, capsys):
    source = write_people(tmp_path / "source", {"train": 3})
    assert job(source, tmp_path / "data", *SMALL) == 0
    error = capsys.readouterr().err
    assert "warning: nobody is in the validation and the test splits: the roster" in error
    assert job(source, tmp_path / "hashed", *SMALL, "--splits=hash") == 0
    counts = people_by_split(made(tmp_path / "hashed"))
    assert counts == {"train": 1, "validation": 1, "test": 1}


def test_of_two_people_nobody_can_be_held_out(tmp_path, capsys):
    source = write_people(tmp_path / "source", {"train": 2})
    assert job(source, tmp_path / "data", *SMALL, "--splits=hash") == 0
    assert "test splits: three people or more are needed" in capsys.readouterr().err


def test_the_default_is_as_it_was_and_hash_is_another_dataset(tmp_path, capsys):
    source = write_people(tmp_path / "source", {"train": 4, "validation": 1, "test": 1})
    data = tmp_path / "data"
    assert job(source, data, *SMALL) == 0
    assert "splitting" not in json.loads((data / "ixi_t1/small/1.0.0/manifest.json").read_text())
    assert job(source, data, *SMALL, "--splits=roster") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert job(source, data, *SMALL, "--splits=hash") == 2
    assert "was made from other inputs or settings" in capsys.readouterr().err
    assert job(source, data, *SMALL, "--splits=hash", "--overwrite") == 0
    assert made(data).splitting == "hash"
    assert job(source, data, *SMALL, "--splits=other") == 2
    assert "--splits=other: choose one of roster, hash" in capsys.readouterr().err


def test_hash_counts_as_another_setting_even_where_it_changes_nobody(tmp_path, capsys):
    source = write_people(tmp_path / "source", {"train": 2})
    assert job(source, tmp_path, *SMALL) == 0
    assert job(source, tmp_path, *SMALL, "--splits=hash") == 2
    assert "was made from other inputs or settings" in capsys.readouterr().err


def test_a_dataset_split_by_hash_is_repaired_without_the_flag(tmp_path):
    source = write_people(tmp_path / "source", {"train": 9, "test": 1})
    data = tmp_path / "data"
    assert job(source, data, *SMALL, "--splits=hash") == 0
    whole = tree(data)
    for shard in (data / "ixi_t1/small/1.0.0").glob("*.tfrecord-*"):
        shard.unlink()
    assert run(["verify", f"--data_dir={data}", "--repair", f"--source_dir={source}"]) == 0
    assert tree(data) == whole


def test_trainer_and_evaluator_say_how_to_get_the_split_that_is_missing(tmp_path):
    source = write_people(tmp_path / "source", {"train": 3})
    assert job(source, tmp_path, *SMALL) == 0
    with pytest.raises(DatasetError, match=r"has no validation split; .* --splits=hash"):
        trainer_data.open_data(str(tmp_path), ["ixi_t1/small"])
    with pytest.raises(DatasetError, match=r"--split=test: .* has train; .* --splits=hash"):
        scoring.open_split(tmp_path, "ixi_t1/small", "test")
    with pytest.raises(DatasetError, match=r"--split=tset: .* has train$"):
        scoring.open_split(tmp_path, "ixi_t1/small", "tset")


def reasons_of(error, data):
    """The list that a message names, and the reasons in it."""
    path = data / "ixi_t1/small/.incomplete-1.0.0/rejected.jsonl"
    assert str(path) in error
    return [json.loads(line)["reason"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("emptied", ["validation", "all"])
def test_where_a_split_is_emptied_all_reasons_are_counted_and_listed(emptied, tmp_path, capsys):
    source, data = tmp_path / "source", tmp_path / "data"
    write_people(source, {"train": 2, "validation": 3, "test": 1})
    paths = [
        next(source.glob(f"{entry.name}*"))
        for entry in ROSTER.values()
        if (emptied == "all" or entry.split == "validation") and any(source.glob(f"{entry.name}*"))
    ]
    for path in paths[:-1]:
        path.write_bytes(b"no volume")
    write_head(source, paths[-1].name.removesuffix(".nii.gz"), voxels=0 * head() + 7)
    assert job(source, data, *SMALL, "--max_rejected_fraction=1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    refused = len(paths)
    start = "every volume of the validation split" if emptied == "validation" else "all 6 volumes"
    assert error.startswith(f"error: {start}")
    reasons = reasons_of(error, data)
    assert len(reasons) == refused and reasons.count("constant") == 1
    (other,) = {*reasons} - {"constant"}
    assert f"{refused - 1} {other}" in error and "1 constant" in error


def test_too_many_refusals_are_counted_by_reason_too(tmp_path, capsys):
    source, data = tmp_path / "source", tmp_path / "data"
    write_people(source, {"train": 6, "validation": 2, "test": 1})
    first, second, *_ = sorted(source.iterdir())
    first.write_bytes(b"no volume")
    write_head(source, second.name.removesuffix(".nii.gz"), voxels=0 * head() + 7)
    assert job(source, data, *SMALL) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 9 volumes were refused, more than --max_rejected_fraction=0.05" in error
    reasons = reasons_of(error, data)
    assert len(reasons) == 2 and "constant" in reasons
    assert all(f"1 {reason}" in error for reason in reasons)
