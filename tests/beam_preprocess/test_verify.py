"""Damage done to a dataset on disk: it is found, named, refused by its readers, and mended."""

import bisect
import itertools
import json
import random
import re
import shutil

import pytest
import tiny_dataset
from test_beam_preprocess import job, tree, write_workbook
from volumes import SMALL, write_cohort, write_head

from beam_preprocess import leakage
from beam_preprocess.__main__ import run
from evaluator import scoring
from ixi_tfds import datasets, integrity
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.documents.manifest import Geometry
from ixi_tfds.system.errors import DatasetError
from trainer import data as trainer_data

FLAGS = (*SMALL, "--volumes_per_shard=3")
TRAIN = "ixi_t1-train.tfrecord-00001-of-00003"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert job(source, data, *FLAGS) == 0
    return data


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def folder_of(data):
    return data / "ixi_t1/small/1.0.0"


def verify(data, *flags):
    return run(["verify", f"--data_dir={data}", *flags])


def starts_of(path):
    """Where each record of a shard begins, and where the last one ends."""
    content, starts = path.read_bytes(), [0]
    while starts[-1] < len(content):
        length = int.from_bytes(content[starts[-1] : starts[-1] + 8], "little")
        starts.append(starts[-1] + 8 + 4 + length + 4)
    return starts


def record_at(path, place):
    """How a message names the record that holds a byte."""
    starts = starts_of(path)
    number = sum(start <= place for start in starts)
    return f"record {number} (from byte {starts[number - 1]})"


def flip_a_bit(folder):
    content = bytearray((folder / TRAIN).read_bytes())
    place = random.Random(0).randrange(8 * len(content))
    where = record_at(folder / TRAIN, place // 8)
    content[place // 8] ^= 1 << place % 8
    (folder / TRAIN).write_bytes(content)
    return TRAIN, f"is damaged: {where} "


def truncate(folder):
    content = (folder / TRAIN).read_bytes()
    half = len(content) // 2
    where = record_at(folder / TRAIN, half)
    (folder / TRAIN).write_bytes(content[:half])
    return TRAIN, f"is damaged: {where} is cut off\n"


def lose(folder):
    (folder / TRAIN).unlink()
    return TRAIN, "is missing"


def mix_up(folder):
    shutil.copy(folder / TRAIN.replace("00001-", "00002-"), folder / TRAIN)
    return TRAIN, "is of another run"


def add(folder):
    name = TRAIN.replace("of-00003", "of-00004")
    shutil.copy(folder / TRAIN, folder / name)
    return name, "is of another run: the manifest does not name it"


def add_to_validation(folder):
    name = "ixi_t1-validation.tfrecord-00001-of-00002"
    shutil.copy(folder / "ixi_t1-validation.tfrecord-00000-of-00001", folder / name)
    return name


def spoil_info(folder):
    (folder / "dataset_info.json").write_text('{"name": ')
    return "dataset_info.json", "is not what was written"


def edit_info(folder):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"18"', '"12"'))
    return path.name, "is not what was written"


def spoil_features(folder):
    (folder / "features.json").write_bytes(bytes(range(256)))
    return "features.json", "is not what was written"


def edit_features(folder):
    path = folder / "features.json"
    path.write_text(path.read_text().replace("32", "23"))
    return path.name, "is not what was written"


def lose_info(folder):
    (folder / "dataset_info.json").unlink()
    return "dataset_info.json", "is missing"


def lose_features(folder):
    (folder / "features.json").unlink()
    return "features.json", "is missing"


DAMAGES = (
    *(flip_a_bit, truncate, lose, mix_up, add),
    *(spoil_info, edit_info, lose_info, spoil_features, edit_features, lose_features),
)


def read_to_train(data, *how):
    trainer_data.open_data(str(data), ["ixi_t1/small"], *how)


def read_to_score(data, *how):
    scoring.open_split(data, "ixi_t1/small", "train", *how)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_refused_and_mended(damage, source, whole, data, capsys):
    folder = folder_of(data)
    name, words = damage(folder)
    assert verify(data) == 2
    captured = capsys.readouterr()
    assert f"{folder / name}: {words}" in captured.out
    assert captured.out.count("\n") == 1
    assert captured.err.startswith(f"error: {folder}: not as it should be")
    assert captured.err.count("\n") == 1 and "--repair" in captured.err
    with pytest.raises(DatasetError, match=name):
        integrity.check_dataset(folder, manifests.read(folder), ("train",))
    for read in (read_to_train, read_to_score):
        with pytest.raises(DatasetError) as caught:
            read(data)
        # Without this file nothing counts as a dataset.
        named = "no such dataset" if damage is lose_info else f"{folder / name}: {words.strip()}"
        assert named in str(caught.value)
    kept = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir() if p.name != name}
    assert verify(data, "--repair", f"--source_dir={source}") == 0
    assert f"{folder}: repaired\n" in capsys.readouterr().out
    assert tree(data) == tree(whole)
    found = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir() if p.name != name}
    assert found == kept


