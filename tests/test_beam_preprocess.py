"""The preprocessing job through its real main: what it publishes, and what it refuses."""

import hashlib
import html
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from volumes import SMALL, head, write_cohort, write_head

from beam_preprocess.__main__ import run
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


def test_nobody_is_in_two_splits(made):
    people = [
        {example["subject"] for example in examples(made, "small", split)}
        for split in ("train", "validation", "test")
    ]
    assert [len(p) for p in people] == [9, 2, 1]
    assert len(set.union(*people)) == 12


def test_serialized_examples_are_those_of_tfds(source, made):
    """Our encoder against TFDS's own, on the same example."""
    from ixi_tfds.catalog import find_scans
    from ixi_tfds.configs import SliceConfig
    from ixi_tfds.features import encode_slice, slice_features

    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    features = slice_features(config.size)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    _, example = next(slices_of(find_scans(str(source)).scans[0], config))
    example["age"] = 35.8  # a missing age is NaN, which equals nothing
    theirs = tf.train.Example.FromString(
        serializer.serialize_example(features.encode_example(example))
    )
    assert tf.train.Example.FromString(encode_slice(example)) == theirs


def test_one_or_two_workers_write_the_same_bytes(source, made, tmp_path):
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert job(source, tmp_path, *SMALL, "--volumes_per_shard=3", *workers) == 0
    assert tree(tmp_path) == tree(made)


def test_the_manifest_names_the_shards_by_digest(made):
    folder = made / "ixi_t1/small/1.0.0"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["splits"]["train"] == {"volumes": 9, "slices": 54}
    assert manifest["geometry"] == {"shape": [32, 32, 24], "zooms": [4.0, 4.0, 5.0]}
    assert manifest["shards"] == {k: v for k, v in tree(folder).items() if "tfrecord" in k}
    assert not [path for path in made.rglob("*") if path.name.startswith(".")]


def test_a_second_run_changes_nothing_and_other_inputs_are_refused(source, tmp_path, capsys):
    copy = shutil.copytree(source, tmp_path / "source")
    data = tmp_path / "data"
    assert job(copy, data, *SMALL) == 0
    before = tree(data)
    assert job(copy, data, *SMALL) == 0
    assert "nothing to do" in capsys.readouterr().out
    write_head(copy, "IXI799-HH-0099-T1", seed=99)
    assert job(copy, data, *SMALL) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert tree(data) == before
    assert job(copy, data, *SMALL, "--overwrite") == 0
    assert len(json.loads((data / "ixi_t1/small/1.0.0/manifest.json").read_text())["volumes"]) == 13


def test_an_interrupted_job_goes_on_with_the_whole_shards(source, made, tmp_path, monkeypatch):
    from beam_preprocess import job as job_module
    from beam_preprocess import shards

    def write_two_and_die(tasks, options):
        for task in tasks[:2]:
            shards.write_shard(task)
        tasks[2].path.write_bytes(b"half a sh")
        raise SystemError("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(job_module, "write_shards", write_two_and_die)
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
    assert len([name for name in written if not name.endswith(".json")]) == 3
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
    assert "rejected: not_nifti" in capsys.readouterr().out
    report = (folder / "quality.html").read_text()
    assert "<script>" not in report
    assert html.escape("<script>alert(1)<") in report


def test_too_many_rejects_publish_nothing(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL) == 2
    assert "2 of 14 volumes were refused" in capsys.readouterr().err
    assert not (tmp_path / "ixi_t1/small/1.0.0").exists()


def test_strict_fails_at_the_first_reject(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL, "--strict", "--max_rejected_fraction=1") == 2
    error = capsys.readouterr().err
    assert "--strict: " in error
    assert ("IXI720" in error) or ("script" in error)
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


def splits_of(source):
    from ixi_tfds.catalog import find_scans
    from ixi_tfds.splits import assign_splits

    return assign_splits(find_scans(str(source)).scans)


def test_strict_is_kept_when_the_dataset_is_there_already(tmp_path, capsys):
    source = bad_cohort(tmp_path / "source")
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=0.5") == 0
    assert job(source, tmp_path, *SMALL, "--max_rejected_fraction=0.5") == 0
    for flag in ("--strict", "--max_rejected_fraction=0.01"):
        assert job(source, tmp_path, *SMALL, flag) == 2
        assert "leaving out 2 refused volumes" in capsys.readouterr().err


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


def test_a_dataset_comes_back_when_its_replacement_is_killed(source, tmp_path):
    assert job(source, tmp_path, *SMALL) == 0
    before = tree(tmp_path)
    folder = tmp_path / "ixi_t1/small"
    (folder / "1.0.0").rename(folder / ".replaced-1.0.0")
    assert job(source, tmp_path, *SMALL) == 0
    assert tree(tmp_path) == before


def test_a_folder_that_is_no_dataset_of_ours_is_left_alone(source, tmp_path, capsys):
    folder = tmp_path / "ixi_t1/small/1.0.0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert job(source, tmp_path, *SMALL) == 2
    assert "manifest.json" in capsys.readouterr().err
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
        (["--source_dir=.", "--data_dir="], "--data_dir="),
        (["--source_dir=.", "--data_dir=d", "--config=mine"], "needs --slices and --size"),
        (["--source_dir=.", "--data_dir=d", "--size=1x1"], "the config thesis is fixed"),
        (["--source_dir=.", "--data_dir=d", "--config=a", "--size=axb", "--slices=1:2"], "axb"),
        (["--source_dir=.", "--data_dir=d", "--config=a", "--size=2x2", "--slices=2:1"], "FIRST"),
        (["--source_dir=.", "--data_dir=d", "--volumes_per_shard=0"], "at least 1"),
        (["--source_dir=.", "--data_dir=d", "--workbook=gone.xls"], "gone.xls"),
    ],
)
def test_bad_flags_get_one_line(flags, words, capsys):
    assert run(flags) == 2
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
    from beam_preprocess.job import JobConfig, plan_job
    from ixi_tfds.configs import THESIS

    for name in (real_data / "ixi/IXI-T1.filenames.txt").read_text().split():
        (tmp_path / name).touch()
    shutil.copy(real_data / "ixi/IXI.xls", tmp_path)
    plan = plan_job(JobConfig(source_dir=str(tmp_path), data_dir="unused", slices=THESIS))
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
    from beam_preprocess.pipeline import beam_options

    level = "default_sdk_harness_log_level"
    assert beam_options([]).get_all_options()[level] == "CRITICAL"
    assert beam_options(["--runner=FlinkRunner"]).get_all_options()[level] is None
    given = [f"--{level}=WARN", "--runner=FlinkRunner"]
    assert beam_options(given).get_all_options()[level] == "WARN"
