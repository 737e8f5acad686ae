import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from ixi_tfds import corruptions


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 16, 24, 1), dtype=np.float32)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7])
def test_blur_is_that_of_scipy(images, sigma):
    radius = int(np.ceil(3 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        images.astype(np.float64),
        (0, sigma, sigma, 0),
        mode="mirror",
        radius=(0, radius, radius, 0),
    )
    np.testing.assert_allclose(corruptions.gaussian_blur(images, sigma), expected, atol=1e-6)


def test_patches_are_black_where_told_and_nowhere_else(images):
    centers = np.float32([[[3, 5], [10, 20]], [[0, 0], [15, 23]], [[8, 8], [8, 8]]])
    sizes = np.float32([[4, 6], [4, 4], [0, 0]])
    expected = images.copy()
    expected[0, 1:5, 3:7] = 0
    expected[0, 7:13, 17:23] = 0
    expected[1, 0:2, 0:2] = 0
    expected[1, 13:16, 21:24] = 0
    np.testing.assert_array_equal(corruptions.zero_patches(images, centers, sizes), expected)


def test_dropout_at_half_resolution_makes_blocks_of_two_by_two(images):
    keep = np.ones((3, 8, 12), bool)
    keep[1, 2, 3] = False
    expected = images.copy()
    expected[1, 4:6, 6:8] = 0
    np.testing.assert_array_equal(corruptions.pixel_dropout(images, tf.constant(keep)), expected)


def test_dropout_at_full_resolution_takes_single_pixels(images):
    keep = np.random.default_rng(1).random(images.shape[:3]) < 0.9
    dropped = corruptions.pixel_dropout(images, tf.constant(keep))
    np.testing.assert_array_equal(dropped, images * keep[..., None])


def test_dropout_in_blocks_that_are_not_square(images):
    keep = np.random.default_rng(4).random((3, 4, 12)) < 0.7
    expected = images * np.kron(keep, np.ones((4, 2)))[..., None].astype(np.float32)
    np.testing.assert_array_equal(corruptions.pixel_dropout(images, tf.constant(keep)), expected)


def test_all_channels_lose_the_same_pixels(images):
    colours = np.concatenate([images, images / 2, images / 4], axis=-1)
    keep = tf.constant(np.random.default_rng(5).random((3, 8, 12)) < 0.7)
    centers, sizes = np.float32([[[3, 5]], [[9, 2]], [[15, 23]]]), np.float32([[4], [3], [5]])
    dropped = corruptions.pixel_dropout(colours, keep)
    patched = corruptions.zero_patches(colours, centers, sizes)
    for channel in range(3):
        one = colours[..., channel : channel + 1]
        np.testing.assert_array_equal(
            dropped[..., channel : channel + 1], corruptions.pixel_dropout(one, keep)
        )
        np.testing.assert_array_equal(
            patched[..., channel : channel + 1], corruptions.zero_patches(one, centers, sizes)
        )


def test_noise_is_added_to_the_slice(images):
    noise = np.random.default_rng(6).normal(0, 0.3, (2, *images.shape)).astype(np.float32)
    np.testing.assert_allclose(
        corruptions.gaussian_noise(images, noise[0]), np.clip(images + noise[0], 0, 1), atol=1e-6
    )
    magnitude = np.abs(images + noise[0] + 1j * noise[1])
    np.testing.assert_allclose(
        corruptions.rician_noise(images, noise[0], noise[1]), magnitude.clip(0, 1), atol=1e-6
    )


def test_noise_stays_in_range_and_rician_noise_brightens_black():
    noise = np.random.default_rng(2).normal(0, 0.2, (2, 2, 40, 40, 1)).astype(np.float32)
    black = np.zeros((2, 40, 40, 1), np.float32)
    gaussian = corruptions.gaussian_noise(black, noise[0]).numpy()
    np.testing.assert_array_equal(gaussian, np.clip(noise[0], 0, 1))
    rician = corruptions.rician_noise(black, noise[0], noise[1]).numpy()
    assert rician.max() <= 1
    # The magnitude of noise alone is Rayleigh distributed.
    assert rician.mean() == pytest.approx(0.2 * np.sqrt(np.pi / 2), rel=0.05)


def test_all_compile_under_xla_and_give_the_same(images):
    keep = tf.constant(np.random.default_rng(3).random((3, 8, 12)) < 0.8)
    centers, sizes = tf.fill((3, 2, 2), 7.0), tf.fill((3, 2), 5.0)

    def corrupt(values):
        values = corruptions.gaussian_blur(values, 1.0)
        values = corruptions.zero_patches(values, centers, sizes)
        values = corruptions.pixel_dropout(values, keep)
        values = corruptions.gaussian_noise(values, 0.1 * values)
        return corruptions.rician_noise(values, 0.1 * values, 0.1 * values)

    compiled = tf.function(corrupt, jit_compile=True)(tf.constant(images))
    np.testing.assert_allclose(compiled, corrupt(tf.constant(images)), atol=1e-5)