def test_every_flipped_bit_is_found(data):
    folder = folder_of(data)
    content, generator = (folder / TRAIN).read_bytes(), random.Random(1)
    starts = starts_of(folder / TRAIN)
    names = ["", *(f"record {n} (from byte {start})" for n, start in enumerate(starts, start=1))]
    manifest = manifests.read(folder)
    for _ in range(200):
        changed = bytearray(content)
        place = generator.randrange(8 * len(content))
        changed[place // 8] ^= 1 << place % 8
        (folder / TRAIN).write_bytes(changed)
        (damage,) = integrity.find_damage(folder, manifest)
        assert damage.name == TRAIN
        assert damage.what.startswith(f"is damaged: {names[bisect.bisect(starts, place // 8)]} ")


def test_quick_goes_by_names_and_sizes(data):
    folder = folder_of(data)
    manifest = manifests.read(folder)
    size = (folder / TRAIN).stat().st_size
    flip_a_bit(folder)
    for quick in (read_to_train, read_to_score):
        quick(data, "quick")
        with pytest.raises(DatasetError, match="is damaged"):
            quick(data, "full")
    (folder / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-1])
    for quick in (read_to_train, read_to_score):
        with pytest.raises(DatasetError, match=f"has {size - 1:,} bytes, and {size:,} were writ"):
            quick(data, "quick")
    lose(folder)
    stray = add_to_validation(folder)
    with pytest.raises(DatasetError, match=r"is missing \(and 1 more files\)"):
        read_to_train(data, "quick")
    # Who reads other splits need not mind.
    integrity.check_dataset(folder, manifest, ("test",), "quick")
    integrity.check_dataset(folder, manifest, ("test",))
    with pytest.raises(DatasetError, match=f"{stray}: is of another run"):
        integrity.check_dataset(folder, manifest, ("validation",), "quick")


