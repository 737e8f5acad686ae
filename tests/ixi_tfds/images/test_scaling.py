"""Scanner values to 8 bits: the rule, the two scalings, padding and cropping."""

import dataclasses
import warnings

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
from volumes import head, image, write_head

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import CONFIGS, THESIS, VOLUME_SCALED, SliceConfig
from ixi_tfds.images.scaling import (
    PERCENTILES,
    crop,
    dequantize,
    percentile_range,
    quantize,
    scale_to_unit,
    to_unit,
)
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import UserError


def examples_of(path, config):
    return [example for _, example in slices_of(Scan("x", "", str(path)), config)]


def stretch(plane):
    """The rule in one line, as imageio 2.8 wrote it."""
    low, high = plane.min(), plane.max()
    return ((plane - low) / (high - low) * 255 + 0.499999999).astype(np.uint8)


def test_rounding_by_hand():
    assert quantize(np.array([0, 1, 2, 509, 510]), 0, 510).tolist() == [0, 0, 1, 254, 255]
    assert quantize(np.array([-5.0, 0.0, 10.0, 99.0]), 0, 10).tolist() == [0, 0, 255, 255]
    # 127.4999 and 127.5 and 127.5001 steps: what lies in the middle goes down.
    assert quantize(np.array([127.4999, 127.5, 127.5001]), 0, 255).tolist() == [127, 127, 128]
    assert quantize(np.array([-100, -60, 100]), -100, 100).tolist() == [0, 51, 255]


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (3, -3)])
def test_an_empty_range_gives_zeros_and_divides_by_nothing(low, high):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = quantize(np.array([[3.0, -7.0, 9.0]]), low, high)
    assert image.dtype == np.uint8
    assert image.tolist() == [[0, 0, 0]]


def test_every_slice_of_a_stack_may_have_a_range_of_its_own():
    values = np.random.default_rng(0).normal(100, 50, (4, 5, 6))
    low, high = np.array([0.0, 50.0, 90.0, 80.0]), np.array([200.0, 120.0, 90.0, 70.0])
    stack = quantize(values, low[:, None, None], high[:, None, None])
    assert stack.dtype == np.uint8 and not stack[2:].any()
    for levels, plane, *limits in zip(stack, values, low, high, strict=True):
        np.testing.assert_array_equal(levels, quantize(plane, *limits))


def in_tensorflow(values, low, high):
    """From float32, as the signatures of exported models take it; a graph gives the same levels."""
    scanner, *limits = (tf.cast(np.float32(v), tf.float64) for v in (values, [[[low]]], [[[high]]]))
    given = scale_to_unit(scanner, *limits).numpy()[0, ..., 0]
    # It divides by 255 by way of its reciprocal.
    in_graph = tf.function(scale_to_unit)(scanner, *limits).numpy()[0, ..., 0]
    np.testing.assert_allclose(in_graph, given, rtol=1.2e-7)
    return given


