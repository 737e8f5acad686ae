"""The corruptions of training inputs, number by number."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import tensorflow as tf

from ixi_tfds.system import flags
from ixi_tfds.system.errors import UserError
from trainer import augmentation

NOISY = augmentation.AugmentationConfig(
    fraction=0.5,
    blur_fraction=0.4,
    blur_sigmas=(0.5, 1.5),
    cutout_patches=3,
    cutout_size=0.3,
    dropout_range=(0.1, 0.4),
    gaussian_noise=0.1,
    rician_noise=0.05,
)
SHAPE = (24, 16, 20)


def test_what_the_thesis_did_is_the_default():
    defaults = augmentation.AugmentationConfig()
    assert dataclasses.asdict(defaults) == {
        "fraction": 1.0,
        "blur_fraction": 0.5,
        "blur_sigmas": (0.5, 1.0, 1.5),
        "max_further": 2,
        "cutout_patches": 2,
        "cutout_size": 0.2,
        "dropout_range": (0.0, 0.05),
        "gaussian_noise": 0.0,
        "rician_noise": 0.0,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        defaults.fraction = 0.5


@pytest.mark.parametrize("name", ["augment_fraction", "gaussian_noise", "rician_noise"])
def test_flags_are_shares_or_strengths(name):
    for value in (0, 0.5, 1):
        config = flags.from_flags(augmentation.AugmentationConfig, {name: value})
        flags.check(config)
        assert flags.as_flags(config)[name] == value
    for value in (-0.01, 1.01):
        with pytest.raises(UserError, match=f"--{name}={value}: must be between 0 and 1"):
            flags.check(flags.from_flags(augmentation.AugmentationConfig, {name: value}))


def draws(seed, number, *shape):
    """Uniform numbers in (0, 1) as the module's docstrings have them, in double precision."""
    seeds = tf.random.experimental.stateless_split(seed, 11, alg="philox")
    bits = tf.random.stateless_uniform(shape, seeds[number], None, None, tf.uint32, alg="philox")
    return ((bits.numpy() >> 9).astype(np.float64) + 0.5) / 2**23


