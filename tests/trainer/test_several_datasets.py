import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_dataset

from ixi_tfds import config as configs
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.system.errors import UserError
from trainer import data
from trainer.__main__ import run

OTHER = configs.SliceConfig("other", size=(32, 32), window=(0, 3))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_dataset.write_tiny_dataset(root)
    tiny_dataset.write_tiny_dataset(root, OTHER, subjects={"train": 4, "validation": 1, "test": 1})
    return root


def images(batches):
    return [image.tobytes() for batch in batches for image in batch["image"].numpy()]


def test_several_datasets_are_read_as_one(data_dir):
    names = ("ixi_t1/tiny", "ixi_t1/other")
    both = data.open_data(str(data_dir), names)
    each = [data.open_data(str(data_dir), [name]) for name in names]
    assert both.train.slices == 6 * 4 + 4 * 3
    assert both.validation.slices == 2 * 4 + 1 * 3
    assert list(both.facts) == list(names)
    assert both.facts["ixi_t1/other"].splits == {
        "train": manifests.Counts(volumes=4, slices=12),
        "validation": manifests.Counts(volumes=1, slices=3),
        "test": manifests.Counts(volumes=1, slices=3),
    }
    assert len({both.fingerprint, each[0].fingerprint, each[1].fingerprint}) == 3
    wanted = [
        image
        for source in each
        for image in images(data.evaluation_batches(source.train, batch_size=5))
    ]
    for cache in (False, True):
        epoch = images(
            data.train_batches(both.train, batch_size=6, seed=0, epochs=range(1), cache=cache)
        )
        assert sorted(epoch) == sorted(wanted) and epoch != wanted
    validated = images(data.evaluation_batches(both.validation, batch_size=5))
    assert len(set(validated)) == 11


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("damaged", ["tiny", "other"])
def test_damage_is_found_in_each_dataset_and_split_before_training(
    damaged, split, data_dir, tmp_path
):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    name = f"ixi_t1-{split}.tfrecord-00001-of-00002"
    shard = tmp_path / f"ixi_t1/{damaged}/1.0.0" / name
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{damaged}.*{name}|{name}.*{damaged}"):
        data.open_data(str(tmp_path), ("ixi_t1/tiny", "ixi_t1/other"))
    # Names and sizes are as they were.
    data.open_data(str(tmp_path), ("ixi_t1/tiny", "ixi_t1/other"), "quick")


def test_the_facts_of_each_dataset_are_its_own(data_dir):
    names = ("ixi_t1/tiny", "ixi_t1/other")
    both = data.open_data(str(data_dir), names)
    for name, window in zip(names, ((0, 4), (0, 3)), strict=True):
        manifest = manifests.read(data_dir / name / "1.0.0")
        facts = both.facts[name]
        assert facts.fingerprint == manifest.fingerprint
        assert facts.slices.window == window
        assert facts.description.startswith(f"slices [{window[0]}, {window[1]})")
        assert facts.splits == manifest.splits


def test_datasets_that_are_not_alike_are_not_mixed(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    volume = configs.SliceConfig("volume", size=(32, 32), window=(0, 3), scaling="volume")
    wide = configs.SliceConfig("wide", size=(32, 48), window=(0, 3))
    for config in (volume, wide):
        subjects = {"train": 2, "validation": 1, "test": 1}
        tiny_dataset.write_tiny_dataset(tmp_path, config, subjects=subjects, shards=1)
    for others, message in (
        (["other", "volume"], "tiny are 32x32, scaled by slice, .*/volume are 32x32, scaled by vo"),
        (["other", "wide"], "tiny are 32x32, scaled by slice, .*/wide are 32x48, scaled by slice"),
        (["other", "other"], "ixi_t1/other is named twice"),
    ):
        names = [f"ixi_t1/{name}" for name in ("tiny", *others)]
        with pytest.raises(UserError, match=message):
            data.open_data(str(tmp_path), names)


def test_datasets_of_two_preprocessings_are_not_mixed(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "ixi_t1/other/1.0.0"
    manifests.write(folder, dataclasses.replace(manifests.read(folder), version="0.9.0"))
    with pytest.raises(UserError, match=r"of preprocessing 1\.0\.0, .* of preprocessing 0\.9\.0"):
        data.open_data(str(tmp_path), ("ixi_t1/tiny", "ixi_t1/other"))


def test_a_run_on_two_datasets_with_a_model_of_ones_own(data_dir, tmp_path, capsys):
    """Also what only such a run has: a mixed loss, a model by its stages, a profile."""
    command = [f"--data_dir={data_dir}", f"--workdir={tmp_path}", "--batch_size=6", "--epochs=1"]
    command += ["--dataset=ixi_t1/tiny,ixi_t1/other", "--loss=mix", "--dssim_weight=0.25"]
    command += ["--model=resnet_like", "--stem_filters=8", "--stage_filters=8,16"]
    command += ["--stage_blocks=1,2", "--profile_steps=2"]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "36 slices to train on, 11 to validate; resnet_like" in out
    last = out.splitlines()[-1]
    for name in ("ixi_t1/tiny", "ixi_t1/other"):
        assert f"--dataset={name} --split=test --output_dir={tmp_path}/evaluation/{name}" in last
    card = json.loads((tmp_path / "export/resnet_like/1/assets.extra/model_card.json").read_text())
    assert card["datasets"]["ixi_t1/other"]["slices"]["window"] == [0, 3]
    assert card["flags"]["stage_filters"] == [8, 16]
    with (tmp_path / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert np.isfinite(float(row["val_loss"]))
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
    # The same flags are the same run, lists among them.
    assert run(command) == 0
    assert run([*command, "--stage_filters=8,8"]) == 2
    assert "--stage_filters" in capsys.readouterr().err