@pytest.mark.parametrize("extremes", [(0, 4095), (-2048, 2047), (17, 300), (0, 65535), (5, 5)])
def test_whole_numbers_scale_alike_in_numpy_and_tensorflow(extremes):
    """All of them, in ranges that end at, within and beyond them."""
    values = np.arange(extremes[0], extremes[1] + 1)[None, None]
    spread = extremes[1] - extremes[0]
    for low, high in (extremes, (extremes[0] + 3, extremes[1] - spread // 3), (-7, 99999), (9, 2)):
        image = quantize(values[0], low, high)
        np.testing.assert_array_equal(in_tensorflow(values, low, high), to_unit(image))


def test_other_numbers_scale_alike_but_for_ties():
    """Those that float32 cannot tell from the middle of two levels may be one level off."""
    scanner = np.round(np.random.default_rng(1).uniform(0, 900, (1, 200, 200))) * 0.37 + 0.11
    low, high = scanner.min(), scanner.max()
    given, expected = in_tensorflow(scanner, low, high), to_unit(quantize(scanner[0], low, high))
    off = given != expected
    assert 0 < off.mean() < 0.02
    np.testing.assert_allclose(given[off], expected[off], atol=1.001 / 255)


def test_an_array_of_levels_stays_an_array_and_a_tensor_a_tensor():
    levels = np.arange(256, dtype=np.uint8)
    array, tensor = to_unit(levels), to_unit(tf.constant(levels))
    assert isinstance(array, np.ndarray) and isinstance(tensor, tf.Tensor)
    assert array.dtype == np.float32 and tensor.dtype == tf.float32
    np.testing.assert_array_equal(array, levels.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(array, tensor.numpy())


def test_eight_bits_go_back_by_hand():
    image = np.array([[0, 51], [102, 255]], np.uint8)
    back = dequantize(image, -10.0, 500.0)
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, [[-10, 92], [194, 500]], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])
def test_slices_equal_an_independent_computation(tmp_path, dtype):
    voxels = (head() // 8).astype(dtype)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    data = nib.load(path).get_fdata()
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        np.testing.assert_array_equal(example["image"][..., 0], stretch(data[:, :, index]))
        assert (example["low"], example["high"]) == (data[..., index].min(), data[..., index].max())


def write_scaled(path, voxels, slope, inter):
    """A file whose header scales its voxels, in their byte order, as other tools write them."""
    header = nib.Nifti1Header(endianness=">" if voxels.dtype.str[0] == ">" else "<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(image(np.zeros(voxels.shape, np.int16)).affine, code=1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, 352
    header["magic"] = b"n+1"
    path.write_bytes(header.binaryblock + b"\0" * 4 + voxels.tobytes("F"))
    return path


def in_view(data, scaling):
    """Slices 8 to 13 of a 30x32 plane at 37x25, in scanner units; and each one's range."""
    window = data[:, 3:28, 8:14]
    planes = np.pad(window, ((3, 4), (0, 0), (0, 0))).transpose(2, 0, 1)
    if scaling == "slice":
        return planes, [(plane.min(), plane.max()) for plane in planes]
    return planes, [np.percentile(window, [0.5, 99.5], method="inverted_cdf")] * len(planes)


VOXELS = {
    "u1": lambda: head((30, 32, 24)) // 8,
    "i1": lambda: head((30, 32, 24)) // 8 - 100,
    "<i2": lambda: head((30, 32, 24)) - 200,
    ">i2": lambda: head((30, 32, 24)) - 200,
    "u2": lambda: head((30, 32, 24)) + 500,
    # Too many levels for a table.
    "<i4": lambda: (head((30, 32, 24)).astype(int) - 200) * 100_000,
    ">u4": lambda: head((30, 32, 24)).astype(int) * 100_000,
    "<f4": lambda: head((30, 32, 24)) / 7 - 20,
    ">f4": lambda: head((30, 32, 24)) / 7 - 20,
    "<f8": lambda: head((30, 32, 24)) / 7 + 20,
}


@pytest.mark.parametrize(
    ("slope", "inter"),
    [(1, 0), (0.5, -300), (0.25, 1000), (0.01, -5000), (-2, 100), (np.nan, np.nan), (0, 7), (1, 9)],
)
@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_slices_and_their_ranges_are_in_scanner_units(tmp_path, scaling, slope, inter):
    """Slope and intercept count in every voxel, also beside padding, which is 0 in the scanner."""
    config = SliceConfig("mine", in_plane=None, size=(37, 25), window=(8, 14), scaling=scaling)
    for dtype, voxels in VOXELS.items():
        path = write_scaled(tmp_path / "x.nii", voxels().astype(dtype), slope, inter)
        planes, ranges = in_view(nib.load(path).get_fdata(), scaling)
        for plane, (low, high), example in zip(
            planes, ranges, examples_of(path, config), strict=True
        ):
            assert (example["low"], example["high"]) == (low, high), dtype
            share = (np.clip(plane, low, high) - low) / (high - low)
            expected = (share * 255 + 0.499999999).astype(np.uint8)
            np.testing.assert_array_equal(example["image"][..., 0], expected, dtype)


def test_a_negative_slope_turns_dark_to_bright(tmp_path):
    voxels = head().astype(np.int16)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    (plain, *_) = examples_of(write_scaled(tmp_path / "a.nii", voxels, 1, 0), config)
    (turned, *_) = examples_of(write_scaled(tmp_path / "b.nii", voxels, -1, 0), config)
    assert (turned["low"], turned["high"]) == (-plain["high"], -plain["low"])
    darkest, brightest = plain["image"] == 0, plain["image"] == 255
    assert (turned["image"][darkest] == 255).all() and (turned["image"][brightest] == 0).all()


@pytest.mark.parametrize(("shift", "low", "high"), [(50, 0, 74), (-50, -50, 0), (-10, -10, 14)])
def test_the_range_of_a_padded_slice_holds_0_and_that_of_another_need_not(
    tmp_path, shift, low, high
):
    """Voxels from `shift` to `shift` + 24 in every slice."""
    plane = np.resize(np.arange(25), 900).reshape(30, 30)
    voxels = np.repeat(plane[..., None], 4, axis=2).astype(np.int16) + np.int16(shift)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("padded", in_plane=None, size=(40, 37), window=(1, 3))
    for example in examples_of(path, config):
        assert (example["low"], example["high"]) == (low, high)
        padding = np.pad(np.zeros((30, 30), bool), ((5, 5), (3, 4)), constant_values=True)
        zero = int((0 - low) / (high - low) * 255 + 0.499999999)
        assert set(example["image"][padding, 0]) == {zero}
    for example in examples_of(path, dataclasses.replace(config, size=(30, 30))):
        assert (example["low"], example["high"]) == (shift, shift + 24)


def test_padding_beyond_the_robust_range_is_clipped_to_it(tmp_path):
    """Voxels of 100 to 1000: the scanner's 0 is below their range, and black."""
    voxels = np.random.default_rng(0).integers(100, 1000, (30, 30, 4)).astype(np.int16)
    config = SliceConfig("padded", None, size=(40, 30), window=(0, 4), scaling="volume")
    low, high = np.percentile(voxels, [0.5, 99.5], method="inverted_cdf")
    for example in examples_of(write_head(tmp_path, "x", voxels=voxels), config):
        assert (example["low"], example["high"]) == (low, high) and low > 100
        assert not example["image"][:5].any() and not example["image"][35:].any()
    for example in examples_of(write_head(tmp_path, "y", voxels=-voxels), config):
        assert (example["image"][:5] == 255).all() and (example["image"][35:] == 255).all()


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    # An odd row or column is cut at the end.
    [((20, 25), (6, 26), (2, 27)), ((21, 24), (5, 26), (3, 27)), ((40, 29), (0, 32), (0, 29))],
)
def test_percentiles_are_those_of_the_voxels_in_view(tmp_path, size, rows, columns):
    """Neither slices beyond the window nor rows and columns that are cut off count."""
    rng = np.random.default_rng(0)
    voxels = rng.choice([-9000, 9000], (32, 30, 24)).astype(np.int16)
    view = (slice(*rows), slice(*columns), slice(8, 14))
    voxels[view] = rng.integers(-400, 1000, voxels[view].shape)
    volume = read_volume(str(write_head(tmp_path, "x", voxels=voxels)))
    config = SliceConfig("v", None, size=size, window=(8, 14), scaling="volume")
    np.testing.assert_array_equal(crop(volume.voxels, size)[..., 8:14], voxels[view])
    expected = np.percentile(voxels[view], (0.5, 99.5), method="inverted_cdf")
    assert percentile_range(volume, config) == tuple(expected)
    assert PERCENTILES == (0.5, 99.5)


@pytest.mark.parametrize("dtype", [np.int16, np.int8, np.float32, np.int64])
@pytest.mark.parametrize("n", [2, 10, 15])
def test_few_voxels_have_percentiles_that_occur(tmp_path, dtype, n):
    """Of 200 voxels and fewer the range runs from the lowest; of 400 the second lowest is left."""
    voxels = np.random.default_rng(n).permutation(np.arange(4 * n * n) % 120 - 40)
    voxels = voxels.reshape(n, n, 4).astype(dtype) * (1 if dtype != np.int64 else 2**40)
    volume = read_volume(str(write_raw(tmp_path / "x.nii", voxels)))
    config = SliceConfig("v", None, size=(n, n), window=(0, 4), scaling="volume")
    expected = np.percentile(voxels, (0.5, 99.5), method="inverted_cdf")
    assert percentile_range(volume, config) == tuple(expected)


def write_raw(path, voxels):
    return write_scaled(path, voxels, np.nan, np.nan)


def test_huge_integer_ranges_scale_exactly(tmp_path):
    voxels = head().astype(np.int32) * 100_000
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    images = [example["image"][..., 0] for example in examples_of(path, config)]
    np.testing.assert_array_equal(images[0], stretch(voxels[:, :, 8].astype(float)))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_volume_scaling_clips_to_one_percentile_range(tmp_path, dtype):
    voxels = head().astype(dtype)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("v", in_plane=(32, 32), size=(32, 32), window=(8, 14), scaling="volume")
    window = voxels[:, :, 8:14].astype(float)
    low, high = np.percentile(window, [0.5, 99.5], method="inverted_cdf")
    for index, example in enumerate(examples_of(path, config)):
        assert (example["low"], example["high"]) == (low, high)
        share = (np.clip(window[..., index], low, high) - low) / (high - low)
        expected = (share * 255 + 0.499999999).astype(np.uint8)
        np.testing.assert_array_equal(example["image"][..., 0], expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("scaling", ["slice", "volume"])
def test_integers_over_their_full_range(tmp_path, dtype, scaling):
    """The extreme values of a type, as tools write that spread floats over all of it."""
    limits = np.iinfo(dtype)
    share = head().astype(np.float64) / head().max()
    wide = share * (float(limits.max) - float(limits.min)) * 0.999 + float(limits.min)
    voxels = wide.astype(dtype)
    voxels[0, 0, 8:14], voxels[1, 1, 8:14] = limits.min, limits.max
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-4.0, -4, 5, 1])[[2, 0, 1, 3]], dtype=dtype), path)
    stored = read_volume(str(path)).voxels
    config = SliceConfig(
        "wide", in_plane=None, size=stored.shape[:2], window=(8, 14), scaling=scaling
    )
    window = stored[:, :, 8:14].astype(np.float64)
    for index, example in enumerate(examples_of(path, config)):
        plane = window[..., index]
        low, high = plane.min(), plane.max()
        if scaling == "volume":
            low, high = np.percentile(window, [0.5, 99.5], method="inverted_cdf")
        share = (np.clip(plane, low, high) - low) / (high - low)
        expected = (share * 255 + 0.499999999).astype(np.uint8)
        np.testing.assert_array_equal(example["image"][..., 0], expected)


