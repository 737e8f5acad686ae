"""Which slices come when: every epoch, every batch, every replica's share."""

import collections
import pathlib
import shutil

import numpy as np
import pytest
import tiny_dataset

from ixi_tfds import config
from ixi_tfds.system.errors import DatasetError
from trainer import data

CONFIG = config.SliceConfig("tiny", size=(32, 32), window=(0, 5))
PEOPLE = {"train": 9, "validation": 2, "test": 1}
SHARDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return tiny_dataset.write_tiny_dataset(root, CONFIG, subjects=PEOPLE, shards=SHARDS)


def written(split):
    """The slices of a split in the order of its shards, as the dataset's writer deals them."""
    first = {"train": 901, "validation": 910, "test": 912}[split]
    examples = [
        example
        for number in range(first, first + PEOPLE[split])
        for example in tiny_dataset.slice_examples(f"IXI{number}", CONFIG)
    ]
    return [
        example["image"].tobytes() for shard in range(SHARDS) for example in examples[shard::SHARDS]
    ]


def epochs(split, numbers, *, batch_size=7, seed=0, cache=False):
    """Of each epoch the places of its slices in the order of the shards."""
    places = {image: place for place, image in enumerate(written("train"))}
    batches = data.train_batches(
        split, batch_size=batch_size, seed=seed, epochs=numbers, cache=cache
    )
    batches = list(batches.as_numpy_iterator())
    steps = split.slices // batch_size
    assert len(batches) == steps * len(numbers)
    assert {batch["image"].shape for batch in batches} == {(batch_size, 32, 32, 1)}
    first = numbers[0] * steps * batch_size
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(first, first + len(index)))
    order = [places[image.tobytes()] for batch in batches for image in batch["image"]]
    return np.array(order).reshape(len(numbers), -1)


@pytest.fixture
def split(folder):
    return data.find_shards(folder, "train")


def test_a_split_is_found_with_all_of_its_shards(split, folder):
    names = [pathlib.Path(path).name for path in split.paths]
    assert names == [f"ixi_t1-train.tfrecord-{n:05d}-of-00003" for n in range(SHARDS)]
    assert (split.slices, split.size) == (45, (32, 32))
    with pytest.raises(DatasetError, match="the dataset has no calibration split"):
        data.find_shards(folder, "calibration")


@pytest.mark.parametrize("block", [2048, 10])
@pytest.mark.parametrize("cache", [False, True])
def test_no_slice_comes_twice_before_all_have_come_but_the_rest(block, cache, split, monkeypatch):
    """With blocks that hold all slices, and with several and a smaller last one."""
    monkeypatch.setattr(data, "_BLOCK", block)
    seen = epochs(split, range(12), cache=cache)
    assert seen.shape == (12, 42)
    for epoch in seen:
        assert len(set(epoch)) == 42
    # No two epochs alike, nor their rests: each slice is among the left out ones now and then.
    assert len({tuple(epoch) for epoch in seen}) == 12
    left_out = [frozenset(range(45)) - set(epoch) for epoch in seen]
    assert len(set(left_out)) > 8
    counts = collections.Counter(seen.ravel().tolist())
    assert set(counts) == set(range(45)) and min(counts.values()) >= 7


def in_steps(split, numbers, steps, *, batch_size=7, cache=False):
    """Of epochs of so many steps the batches: places of slices in the order of the shards."""
    places = {image: place for place, image in enumerate(written("train"))}
    batches = data.train_batches(
        split, batch_size=batch_size, seed=0, epochs=numbers, steps=steps, cache=cache
    )
    batches = list(batches.as_numpy_iterator())
    assert len(batches) == steps * len(numbers)
    first = numbers[0] * steps * batch_size
    index = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(first, first + len(index)))
    return [[places[image.tobytes()] for image in batch["image"]] for batch in batches]


