"""What tasks make of slices of brains, and how far results are from what they should be."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import tensorflow as tf
import tiny_brains

from ixi_tfds.images.tissue import HIGHEST
from trainer import augmentation, data, tasks
from trainer.autoencoder import Autoencoder
from trainer.models import networks

BATCH = 30
PLACE = tasks.Place(2.0, "sagittal")
HARMFUL = ["denoise", "repair"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tiny_brains.write_tiny_brains(tmp_path_factory.mktemp("brains"))
    return data.find_shards(root / "ixi_t1/small/1.0.0", "train")


@pytest.fixture(scope="module")
def stored(shards):
    """All slices to train on, as they are stored."""
    batches = data.evaluation_batches(shards, batch_size=BATCH, fields=("image", "mask"))
    (batch,) = batches.as_numpy_iterator()
    return batch


def example(name, batch, rows=None, *, block=0, seed=3, vary=False, place=PLACE):
    """What a task makes of rows of a global batch, as a replica that holds them."""
    rows = np.arange(BATCH) if rows is None else rows
    uniform = augmentation.uniform_of_rows(
        tf.constant(block * BATCH + rows, tf.int64), seed=seed, batch_size=BATCH
    )
    clean = tf.constant(batch["image"][rows] / np.float32(255))
    masks = tf.constant(batch["mask"][rows].astype(np.float32))
    return tasks.make_example(tasks.TASKS[name], clean, masks, uniform, place, vary=vary)


def arrays(made):
    return made.inputs.numpy(), made.clean.numpy(), made.masks.numpy(), made.marks.numpy()


@pytest.mark.parametrize("name", HARMFUL)
def test_clean_slices_are_those_that_are_stored_and_only_the_brain_is_damaged(name, stored):
    inputs, clean, masks, marks = arrays(example(name, stored))
    assert inputs.shape == clean.shape == masks.shape == marks.shape == stored["image"].shape
    np.testing.assert_array_equal(clean, stored["image"] / np.float32(255))
    np.testing.assert_array_equal(masks, stored["mask"])
    for values in (inputs, marks):
        assert not values[masks == 0].any()
    assert np.isfinite(inputs).all() and (inputs != clean).any()


@pytest.mark.parametrize("name", HARMFUL)
def test_in_training_slices_also_vary_in_contrast_and_the_result_has_to_follow(name, stored):
    inputs, clean, masks, marks = arrays(example(name, stored, vary=True))
    brain = masks == 1
    before = stored["image"] / np.float32(255)
    assert not clean[~brain].any() and not inputs[~brain].any() and not marks[~brain].any()
    assert clean.min() >= 0 and clean.max() <= 1
    ratios = np.divide(clean, before, where=brain & (before > 0), out=np.ones_like(clean))
    for ratio, inside in zip(ratios, brain, strict=True):
        if inside.sum() > 50:
            assert 0.6 < np.median(ratio[inside]) < 1.5
            assert np.abs(ratio[inside] - 1).mean() > 0.01
    # Pixel noise is on the inputs alone: most slices differ by it where nothing was damaged.
    if name == "repair":
        undamaged = brain & (marks == 0)
        difference = np.where(undamaged, (inputs - clean) * 1.6, 0)
        sigmas = np.sqrt((difference**2).sum((1, 2, 3)) / undamaged.sum((1, 2, 3)))
        assert sigmas.max() < 0.05 and np.median(sigmas) > 0.005


@pytest.mark.parametrize(("side", "pixels"), [(5.0, 3), (2.0, 8), (1.0, 16), (40.0, 1)])
def test_coarse_noise_is_bilinear_between_points_16_mm_apart(side, pixels, stored):
    """By hand, with the same random numbers."""
    height, width = tiny_brains.SIZE
    given = {}

    def uniform(name, *sides):
        rng = np.random.default_rng(len(given))
        given[name] = rng.uniform(0.001, 0.999, sides).astype(np.float32)
        return tf.constant(given[name])

    masks = np.ones((4, height, width, 1), np.float32)
    clean = np.full_like(masks, 0.5)
    made = tasks.make_example(
        tasks.TASKS["denoise"], tf.constant(clean), tf.constant(masks), uniform,
        tasks.Place(side, "sagittal"), vary=False,
    )  # fmt: skip
    coarse = scipy.special.ndtri(given["coarse_noise"].astype(float))[..., 0]
    offset = [int(given[f"coarse_{axis}"] * pixels) for axis in ("rows", "columns")]
    rows, columns = (
        (np.arange(n) + start + 0.5) / pixels - 0.5
        for n, start in zip((height, width), offset, strict=True)
    )
    for number in range(4):
        places = np.meshgrid(rows, columns, indexing="ij")
        noise = scipy.ndimage.map_coordinates(coarse[number], places, order=1, mode="nearest")
        found = (made.inputs.numpy() - clean)[number, ..., 0] * 1.6
        np.testing.assert_allclose(found, 0.2 * noise, atol=1e-4)


def test_damage_is_marked_where_the_slice_changed_and_nowhere_else(stored):
    damaged = unchanged = too_sure = marked = 0
    for seed in range(8):
        inputs, clean, masks, marks = arrays(example("repair", stored, seed=seed))
        assert inputs.min() >= 0 and inputs.max() <= 1
        assert marks.min() >= 0 and marks.max() <= 1
        changed = np.abs(inputs - clean) > 1e-6
        assert (marks[changed] > 0).all()
        # Where blobs overlap, the second can bring back what the first has changed.
        marked += (marks > 0).sum()
        unchanged += (~changed & (marks > 0)).sum()
        # A change of 0.06 where white matter is at 0.8 is marked fully, a smaller one in part.
        too_sure += (marks > np.abs(inputs - clean) * HIGHEST / 0.06 + 1e-3).sum()
        damaged += (marks.max((1, 2, 3)) > 0)[masks.max((1, 2, 3)) > 0].sum()
    assert unchanged < 0.03 * marked
    assert too_sure < 0.1 * marked
    brains = 8 * (stored["mask"].max((1, 2, 3)) > 0).sum()
    # Four in five slices, less those whose damage changed nothing.
    assert 0.65 < damaged / brains <= 0.87


@pytest.mark.parametrize("vary", [False, True])
@pytest.mark.parametrize("name", HARMFUL)
def test_damage_does_not_depend_on_which_replica_holds_a_row(name, vary, stored):
    whole = arrays(example(name, stored, vary=vary))
    for rows in (np.arange(15), np.arange(15, 30), np.arange(20, 30), np.array([7])):
        for ours, theirs in zip(arrays(example(name, stored, rows, vary=vary)), whole, strict=True):
            np.testing.assert_allclose(ours, theirs[rows], atol=1e-5)
    for other in ({"block": 1}, {"seed": 4}):
        again = arrays(example(name, stored, vary=vary, **other))
        assert np.abs(again[0] - whole[0]).max() > 0.05


def test_random_numbers_of_a_share_are_those_of_its_rows_in_the_whole_batch():
    def drawn(index, *sides):
        uniform = augmentation.uniform_of_rows(tf.constant(index), seed=1, batch_size=8)
        return uniform("a", len(index), *sides).numpy()

    whole = drawn(np.arange(16, 24), 3, 2)
    assert whole.shape == (8, 3, 2) and len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(drawn(np.arange(20, 24), 3, 2), whole[4:])
    np.testing.assert_array_equal(drawn(np.array([23, 17]), 3, 2), whole[[7, 1]])
    assert not (drawn(np.arange(24, 32), 3, 2) == whole).any()


def by_hand(name, made, result):
    """The losses of each image in double precision."""
    _, clean, masks, marks = (values.astype(np.float64) for values in arrays(made))
    found = []
    for number, mask in enumerate(masks[..., 0] == 1):
        truth, each, mark = (
            clean[number, ..., 0],
            result[number].astype(float),
            marks[number, ..., 0],
        )
        if not mask.any():
            found.append(0.0)
            continue
        error = 1.6 * (each[..., 0] - truth)[mask]
        if name == "denoise":
            found.append(np.mean(error**2))
            continue
        share = scipy.special.expit(each[..., 1])
        entropy = -(mark * np.log(share) + (1 - mark) * np.log1p(-share))[mask]
        shared, both = (share * mark)[mask].sum(), share[mask].sum() + mark.sum()
        dice = 1 - (2 * shared + 1) / (both + 1)
        found.append(
            10 * np.mean(error**2) + np.mean(np.abs(error)) + np.mean(entropy) + 0.2 * dice
        )
    return np.array(found)


@pytest.mark.parametrize("name", HARMFUL)
def test_losses_are_those_of_the_brain_alone(name, stored):
    batch = {key: values.copy() for key, values in stored.items()}
    batch["mask"][3] = batch["image"][3] = 0  # A slice beside the brain.
    made = example(name, batch, vary=True)
    rng = np.random.default_rng(0)
    channels = 1 + (name == "repair")
    result = rng.normal(0.5, 0.5, (*made.clean.shape[:3], channels)).astype(np.float32)
    losses = tasks.TASKS[name].losses(made, tf.constant(result)).numpy()
    expected = by_hand(name, made, result)
    assert losses.shape == (BATCH,)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)
    # What a result is outside of the brain does not matter.
    outside = np.where(batch["mask"] == 0, 7, result).astype(np.float32)
    again = tasks.TASKS[name].losses(made, tf.constant(outside)).numpy()
    np.testing.assert_allclose(again, losses, rtol=1e-5)


def test_three_equal_channels_have_the_loss_of_one(stored):
    for name, logits in (("denoise", 0), ("repair", 1)):
        made = example(name, stored)
        result = tf.random.stateless_uniform((*made.clean.shape[:3], 1 + logits), (1, 2))
        three = tf.concat([tf.repeat(result[..., :1], 3, axis=-1), result[..., 1:]], axis=-1)
        ours, theirs = (tasks.TASKS[name].losses(made, each) for each in (three, result))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("name", HARMFUL)
def test_xla_compiles_damage_and_losses_and_gives_the_same(name, stored):
    def step(image, masks, index):
        uniform = augmentation.uniform_of_rows(index, seed=3, batch_size=BATCH)
        made = tasks.make_example(tasks.TASKS[name], image, masks, uniform, PLACE, vary=True)
        logits = made.inputs - 0.5
        result = tf.concat([made.inputs, logits], -1) if name == "repair" else made.inputs
        return made.inputs, made.clean, made.marks, tasks.TASKS[name].losses(made, result)

    given = (
        tf.constant(stored["image"] / np.float32(255)),
        tf.constant(stored["mask"].astype(np.float32)),
        tf.range(BATCH, dtype=tf.int64),
    )
    compiled, plain = tf.function(step, jit_compile=True)(*given), step(*given)
    for ours, theirs in zip(compiled[:3], plain[:3], strict=True):
        # Rounding may move the edge of a blob by a pixel.
        assert (np.abs(ours - theirs) > 1e-3).mean() < 0.01
    np.testing.assert_allclose(compiled[3], plain[3], rtol=0.02)


def a_model(name, batch_size=4, seed=3):
    model = Autoencoder(
        networks.UNet(filters=(8, 16), marks=tasks.TASKS[name].marks),
        None, batch_size=batch_size, seed=seed, augment=None,
        task=tasks.TASKS[name], place=PLACE,
    )  # fmt: skip
    model.compile("adam")
    return model


def dealt(stored, rows, batch, fill=0):
    """Batches of rows, with black rows that count nothing at the end."""
    given = {name: np.concatenate([stored[name][rows], np.zeros((fill, *stored[name].shape[1:]),
             np.uint8)]) for name in ("image", "mask")}  # fmt: skip
    index = np.concatenate([np.arange(len(rows)), np.full(fill, -1)])
    return tf.data.Dataset.from_tensor_slices(given | {"index": index}).batch(batch)


@pytest.mark.parametrize("name", HARMFUL)
def test_validation_has_the_same_damage_each_time_and_rows_that_fill_up_count_nothing(name, stored):
    model = a_model(name)
    rows = np.arange(6)
    reports = [
        model.evaluate(dealt(stored, rows, 4, fill), verbose=0, return_dict=True)
        for fill in (0, 0, 2)
    ]
    assert reports[0] == reports[1]
    assert reports[2] == pytest.approx(reports[0], rel=1e-5)
    # An untrained U-Net returns what it gets, so the loss is that of the damage itself.
    losses = np.concatenate([example_of_model(stored, name, start) for start in (0, 4)])
    assert reports[0]["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert set(reports[0]) == {"loss", "psnr", "ssim"}


def example_of_model(stored, name, start):
    """Losses of an untrained U-Net on a validation batch of four, of which two in the second."""
    rows = np.arange(start, min(start + 4, 6))
    uniform = augmentation.uniform_of_rows(tf.constant(rows, tf.int64), seed=3 + 1, batch_size=4)
    made = tasks.make_example(
        tasks.TASKS[name],
        tf.constant(stored["image"][rows] / np.float32(255)),
        tf.constant(stored["mask"][rows].astype(np.float32)),
        uniform,
        PLACE,
        vary=False,
    )
    result = made.inputs.numpy()
    if name == "repair":
        result = np.concatenate([result, np.zeros_like(result)], axis=-1)
    return by_hand(name, made, result)