def test_padding_is_symmetric_and_counts_in_the_extrema(tmp_path):
    voxels = head() + np.int16(50)
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("padded", in_plane=(32, 32), size=(37, 40), window=(8, 14))
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        plane = np.pad(voxels[:, :, index].astype(float), ((2, 3), (4, 4)))
        np.testing.assert_array_equal(example["image"][..., 0], stretch(plane))
        assert example["low"] == 0


def test_cropping_keeps_the_middle(tmp_path):
    path = write_head(tmp_path, "x")
    config = SliceConfig("cropped", in_plane=None, size=(20, 25), window=(8, 14))
    data = nib.load(path).get_fdata()[6:26, 3:28]
    for index, example in zip(range(8, 14), examples_of(path, config), strict=True):
        np.testing.assert_array_equal(example["image"][..., 0], stretch(data[:, :, index]))


def test_a_constant_slice_in_a_good_volume_is_black(tmp_path):
    voxels = head()
    voxels[:, :, 9] = 5
    path = write_head(tmp_path, "x", voxels=voxels)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a division by zero among them
        before, example, after, *_ = examples_of(path, config)
    assert not example["image"].any()
    assert example["low"] == example["high"] == 5
    assert before["image"].max() == after["image"].max() == 255


def test_a_constant_slice_is_black_beside_padding_too(tmp_path):
    """Its voxels are not the padding's 0, so there they are the brightest."""
    voxels = head()
    voxels[:, :, 9] = 5
    config = SliceConfig("small", None, size=(34, 32), window=(8, 14))
    example = examples_of(write_head(tmp_path, "x", voxels=voxels), config)[1]
    assert (example["low"], example["high"]) == (0, 5)
    assert (example["image"][1:33] == 255).all()
    assert not example["image"][0].any() and not example["image"][33].any()


