"""A cohort of one's own: all that it takes is its module, its roster, and this test."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import second_cohort
import tensorflow_datasets as tfds
from volumes import SMALL, write_cohort

from beam_preprocess.__main__ import run as preprocess
from evaluator.__main__ import run as evaluate
from ixi_tfds import __main__ as command_line
from ixi_tfds.builder import builder_for
from ixi_tfds.cohorts import COHORTS, DEFAULT, find_cohort
from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.config import SliceConfig
from ixi_tfds.splits import assign_splits
from ixi_tfds.system.errors import UserError
from trainer.__main__ import run as train

COHORT = second_cohort.COHORT
NAME = "--cohort=second_cohort:COHORT"
SPLITS = {"train": [2, 4, 7, 9, 11, 12], "validation": [3, 6, 10], "test": [1, 5, 8]}
"""The numbers of the people in each split; P12, whom the roster does not name, is drawn."""


@pytest.fixture(scope="module", autouse=True)
def _forgotten():
    """Commands that are imported later list the cohorts in their help."""
    yield
    COHORTS.pop(COHORT.name, None)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return second_cohort.write_scans(tmp_path_factory.mktemp("second") / "scans")


@pytest.fixture(scope="module")
def data(scans, tmp_path_factory):
    """Datasets of both cohorts, `ixi_t1/small` and `second/small`."""
    root = tmp_path_factory.mktemp("data")
    ixi = write_cohort(tmp_path_factory.mktemp("ixi"), subjects=6)
    for flags in ((f"--source_dir={scans}", NAME), (f"--source_dir={ixi}",)):
        assert preprocess([*flags, f"--data_dir={root}", *SMALL, "--volumes_per_shard=4"]) == 0
    return root


def subjects_of(dataset):
    return {example["subject"].decode() for example in tfds.as_numpy(dataset)}


def test_its_dataset_has_its_name_its_people_and_the_splits_of_its_roster(data):
    folder = data / "second/small/1.0.0"
    assert {path.name.partition("-")[0] for path in folder.glob("*.tfrecord-*")} == {"second"}
    for split, numbers in SPLITS.items():
        dataset = tfds.load("second/small", data_dir=str(data), split=split)
        assert subjects_of(dataset) == {f"P{number:02d}" for number in numbers}
    facts = {}
    for example in tfds.as_numpy(dataset):
        facts[example["subject"].decode()] = (
            *(example[name] for name in ("sex", "ethnicity", "age")),
            example["site"].decode(),
        )
    assert facts["P01"] == (1, 5, 79.0, "hills")
    assert facts["P08"] == (0, 5, 72.0, "coast")
    page = (folder / "quality.html").read_text()
    assert "P11: no sex" in page
    volumes = json.loads((folder / "manifest.json").read_text())["volumes"]
    assert len(volumes) == 12
    # The roster has a checksum of P04 alone, which is of another file.
    assert "1 not the original" in page and "11 without a published checksum" in page


def test_people_stay_in_their_split_whatever_lies_beside_them_or_was_made_of_them(scans, tmp_path):
    roster = read_roster(COHORT.roster)
    second_cohort.write_scans(tmp_path / "some", numbers=(1, 5))
    assert assign_splits(find_scans(str(tmp_path / "some"), COHORT).scans, roster) == {
        "P01": "test",
        "P05": "test",
    }
    (tmp_path / "some/T1_hills.01.nii.gz").rename(tmp_path / "some/T1_hills.01.brain.nii.gz")
    found = find_scans(str(tmp_path / "some"), COHORT).scans
    assert [scan.subject for scan in found] == ["P01", "P05"]
    assert assign_splits(found, roster)["P01"] == "test"


def test_the_builder_of_tfds_gives_the_same_slices(scans, data, tmp_path):
    assert "second" in tfds.list_builders()
    made = tfds.builder("second/thesis", data_dir=str(tmp_path))
    assert made.info.description == "Made-up heads."
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    builder = builder_for(config, str(tmp_path), COHORT)
    manual = tfds.download.DownloadConfig(manual_dir=str(scans))
    builder.download_and_prepare(download_config=manual)
    for split, numbers in SPLITS.items():
        images = [
            {(e["subject"], e["slice_index"]): e["image"] for e in tfds.as_numpy(dataset)}
            for dataset in (
                builder.as_dataset(split=split),
                tfds.load("second/small", data_dir=str(data), split=split),
            )
        ]
        assert images[0].keys() == images[1].keys() and len(images[0]) == 6 * len(numbers)
        for key, image in images[0].items():
            np.testing.assert_array_equal(image, images[1][key])


def test_a_builder_without_volumes_says_that_there_is_nothing_to_download(tmp_path):
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    with pytest.raises(UserError, match="Second cannot be downloaded"):
        builder_for(config, str(tmp_path), COHORT).download_and_prepare()


@pytest.mark.slow
def test_workers_of_beam_need_not_know_it(scans, data, tmp_path):
    flags = [NAME, f"--source_dir={scans}", f"--data_dir={tmp_path}", *SMALL]
    flags += ["--volumes_per_shard=4", "--direct_running_mode=multi_processing"]
    command = [sys.executable, "-m", "beam_preprocess", *flags, "--direct_num_workers=2"]
    # The command imports the cohort's module from there; workers could not.
    tests = pathlib.Path(__file__).parent
    done = subprocess.run(
        command, cwd=tests, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    one, other = (
        json.loads((root / "second/small/1.0.0/manifest.json").read_text())
        for root in (tmp_path, data)
    )
    assert one["shards"] == other["shards"] and one["fingerprint"] == other["fingerprint"]


def test_a_model_is_trained_on_both_cohorts_and_scored_on_the_second(data, tmp_path):
    flags = ["--dataset=ixi_t1/small,second/small", f"--workdir={tmp_path / 'run'}"]
    flags += ["--model=resnet_like", "--stem_filters=8", "--stage_filters=8", "--stage_blocks=1"]
    assert train([f"--data_dir={data}", *flags, "--epochs=1", "--batch_size=6"]) == 0
    (model,) = (tmp_path / "run/export").iterdir()
    card = json.loads((model / "1/assets.extra/model_card.json").read_text())
    assert card["datasets"]["second/small"]["splits"]["train"] == {"slices": 36, "volumes": 6}
    assert set(card["datasets"]) == {"ixi_t1/small", "second/small"}
    where = [f"--saved_model={model}", f"--data_dir={data}", f"--output_dir={tmp_path / 'scores'}"]
    assert evaluate([*where, "--dataset=second/small", "--split=test"]) == 0
    with (tmp_path / "scores/scores.csv").open() as lines:
        keys = {row["key"] for row in csv.DictReader(lines)}
    assert keys == {
        f"P{number:02d}/{index:03d}" for number in SPLITS["test"] for index in range(8, 14)
    }


def test_a_damaged_shard_of_it_is_made_again(scans, data, capsys):
    shard = next(data.glob("second/small/1.0.0/second-test.tfrecord-*"))
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + b"?")
    verify = ["verify", f"--data_dir={data}", NAME, "--config=small"]
    assert preprocess(verify) == 2
    assert f"{shard}: " in capsys.readouterr().out
    assert preprocess([*verify, "--repair", f"--source_dir={scans}"]) == 0
    assert shard.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oasis", "not a cohort; give one of ixi_t1, "),
        ("no_such_module:COHORT", "cannot be imported (No module named 'no_such_module')"),
        ("second_cohort:NONE", "cannot be imported (module 'second_cohort' has no attribute"),
        ("second_cohort:find_people", "not a cohort; give one of ixi_t1, "),
        ("", "not a cohort"),
    ],
)
def test_a_cohort_that_is_none_is_one_line(name, message, tmp_path, capsys):
    flags = [f"--source_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}", f"--cohort={name}"]
    assert preprocess(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --cohort={name}: ") and error.count("\n") == 1
    assert message in error


def test_a_cohort_is_known_by_its_own_name_once_it_was_named(monkeypatch):
    monkeypatch.delitem(COHORTS, "second", raising=False)
    with pytest.raises(UserError, match="--cohort=second: not a cohort"):
        find_cohort("second")
    assert find_cohort("second_cohort:COHORT") is COHORT is find_cohort("second")
    assert find_cohort("ixi_t1") is DEFAULT
    another = dataclasses.replace(COHORT, title="another")
    monkeypatch.setattr(second_cohort, "ANOTHER", another, raising=False)
    with pytest.raises(UserError, match="another cohort is also named second"):
        find_cohort("second_cohort:ANOTHER")


def test_a_cohort_without_addresses_cannot_be_downloaded(tmp_path, capsys):
    assert command_line.run(["download", f"--output_dir={tmp_path}", NAME]) == 2
    assert "Second cannot be downloaded" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Second", "2nd", "", "a/b", "a-b"])
def test_names_that_no_dataset_can_have_are_refused(name):
    with pytest.raises(ValueError, match="use lower-case letters, digits and underscores"):
        dataclasses.replace(COHORT, name=name)


def test_it_takes_three_files():
    tests = pathlib.Path(__file__).resolve().parents[2]
    mine = {path.name for path in tests.rglob("*second_*") if path.suffix != ".pyc"}
    assert mine == {"second_cohort.py", "second_roster.csv", "test_second_cohort.py"}
    for package in ("ixi_tfds", "beam_preprocess", "trainer", "evaluator"):
        for path in (tests.parent / package).rglob("*.py"):
            assert "second_cohort" not in path.read_text(), path