@pytest.mark.parametrize("steps", [1, 4, 6, 20])
@pytest.mark.parametrize("block", [2048, 10])
@pytest.mark.parametrize("cache", [False, True])
def test_epochs_of_a_number_of_steps_have_each_slice_once_a_pass(
    steps, block, cache, split, monkeypatch
):
    """Epochs shorter than the data, nearly as long, and longer; a batch may hold two passes."""
    monkeypatch.setattr(data, "_BLOCK", block)
    number = -(-3 * 45 // (7 * steps))
    seen = in_steps(split, range(number), steps, cache=cache)
    whole = np.concatenate(seen)[: 3 * 45].reshape(3, 45)
    for each in whole:
        assert sorted(each) == list(range(45))
    assert len({tuple(each) for each in whole}) == 3
    # A run that goes on sees what an undisturbed one would.
    last = in_steps(split, range(number - 1, number), steps, cache=cache)
    assert last == seen[-steps:]


@pytest.mark.parametrize("cache", [False, True])
def test_steps_as_many_as_once_through_the_data_change_nothing(cache, split):
    seen = in_steps(split, range(3), 5, batch_size=9, cache=cache)
    whole = epochs(split, range(3), batch_size=9, cache=cache)
    np.testing.assert_array_equal(np.reshape(seen, (3, 45)), whole)


@pytest.mark.parametrize("cache", [False, True])
def test_the_batch_that_fits_leaves_nothing_out(cache, split):
    for epoch in epochs(split, range(3), batch_size=9, cache=cache):
        assert sorted(epoch) == list(range(45))


@pytest.mark.parametrize("block", [2048, 10])
@pytest.mark.parametrize("cache", [False, True])
def test_a_run_that_goes_on_sees_what_an_undisturbed_one_would(block, cache, split, monkeypatch):
    monkeypatch.setattr(data, "_BLOCK", block)
    whole = epochs(split, range(5), cache=cache)
    np.testing.assert_array_equal(epochs(split, range(3, 5), cache=cache), whole[3:])
    # Of this seed at this epoch, not of their sum.
    other = epochs(split, range(4), seed=1, cache=cache)
    assert len({tuple(epoch) for epoch in (*whole, *other)}) == 9


@pytest.mark.parametrize("cache", [False, True])
def test_the_slices_are_mixed_and_not_only_the_files(cache, split):
    """A slice is as often in the first half of an epoch as in the second, beside any other."""
    seen = epochs(split, range(60), batch_size=9, cache=cache)
    place = np.argsort(seen, axis=1)
    assert np.abs(place.mean(axis=0) - 22).max() < 8
    # In shards one after the other 44 of 44 neighbours would be one apart, or 42.
    together = (np.abs(np.diff(seen, axis=1)) == 1).mean()
    assert together < 0.2
    # Slices of a file are not mixed with one permutation for all files and epochs.
    within = {tuple(epoch[epoch < 15].tolist()) for epoch in seen}
    assert len(within) > 50


def test_several_blocks_of_an_epoch_are_mixed_each_in_its_own_way(split, monkeypatch):
    monkeypatch.setattr(data, "_BLOCK", 15)
    # One file a block, so that the order in a block is that of its file.
    orders = []
    for epoch in epochs(split, range(4), batch_size=9):
        for first in range(0, 45, 15):
            orders.append(tuple(epoch[first : first + 15] % 15))
            assert len(set(epoch[first : first + 15] // 15)) == 1
    assert len(set(orders)) == 12


@pytest.mark.parametrize("cache", [False, True])
def test_other_fields_come_in_the_same_order(cache, split):
    keep = {"batch_size": 7, "seed": 4, "epochs": range(1, 2), "cache": cache}
    images = np.concatenate(
        [b["image"] for b in data.train_batches(split, **keep).as_numpy_iterator()]
    )
    keys = np.concatenate(
        [b["key"] for b in data.train_batches(split, **keep, fields=("key",)).as_numpy_iterator()]
    )
    known = {
        example["image"].tobytes(): f"{example['subject']}/{example['slice_index']:03d}"
        for number in range(901, 910)
        for example in tiny_dataset.slice_examples(f"IXI{number}", CONFIG)
    }
    assert [key.decode() for key in keys] == [known[image.tobytes()] for image in images]


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_evaluation_takes_the_slices_in_their_order_to_the_last(name, folder):
    found = data.evaluation_batches(data.find_shards(folder, name), batch_size=4)
    batches = list(found.as_numpy_iterator())
    number = PEOPLE[name] * 5
    assert [len(batch["image"]) for batch in batches] == [4] * (number // 4) + [number % 4] * (
        number % 4 > 0
    )
    assert {batch["image"].dtype for batch in batches} == {np.dtype(np.uint8)}
    assert [image.tobytes() for batch in batches for image in batch["image"]] == written(name)
    index = np.concatenate([batch["index"] for batch in batches])
    assert index.dtype == np.int64 and index.tolist() == list(range(number))


@pytest.mark.parametrize(("pieces", "workers"), [(1, 1), (2, 1), (2, 2), (4, 2), (8, 2)])
def test_replicas_share_each_batch_without_gap_or_overlap(pieces, workers, folder):
    split = data.find_shards(folder, "validation")
    whole = data.evaluation_batches(split, batch_size=8)
    here, rows = pieces // workers, 8 // pieces
    shares = []
    for worker in range(workers):
        mine = range(worker * here, (worker + 1) * here)
        share = data.share(whole, batch_size=8, pieces=pieces, mine=mine)
        share = list(share.as_numpy_iterator())
        # Two batches, of 8 and of 2 slices: each replica has as many steps as the others.
        assert len(share) == 2 * here
        assert {batch["image"].shape for batch in share} == {(rows, 32, 32, 1)}
        shares.append(share)
    images, index = [], []
    for batch in range(2):
        for share in shares:
            for piece in share[batch * here : (batch + 1) * here]:
                images += [image.tobytes() for image in piece["image"]]
                index += piece["index"].tolist()
    assert index == [*range(10), *[-1] * 6]
    assert images == written("validation") + [bytes(32 * 32)] * 6


def test_what_is_no_split_of_slices_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "ixi_t1/tiny/1.0.0")
    (copy / "ixi_t1-train.tfrecord-00001-of-00003").unlink()
    with pytest.raises(DatasetError, match=r"00001-of-00003: this shard is missing; make the"):
        data.find_shards(copy, "train")
    assert data.find_shards(copy, "test").slices == 5