def reference_sample(config, seed, shape):
    """The parameters, each from the draw of its own number."""
    batch, height, width = shape
    count = np.floor(draws(seed, 0, batch) * (config.max_further + 1))
    first = draws(seed, 1, batch) < 0.5
    cutout = (count == 2) | ((count == 1) & first)
    dropout = (count == 2) | ((count == 1) & ~first)
    low, high = config.dropout_range
    share = dropout * (low + (high - low) * draws(seed, 2, batch))
    side = round(config.cutout_size * height)
    parameters = {
        "sigma": np.floor(draws(seed, 3) * len(config.blur_sigmas)),
        "blurred": draws(seed, 4, batch) < config.blur_fraction,
        "centers": draws(seed, 5, batch, config.cutout_patches, 2) * [height, width],
        "sizes": np.repeat(cutout[:, None] * float(side), config.cutout_patches, axis=1),
        "keep": draws(seed, 6, batch, height // 2, width // 2) >= share[:, None, None],
    }
    for number, name in ((7, "noise"), (8, "real"), (9, "imaginary")):
        deviation = config.gaussian_noise if name == "noise" else config.rician_noise
        if deviation:
            uniform = draws(seed, number, batch, height, width, 1)
            parameters[name] = deviation * scipy.special.ndtri(uniform)
    if config.fraction < 1:
        parameters["corrupted"] = draws(seed, 10, batch) < config.fraction
    return parameters


@pytest.mark.parametrize(
    "config",
    [augmentation.AugmentationConfig(), NOISY, dataclasses.replace(NOISY, gaussian_noise=0.0)],
)
@pytest.mark.parametrize("block", [0, 1, 5])
def test_each_parameter_is_a_function_of_its_own_draw(config, block):
    seed = tf.constant([3, block], tf.int64)
    sampled = augmentation.sample(config, seed=seed, shape=SHAPE)
    expected = reference_sample(config, seed, SHAPE)
    assert sampled.keys() == expected.keys()
    for name, value in expected.items():
        assert sampled[name].shape == np.shape(value), name
        np.testing.assert_allclose(sampled[name], value, rtol=2e-5, atol=2e-5, err_msg=name)
    assert sampled["sigma"].dtype == tf.int32 and sampled["keep"].dtype == tf.bool


def test_what_is_drawn_is_spread_as_the_config_says():
    """The draws themselves, whose generator and seeds the test above takes for granted."""
    joined = {}
    for block in range(50):
        parameters = augmentation.sample(NOISY, seed=tf.constant([1, block], tf.int64), shape=SHAPE)
        for name, value in parameters.items():
            joined.setdefault(name, []).append(value.numpy())
    joined = {name: np.stack(values) for name, values in joined.items()}
    assert joined["sigma"].mean() == pytest.approx(0.5, abs=0.25)
    assert joined["blurred"].mean() == pytest.approx(0.4, abs=0.04)
    assert joined["corrupted"].mean() == pytest.approx(0.5, abs=0.04)
    for axis, side in enumerate((16, 20)):
        centers = joined["centers"][..., axis]
        assert centers.min() > 0 and centers.max() < side
        assert centers.mean() == pytest.approx(side / 2, rel=0.03)
    assert set(np.unique(joined["sizes"])) == {0, 5}
    for name, deviation in (("noise", 0.1), ("real", 0.05), ("imaginary", 0.05)):
        assert joined[name].std() == pytest.approx(deviation, rel=0.01)
        assert abs(joined[name].mean()) < 0.01 * deviation
    assert abs(np.corrcoef(joined["real"].ravel(), joined["imaginary"].ravel())[0, 1]) < 0.01
    # A half of the images loses 10% to 40%, the others nothing.
    lost = 1 - joined["keep"].mean(axis=(-2, -1)).ravel()
    hit = lost[lost > 0]
    assert len(hit) / len(lost) == pytest.approx(0.5, abs=0.03)
    assert hit.mean() == pytest.approx(0.25, abs=0.01)
    # Each image of a batch has parameters of its own, and so has each batch.
    assert len(np.unique(joined["centers"].reshape(-1, 6), axis=0)) == 1200


def test_no_more_happens_to_an_image_than_allowed():
    config = augmentation.AugmentationConfig(max_further=1, dropout_range=(0.9, 0.9))
    sampled = augmentation.sample(config, seed=tf.constant([0, 0], tf.int64), shape=(400, 8, 8))
    cutout = sampled["sizes"].numpy().max(axis=1) > 0
    dropout = ~sampled["keep"].numpy().all(axis=(1, 2))
    assert not (cutout & dropout).any()
    assert cutout.mean() == pytest.approx(0.25, abs=0.06)
    assert dropout.mean() == pytest.approx(0.25, abs=0.06)


def reference_apply(images, parameters, config):
    """Image by image, in double precision."""
    out = []
    for row, clean in enumerate(images[..., 0].astype(np.float64)):
        image = clean
        if parameters["blurred"][row]:
            sigma = config.blur_sigmas[int(parameters["sigma"])]
            radius = int(np.ceil(3 * sigma))
            image = scipy.ndimage.gaussian_filter(clean, sigma, mode="mirror", radius=radius)
        positions = np.indices(image.shape)
        for center, size in zip(parameters["centers"][row], parameters["sizes"][row], strict=True):
            first = (center - size / 2)[:, None, None]
            covered = ((positions >= first) & (positions < first + size)).all(axis=0)
            image = np.where(covered, 0, image)
        image = image * np.kron(parameters["keep"][row], np.ones((2, 2)))
        if "noise" in parameters:
            image = np.clip(image + parameters["noise"][row, ..., 0], 0, 1)
        if "real" in parameters:
            real, imaginary = (parameters[name][row, ..., 0] for name in ("real", "imaginary"))
            image = np.clip(np.hypot(image + real, imaginary), 0, 1)
        if "corrupted" in parameters and not parameters["corrupted"][row]:
            image = clean
        out.append(image)
    return np.array(out)[..., None]


@pytest.fixture
def images():
    return np.random.default_rng(0).random((*SHAPE, 1), dtype=np.float32)


@pytest.mark.parametrize("block", range(3))
@pytest.mark.parametrize(
    "config",
    [
        augmentation.AugmentationConfig(),
        NOISY,
        dataclasses.replace(NOISY, gaussian_noise=0.0, fraction=1.0),
        dataclasses.replace(NOISY, rician_noise=0.0),
    ],
)
def test_the_corruptions_are_those_of_the_parameters(config, block, images):
    parameters = augmentation.sample(config, seed=tf.constant([2, block], tf.int64), shape=SHAPE)
    expected = reference_apply(
        images, {name: value.numpy() for name, value in parameters.items()}, config
    )
    corrupted = augmentation.apply(images, parameters, config).numpy()
    np.testing.assert_allclose(corrupted, expected, atol=1e-5)
    assert (np.abs(corrupted - images).max(axis=(1, 2, 3)) > 0.01).sum() > 4


@pytest.mark.parametrize("off", [{"blur_sigmas": ()}, {"blur_fraction": 0.0}])
def test_without_a_blur_nothing_is_blurred(off, images):
    config = augmentation.AugmentationConfig(**off, max_further=0)
    parameters = augmentation.sample(config, seed=tf.constant([2, 0], tf.int64), shape=SHAPE)
    np.testing.assert_array_equal(augmentation.apply(images, parameters, config), images)


@pytest.mark.parametrize("config", [augmentation.AugmentationConfig(), NOISY])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_row_gets_the_parameters_of_its_place_in_its_batch(config, block, images):
    """Seed and number of the batch decide, and the row in it."""
    parameters = augmentation.sample(config, seed=tf.constant([5, block], tf.int64), shape=SHAPE)
    expected = augmentation.apply(images, parameters, config).numpy()
    keep = {"config": config, "batch_size": SHAPE[0]}
    index = np.arange(SHAPE[0], dtype=np.int64) + SHAPE[0] * block
    # Of a replica, in any order.
    for rows in (slice(0, 24), slice(0, 8), slice(16, 24), slice(23, 3, -2)):
        mine = augmentation.augment(images[rows], tf.constant(index[rows]), seed=5, **keep)
        np.testing.assert_array_equal(mine, expected[rows])
    other = augmentation.augment(images, tf.constant(index), seed=6, **keep).numpy()
    assert np.abs(other - expected).max() > 0.1


def test_rows_that_fill_a_batch_up_change_nothing_for_the_others(images):
    """The last batch of validation has fewer slices; what fills it up has the index -1."""
    config = augmentation.AugmentationConfig(gaussian_noise=0.1)
    keep = {"config": config, "batch_size": SHAPE[0], "seed": 1}
    index = np.arange(48, 48 + SHAPE[0], dtype=np.int64)
    whole = augmentation.augment(images, tf.constant(index), **keep).numpy()
    index[10:] = -1
    filled = augmentation.augment(images, tf.constant(index), **keep).numpy()
    np.testing.assert_array_equal(filled[:10], whole[:10])
