"""PSNR, SSIM, MS-SSIM and MAE against scikit-image and TensorFlow's own."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics
import tensorflow as tf

from ixi_tfds.images import metrics

METRICS = (metrics.psnr, metrics.ssim, metrics.ms_ssim, metrics.mae)


def pairs(count, height, width, seed=0):
    """Smooth slices, each with a copy that is blurred and noised, float32 [count, H, W, 1]."""
    rng = np.random.default_rng(seed)
    originals = scipy.ndimage.gaussian_filter(rng.random((count, height, width)), (0, 3, 3))
    originals -= originals.min(axis=(1, 2), keepdims=True)
    originals /= originals.max(axis=(1, 2), keepdims=True)
    noise = rng.normal(scale=np.linspace(0.001, 0.1, count)[:, None, None], size=originals.shape)
    copies = np.clip(scipy.ndimage.gaussian_filter(originals, (0, 1, 1)) + noise, 0, 1)
    return originals[..., None].astype(np.float32), copies[..., None].astype(np.float32)


def skimage_ssim(original, copy):
    _, per_pixel = skimage.metrics.structural_similarity(
        original[..., 0].astype(np.float64),
        copy[..., 0].astype(np.float64),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return per_pixel[5:-5, 5:-5].mean()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (48, 80), (11, 40)])
def test_same_values_as_scikit_image(height, width):
    originals, copies = pairs(6, height, width)
    expected = [skimage_ssim(a, b) for a, b in zip(originals, copies, strict=True)]
    np.testing.assert_allclose(metrics.ssim(originals, copies), expected, atol=1e-4)
    expected = [
        skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1)
        for a, b in zip(originals, copies, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(originals, copies), expected, atol=1e-4)
    expected = [np.abs(a - b).mean() for a, b in zip(originals, copies, strict=True)]
    np.testing.assert_allclose(metrics.mae(originals, copies), expected, atol=1e-6)


def test_same_values_as_tensorflow():
    originals, copies = pairs(8, 128, 96, seed=1)
    expected = tf.image.ssim(originals, copies, max_val=1.0)
    np.testing.assert_allclose(metrics.ssim(originals, copies), expected, atol=1e-5)
    expected = tf.image.psnr(originals, copies, max_val=1.0)
    np.testing.assert_allclose(metrics.psnr(originals, copies), expected, atol=1e-5)


def numpy_ms_ssim(original, copy, weights):
    """By the definition, in double precision, for sides that halve without a rest."""

    def smooth(image):
        return scipy.ndimage.gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    a, b = original[..., 0].astype(np.float64), copy[..., 0].astype(np.float64)
    value = 1.0
    for scale, weight in enumerate(weights, start=1):
        mean_a, mean_b = smooth(a), smooth(b)
        variances = smooth(a * a) + smooth(b * b) - mean_a**2 - mean_b**2
        covariance = smooth(a * b) - mean_a * mean_b
        quality = (2 * covariance + 9e-4) / (variances + 9e-4)
        if scale == len(weights):
            quality *= (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        value *= quality.mean() ** (weight / sum(weights))
        if scale == len(weights):
            return value
        height, width = a.shape
        a, b = (x.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for x in (a, b))


WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@pytest.mark.parametrize(
    ("height", "width", "scales"), [(256, 256, 5), (176, 192, 5), (128, 160, 4), (32, 64, 2)]
)
def test_ms_ssim_is_that_of_its_definition(height, width, scales):
    originals, copies = pairs(4, height, width)
    assert metrics.ms_ssim_scales(height, width) == scales
    expected = [
        numpy_ms_ssim(a, b, WEIGHTS[:scales]) for a, b in zip(originals, copies, strict=True)
    ]
    np.testing.assert_allclose(metrics.ms_ssim(originals, copies), expected, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(181, 181), (90, 101)])
def test_ms_ssim_of_odd_sides_is_that_of_tensorflow(height, width):
    originals, copies = pairs(3, height, width)
    weights = np.array(WEIGHTS[: metrics.ms_ssim_scales(height, width)])
    expected = tf.image.ssim_multiscale(
        originals, copies, 1.0, power_factors=tuple(weights / weights.sum())
    )
    np.testing.assert_allclose(metrics.ms_ssim(originals, copies), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "scales"),
    [
        *((10, 1), (11, 1), (20, 1), (21, 2), (40, 2), (41, 3), (80, 3), (81, 4), (128, 4)),
        *((160, 4), (161, 5), (176, 5), (320, 5), (321, 5), (5000, 5)),
    ],
)
def test_as_many_scales_as_the_shorter_side_allows(side, scales):
    """An odd side is halved and rounded up, and 11 pixels are what the window needs."""
    assert metrics.ms_ssim_scales(side, side) == scales
    assert metrics.ms_ssim_scales(side, 5000) == metrics.ms_ssim_scales(5000, side) == scales


@pytest.mark.parametrize("side", [11, 20])
def test_ms_ssim_of_a_single_scale_is_ssim(side):
    originals, copies = pairs(3, side, side)
    expected = [skimage_ssim(a, b) for a, b in zip(originals, copies, strict=True)]
    np.testing.assert_allclose(metrics.ms_ssim(originals, copies), expected, atol=1e-4)


def test_slices_with_nothing_in_common_have_no_ms_ssim():
    originals, _ = pairs(2, 64, 64)
    np.testing.assert_array_equal(metrics.ms_ssim(originals, 1 - originals), 0)


def test_known_values():
    dark, bright = (
        np.full((2, 16, 16, 1), 0.2, np.float32),
        np.full((2, 16, 16, 1), 0.3, np.float32),
    )
    np.testing.assert_allclose(metrics.psnr(dark, bright), [20, 20], rtol=1e-5)
    np.testing.assert_allclose(metrics.mae(dark, bright), [0.1, 0.1], rtol=1e-5)


def test_ssim_of_plain_slices_worked_out_by_hand():
    """Of the same shade everywhere, slices differ in luminance alone."""
    shades = np.array([[0, 0.1], [0.2, 0.3], [1, 0.9]], np.float32)
    one, other = (np.tile(shade[:, None, None, None], (1, 32, 32, 1)) for shade in shades.T)
    expected = [0.0001 / 0.0101, 0.1201 / 0.1301, 1.8001 / 1.8101]
    np.testing.assert_allclose(metrics.ssim(one, other), expected, rtol=1e-3)
    # Of its two scales the last alone looks at luminance.
    expected = np.power(expected, 0.2856 / (0.0448 + 0.2856))
    np.testing.assert_allclose(metrics.ms_ssim(one, other), expected, rtol=1e-3)


def test_ssim_of_chequered_slices_worked_out_by_hand():
    """Of the same mean everywhere, slices differ in contrast alone; halved, they are the same."""
    signs = np.float32((-1.0) ** np.indices((32, 32)).sum(axis=0))[None, ..., None]
    for own, others in ((0.1, 0.05), (0.02, 0.03), (0.1, 0.1)):
        one, other = 0.5 + own * signs, 0.5 + others * signs
        expected = (2 * own * others + 0.0009) / (own**2 + others**2 + 0.0009)
        np.testing.assert_allclose(metrics.ssim(one, other), expected, rtol=1e-3)
        expected **= 0.0448 / (0.0448 + 0.2856)
        np.testing.assert_allclose(metrics.ms_ssim(one, other), expected, rtol=1e-3)


def test_values_beyond_the_range_are_judged_as_they_are():
    """Nothing is clipped: what a model gives above white or below black counts as far off."""
    black = np.zeros((1, 16, 16, 1), np.float32)
    np.testing.assert_allclose(metrics.psnr(black, black - 0.1), 20, rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr(black, black + 10), -20, rtol=1e-5)
    np.testing.assert_allclose(metrics.mae(black, black - 0.1), 0.1, rtol=1e-5)
    # (2 * 0 * -0.1 + C1) / (0 + 0.01 + C1), and the same factor for white and what is above it.
    np.testing.assert_allclose(metrics.ssim(black, black - 0.1), 0.0001 / 0.0101, rtol=1e-3)
    white = black + 1
    np.testing.assert_allclose(metrics.ssim(white, white + 0.1), 2.2001 / 2.2101, rtol=1e-3)


def test_identical_slices_have_finite_scores():
    originals, _ = pairs(3, 32, 32)
    np.testing.assert_array_equal(metrics.psnr(originals, originals), 100)
    assert metrics.PSNR_CAP == 100
    for metric in (metrics.ssim, metrics.ms_ssim):
        np.testing.assert_allclose(tf.function(metric)(originals, originals), 1, atol=1e-6)
    np.testing.assert_array_equal(metrics.mae(originals, originals), 0)


def test_smallest_difference_of_8_bit_slices_is_below_the_cap():
    """Whatever the level and the place; of more pixels or levels, the more so."""
    originals = np.zeros((5, 256, 256, 1), np.float32)
    originals[1:3] = [[[[100 / 255]]], [[[254 / 255]]]]
    copies = originals.copy()
    for copy, (row, column) in zip(
        copies, ((3, 4), (0, 0), (255, 255), (7, 7), (8, 8)), strict=True
    ):
        copy[row, column] += np.float32(1 / 255)
    copies[3, 128, 128] += np.float32(1 / 255)
    copies[4, 8, 8] += np.float32(1 / 255)
    least = 10 * np.log10(255**2 * 256**2)
    expected = [*[least] * 3, least - 10 * np.log10(2), least - 10 * np.log10(4)]
    np.testing.assert_allclose(metrics.psnr(originals, copies), expected, atol=1e-3)
    assert 96 < least < 97 < metrics.PSNR_CAP


def test_constant_slices_divide_by_nothing():
    """Black, white and grey slices against one another and against noise."""
    levels = np.array([0, 0, 0.5, 1, 1], np.float32)[:, None, None, None]
    flat = np.broadcast_to(levels, (5, 32, 32, 1))
    others = flat[[0, 3, 2, 4, 1]].copy()
    others[2] = np.random.default_rng(0).random((32, 32, 1))
    for metric in METRICS:
        for one, other in ((flat, others), (others, flat)):
            assert np.isfinite(metric(one, other)).all(), metric
    # Of the same shade, and black against white.
    np.testing.assert_allclose(metrics.psnr(flat, others).numpy()[[0, 1, 3, 4]], [100, 0, 100, 0])


def test_what_is_not_finite_is_not_hidden():
    originals, copies = pairs(2, 32, 32)
    copies[1, 5, 5, 0] = np.nan
    for metric in METRICS:
        found = metric(originals, copies)
        np.testing.assert_array_equal(np.isnan(found), [False, True])
        np.testing.assert_allclose(found[0], metric(originals[:1], copies[:1])[0], rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_graph_of_unknown_batch_size_gives_the_eager_values(jit):
    originals, copies = pairs(5, 40, 32)
    spec = tf.TensorSpec((None, 40, 32, 1))
    for metric in METRICS:
        graph = tf.function(metric, input_signature=[spec, spec], jit_compile=jit)
        np.testing.assert_allclose(graph(originals, copies), metric(originals, copies), rtol=1e-5)


def test_slices_do_not_influence_one_another():
    originals, copies = pairs(4, 32, 48)
    for metric in METRICS:
        single = [
            metric(a[None], b[None]).numpy()[0] for a, b in zip(originals, copies, strict=True)
        ]
        np.testing.assert_allclose(metric(originals, copies), single, rtol=1e-6)


def test_slices_smaller_than_the_window_are_refused():
    small = np.zeros((1, 10, 32, 1), np.float32)
    for metric in (metrics.ssim, metrics.ms_ssim):
        with pytest.raises(ValueError, match="at least 11x11, not 10x32"):
            metric(small, small)