EDITS = {
    "fingerprint": "0" * 64,
    "version": "1.0.1",
    "config": {"name": "small", "in_plane": [32, 32], "size": [32, 32], "window": [7, 13]},
    "volumes_per_shard": 4,
    "splits": {},
    "strata": {},
    "rejected": {"not_nifti": 1},
    "skipped": {"label_map": 1},
    "geometry": {"shape": [32, 32, 24], "zooms": [4.0, 4.0, 5.1]},
    "voxels": {"lowest": [4.0, 4.0, 5.0], "highest": [4.0, 4.0, 5.1]},
    "look": {},
    "bytes": 1,
    "shards": {},
    "volumes": {},
    "shard_bytes": {},
    "metadata": {},
    "digest": "0" * 64,
    "another": None,
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_manifest_is_found(field, data, capsys):
    path = folder_of(data) / "manifest.json"
    manifest = json.loads(path.read_text())
    assert set(manifest) == set(EDITS) - {"another"} and EDITS[field] != manifest.get(field, "")
    path.write_text(json.dumps(manifest | {field: EDITS[field]}))
    before = tree(data)
    # Who cannot believe the manifest mends nothing by it.
    for flags in ((), ("--repair", f"--source_dir={data}")):
        assert verify(data, *flags) == 2
        captured = capsys.readouterr()
        assert f"{path}: is not the manifest of a dataset (it was edited" in captured.out
        assert captured.err.count("\n") == 1
    with pytest.raises(DatasetError, match="it was edited"):
        manifests.read(folder_of(data))
    for read in (read_to_train, read_to_score):
        with pytest.raises(DatasetError, match="it was edited"):
            read(data)
    assert tree(data) == before


def test_several_damages_are_mended_at_once(source, whole, data, capsys):
    folder = folder_of(data)
    add(folder)
    lose(folder)
    spoil_info(folder)
    (folder / "ixi_t1-test.tfrecord-00000-of-00001").write_bytes(b"")
    assert verify(data) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == out.count(f"{folder}/") == 4
    stray = TRAIN.replace("of-00003", "of-00004")
    for name in (stray, TRAIN, "dataset_info.json", "ixi_t1-test.tfrecord-00000-of-00001"):
        assert f"{folder / name}: " in out
    assert verify(data, "--repair", f"--source_dir={source}") == 0
    assert tree(data) == tree(whole)


def test_what_tfds_reads_beside_the_shards_is_mended_without_the_volumes(whole, data):
    folder = folder_of(data)
    lose_info(folder)
    edit_features(folder)
    add(folder)
    (folder / "sex.labels.txt").write_text("male\n")
    assert verify(data, "--repair") == 0
    assert tree(data) == tree(whole)


def test_a_dataset_of_another_workbook_and_scaling_is_mended(source, tmp_path, capsys):
    """By the settings in its manifest, and with the workbook that it was made with."""
    write_workbook(tmp_path / "people.csv")
    data = tmp_path / "data"
    workbook = f"--workbook={tmp_path / 'people.csv'}"
    flags = ("--config=small", "--in_plane=any", "--size=30x28", "--slices=9:13")
    assert job(source, data, *flags, "--scaling=volume", "--volumes_per_shard=2", workbook) == 0
    before = tree(data)
    shards = sorted(folder_of(data).glob("*.tfrecord-*"))
    (folder_of(data) / "features.json").write_text("{}")
    for path in shards:
        path.unlink()
    assert verify(data, "--repair", f"--source_dir={source}") == 2
    error = capsys.readouterr().err
    assert f"{shards[0].name}: cannot be made again byte for byte" in error
    assert verify(data, "--repair", f"--source_dir={source}", workbook) == 0
    assert tree(data) == before


def test_a_dataset_that_the_job_did_not_make_is_left_alone(tmp_path, capsys):
    folder = tiny_dataset.write_tiny_dataset(tmp_path)
    next(folder.glob("*.tfrecord-*")).unlink()
    before = tree(tmp_path)
    assert verify(tmp_path, "--repair", f"--source_dir={tmp_path}") == 2
    error = capsys.readouterr().err
    assert f"{folder}: was not made by python -m beam_preprocess" in error
    assert tree(tmp_path) == before


def test_every_dataset_under_the_root_is_looked_at(data, capsys):
    """A damaged one does not hide the others, wherever it stands among them."""
    for name in ("aaa", "zzz"):
        shutil.copytree(data / "ixi_t1/small", data / "ixi_t1" / name)
    tiny_dataset.write_tiny_dataset(data)
    folders = [data / "ixi_t1" / name / "1.0.0" for name in ("aaa", "small", "tiny", "zzz")]
    assert verify(data) == 0
    out = capsys.readouterr().out
    places = [out.index(f"{folder}: ") for folder in folders]
    assert places == sorted(places) and out.count("undamaged shards") == 4
    for damaged in folders:
        shard = next(damaged.glob("*.tfrecord-*"))
        moved = shard.rename(data / "moved")
        assert verify(data) == 2
        captured = capsys.readouterr()
        assert captured.out.count("undamaged shards") == 3
        assert captured.err.startswith(f"error: {damaged}: not as it should be")
        for chosen in (damaged, folders[1]):
            code = 2 if chosen == damaged else 0
            assert verify(data, f"--config={chosen.parent.name}") == code
            assert verify(data, f"--dataset=ixi_t1/{chosen.parent.name}") == code
        capsys.readouterr()
        moved.rename(shard)
    assert verify(data, "--config=small", "--dataset=ixi_t1/small") == 2
    assert "--config and --dataset: give one of them" in capsys.readouterr().err
    assert verify(data, "small") == 2
    assert "unexpected argument 'small'" in capsys.readouterr().err


def test_shards_that_were_numbered_anew_are_mended(tmp_path, capsys):
    """A shard of refused volumes only is not there, so those after it have other numbers."""
    source = write_cohort(tmp_path / "source")
    for path in sorted(source.glob("*.nii.gz"))[:4]:
        path.write_bytes(b"broken")
    data = tmp_path / "data"
    assert job(source, data, *SMALL, "--volumes_per_shard=1", "--max_rejected_fraction=0.5") == 0
    before = tree(data)
    for path in folder_of(data).glob("*.tfrecord-*"):
        path.unlink()
    assert verify(data) == 2
    out = capsys.readouterr().out
    names = [name for name in before if "tfrecord" in name]
    assert out.count(": is missing\n") == len(names) == 8
    assert verify(data, "--repair", f"--source_dir={source}") == 0
    assert tree(data) == before
    # Each by itself as well: a shard is not taken for its neighbour.
    for name in names:
        (data / name).write_bytes(b"")
        assert verify(data, "--repair", f"--source_dir={source}") == 0
        assert tree(data) == before


def test_other_volumes_mend_nothing(source, data, tmp_path, capsys):
    other = shutil.copytree(source, tmp_path / "other")
    lose(folder_of(data))
    before = tree(data)
    people = manifests.read(folder_of(data)).volumes
    name = next(volume.path for volume in people.values() if volume.shard == TRAIN)
    write_head(other, name.removesuffix(".nii.gz"), seed=99)
    assert verify(data, "--repair", f"--source_dir={other}") == 2
    error = capsys.readouterr().err
    assert f"{TRAIN}: cannot be made again byte for byte" in error and error.count("\n") <= 2
    assert tree(data) == before
    (other / name).unlink()
    assert verify(data, "--repair", f"--source_dir={other}") == 2
    assert f"{TRAIN}: cannot be made again byte for byte" in capsys.readouterr().err
    assert tree(data) == before
    assert verify(data, "--repair") == 2
    error = capsys.readouterr().err
    assert "--repair needs --source_dir" in error and error.count("\n") == 1
    assert tree(data) == before


def test_no_dataset_is_an_error(tmp_path, capsys):
    for flags, words in (
        (("--config=small",), "has no dataset ixi_t1/small"),
        (("--dataset=other/one",), "has no dataset other/one"),
        ((), "has no dataset at all"),
    ):
        assert verify(tmp_path, *flags) == 2
        assert capsys.readouterr().err == f"error: --data_dir={tmp_path}: {words}\n"


def test_a_whole_dataset_is_all_right_and_nobody_in_two_splits(data, capsys):
    before = tree(data)
    assert verify(data, "--config=small") == 0
    out = capsys.readouterr().out
    assert "5 undamaged shards, 72 slices of 12 people, none of them in two" in out
    assert tree(data) == before


def leak(folder, change, split="test"):
    """Put the first slice of the train split into another split as well, changed."""
    from tensorflow_datasets.proto import tf_example_pb2

    from beam_preprocess.shards import _framed

    manifest = manifests.read(folder)
    target = folder / f"ixi_t1-{split}.tfrecord-00000-of-00001"
    example = tf_example_pb2.Example.FromString(next(integrity.records(folder / TRAIN)))
    change(example.features.feature)
    with target.open("ab") as file:
        file.writelines(_framed([example.SerializeToString(deterministic=True)]))
    manifest.shards[target.name] = manifests.file_sha256(target)
    manifests.write(folder, manifest)


def people_of(folder, *, first=None):
    """Of the first so many slices of a shard of the train split, by TFDS's own reader."""
    from tensorflow_datasets.proto import tf_example_pb2

    examples = map(tf_example_pb2.Example.FromString, integrity.records(folder / TRAIN))
    fields = [example.features.feature for example in itertools.islice(examples, first)]
    return {f["subject"].bytes_list.value[0].decode() for f in fields}


def test_a_person_in_two_splits_is_found(data, capsys):
    leak(folder_of(data), lambda fields: fields["slice_index"].int64_list.value.__setitem__(0, 99))
    (subject,) = people_of(folder_of(data), first=1)
    assert verify(data) == 2
    captured = capsys.readouterr()
    assert f"{folder_of(data)}: {subject} is in test and in train\n" in captured.out
    assert "none of them in two splits" not in captured.out
    assert captured.err.startswith(f"error: {folder_of(data)}: not as it should be")


def test_a_slice_in_two_splits_is_found_by_name_and_by_pixels(data, capsys):
    def rename(fields):
        fields["subject"].bytes_list.value[0] = b"IXI999"

    (subject,) = people_of(folder_of(data), first=1)
    leak(folder_of(data), rename)
    assert verify(data) == 2
    out = capsys.readouterr().out
    # In the order of the shards: test comes before train.
    assert re.search(
        rf"the same pixels are IXI999/(\d{{3}}) in test and {subject}/\1 in train$", out, re.M
    )
    assert " times" not in out and " is in " not in out
    leak(folder_of(data), lambda fields: None)
    assert verify(data) == 2
    assert re.search(rf"the slice {subject}/\d{{3}} stands 2 times$", capsys.readouterr().out, re.M)


def test_black_slices_are_not_called_the_same(data):
    def blacken(name):
        def change(fields):
            fields["subject"].bytes_list.value[0] = name
            fields["image"].bytes_list.value[0] = bytes(32 * 32)

        return change

    leak(folder_of(data), blacken(b"IXI998"))
    leak(folder_of(data), blacken(b"IXI999"), "validation")
    manifest = manifests.read(folder_of(data))
    assert leakage.find_leaks(leakage.read_slices(folder_of(data), manifest)) == []


def versions_in(data, *versions):
    for version in versions:
        folder = data / "ixi_t1/tiny" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")


def test_the_highest_version_is_found_by_number(tmp_path):
    versions_in(tmp_path, "9.9.9", "10.0.0", "2.11.0", "1.0.0-beta", ".replaced-99.0.0")
    (tmp_path / "ixi_t1/tiny/11.0.0").mkdir()  # Without what makes it a dataset.
    assert datasets.find_dataset(tmp_path, "ixi_t1/tiny") == tmp_path / "ixi_t1/tiny/10.0.0"
    versions_in(tmp_path, "10.0.2", "10.0.10")
    assert datasets.find_dataset(tmp_path, "ixi_t1/tiny").name == "10.0.10"
    with pytest.raises(DatasetError, match=r"--dataset=a/b: no such dataset .* has ixi_t1/tiny$"):
        datasets.find_dataset(tmp_path, "a/b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has none; make one with python -m beam_preprocess"):
        datasets.find_dataset(tmp_path / "empty", "a/b")
    with pytest.raises(DatasetError, match=f"--data_dir={tmp_path}/no: no such folder"):
        datasets.find_dataset(tmp_path / "no", "a/b")


def test_the_middle_of_voxels_is_the_lower_median_of_each_axis():
    heads = [((5, 1, 9), (1.0, 4.0, 2.0)), ((1, 2, 7), (3.0, 1.0, 0.1234567))]
    assert manifests.median_geometry(heads) == Geometry((1, 1, 7), (1.0, 1.0, 0.123457))
    heads.append(((2, 30, 8), (2.0, 2.0, 50.0)))
    assert manifests.median_geometry(iter(heads)) == Geometry((2, 2, 8), (2.0, 2.0, 2.0))
    assert manifests.median_geometry([]) is None