def test_eight_bits_go_back_to_within_half_a_step():
    values = np.linspace(-20, 1300, 1001)
    back = dequantize(quantize(values, -20, 1300), -20, 1300)
    assert np.abs(back - values).max() <= 1320 / 255 / 2 * (1 + 1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Not Good"},
        {"name": ""},
        {"name": "1st"},
        {"name": "a-b"},
        {"name": "x", "window": (5, 5)},
        {"name": "x", "window": (6, 5)},
        {"name": "x", "window": (-1, 5)},
        {"name": "x", "size": (0, 5)},
        {"name": "x", "size": (5, 0)},
        {"name": "x", "size": (5, 4097)},
        {"name": "x", "in_plane": (0, 5)},
        {"name": "x", "in_plane": (4097, 5)},
        {"name": "x", "scaling": "log"},
    ],
)
def test_impossible_configs_are_refused(arguments):
    with pytest.raises(UserError):
        SliceConfig(**arguments)


def test_the_smallest_and_the_largest_configs_are_possible():
    tiny = SliceConfig("a", in_plane=(1, 1), size=(1, 1), window=(0, 1))
    assert tiny.slices_per_volume == 1
    SliceConfig("a_1", in_plane=(4096, 4096), size=(4096, 4096), window=(0, 1))


def test_the_published_configs_are_those_of_the_thesis():
    assert SliceConfig("thesis", (256, 256), (256, 256), (50, 110), "slice") == THESIS
    assert (
        SliceConfig("volume_scaled", (256, 256), (256, 256), (50, 110), "volume") == VOLUME_SCALED
    )
    others = {name: config for name, config in CONFIGS.items() if config.scaling != "tissue"}
    assert others == {"thesis": THESIS, "volume_scaled": VOLUME_SCALED}
    assert THESIS.slices_per_volume == 60
    assert THESIS.description == (
        "slices [50, 110) of 256x256, stored as 256x256, 8 bits, each slice stretched to its own "
        "extrema"
    )
