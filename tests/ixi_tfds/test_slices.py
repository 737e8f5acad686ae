"""A slice example: what is in it, what it is called, and that it comes back from disk as it was."""

import dataclasses
import json
import math

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from volumes import head, write_head

from ixi_tfds import features
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError

CONFIG = SliceConfig("small", in_plane=(32, 30), size=(32, 30), window=(8, 14))


@pytest.fixture
def scan(tmp_path):
    path = write_head(tmp_path, "x", shape=(32, 30, 24))
    return Scan("IXI002", "Guys", str(path), "female", "chinese", 35.8)


def test_an_example_says_whose_it_is_and_which_slice_of_the_volume(scan):
    data = nib.load(scan.path).get_fdata()
    found = list(slices_of(scan, CONFIG))
    assert [key for key, _ in found] == [f"IXI002/0{index:02d}" for index in range(8, 14)]
    for index, (_, example) in enumerate(found, start=8):
        image = example.pop("image")
        assert image.shape == (32, 30, 1) and image.dtype == np.uint8
        assert image[..., 0].argmax() == data[..., index].argmax()
        assert example == {
            "subject": "IXI002",
            "site": "Guys",
            "slice_index": index,
            "sex": "female",
            "ethnicity": "chinese",
            "age": 35.8,
            "low": data[..., index].min(),
            "high": data[..., index].max(),
        }


def test_scaling_read_from_a_manifest_is_the_same_scaling(scan):
    """Text that was parsed equals the constant but is another object."""
    for scaling in ("slice", "volume"):
        config = dataclasses.replace(CONFIG, scaling=scaling)
        parsed = SliceConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
        parsed = dataclasses.replace(
            parsed, in_plane=tuple(parsed.in_plane), size=tuple(parsed.size)
        )
        ranges = [(e["low"], e["high"]) for _, e in slices_of(scan, parsed)]
        assert (len(set(ranges)) == 1) == (scaling == "volume")


def test_a_volume_that_was_read_is_not_read_again(scan):
    volume = read_volume(scan.path)
    gone = dataclasses.replace(scan, path="/nowhere/x.nii.gz")
    again = [e["image"].tobytes() for _, e in slices_of(gone, CONFIG, volume)]
    assert again == [e["image"].tobytes() for _, e in slices_of(scan, CONFIG)]


def test_a_volume_that_was_read_is_checked_all_the_same(tmp_path):
    path = str(write_head(tmp_path, "x", voxels=np.full((32, 30, 24), 7, np.int16)))
    with pytest.raises(ScanError, match="every voxel of its window is 7"):
        next(slices_of(Scan("x", "", path), CONFIG, read_volume(path)))


@pytest.mark.parametrize(
    ("index", "key"), [(0, "a/000"), (7, "a/007"), (52, "a/052"), (110, "a/110"), (1234, "a/1234")]
)
def test_a_key_has_three_digits_or_more_and_is_decoded_alike(index, key):
    assert features.slice_key("a", index) == key
    example = made_up() | {"subject": "a", "slice_index": index}
    decoded = features.decode_slices(tf.constant([features.encode_slice(example)]), (3, 5), ["key"])
    assert list(decoded) == ["key"]
    assert decoded["key"].numpy().tolist() == [key.encode()]


def made_up(seed=0):
    """An example of a 3x5 slice."""
    return {
        "image": np.random.default_rng(seed).integers(0, 256, (3, 5, 1), np.uint8),
        "subject": "IXI002",
        "site": "IOP",
        "slice_index": 52,
        "sex": "male",
        "ethnicity": "asian",
        "age": 35.75,
        "low": -3.5,
        "high": 1234.5,
    }


def test_a_batch_comes_back_from_disk_as_it_was():
    examples = [
        made_up(0),
        made_up(1) | {"subject": "sub-ü", "sex": "unknown", "ethnicity": "unknown", "low": 0.0},
        made_up(2) | {"sex": "female", "ethnicity": "white", "site": "", "age": 80.25},
    ]
    fields = ("high", "image", "subject", "site", "slice_index", "sex", "ethnicity", "age", "low")
    serialized = tf.constant([features.encode_slice(example) for example in examples])
    decoded = features.decode_slices(serialized, (3, 5), fields)
    assert tuple(decoded) == fields
    assert decoded["image"].dtype == tf.uint8 and decoded["image"].shape == (3, 3, 5, 1)
    for i, example in enumerate(examples):
        np.testing.assert_array_equal(decoded["image"][i], example["image"])
        for field in ("subject", "site"):
            assert decoded[field][i].numpy().decode() == example[field]
        for field in ("age", "low", "high", "slice_index"):
            assert decoded[field][i].numpy() == example[field]
        assert ("female", "male", "unknown")[decoded["sex"][i]] == example["sex"]
        names = ("white", "black", "asian", "chinese", "other", "unknown")
        assert names[decoded["ethnicity"][i]] == example["ethnicity"]


def test_what_we_encode_tfds_decodes():
    """By the features that a dataset's readers get, with no code of ours between."""
    info = features.slice_features((3, 5))
    parser = tfds.core.example_parser.ExampleParser(info.get_serialized_info())
    example = made_up()
    decoded = info.decode_example(parser.parse_example(features.encode_slice(example)))
    assert info["sex"].int2str(int(decoded["sex"])) == "male"
    assert info["ethnicity"].int2str(int(decoded["ethnicity"])) == "asian"
    np.testing.assert_array_equal(decoded["image"], example["image"])
    for field in ("slice_index", "age", "low", "high"):
        assert decoded[field].numpy() == example[field]
    assert {name: info[name].np_dtype for name in ("slice_index", "age", "low", "high")} == {
        "slice_index": np.int64,
        "age": np.float32,
        "low": np.float32,
        "high": np.float32,
    }


def test_an_age_that_is_not_known_stays_unknown(tmp_path):
    path = str(write_head(tmp_path, "x", voxels=head((32, 30, 24))))
    _, example = next(slices_of(Scan("sub-01", "", path), CONFIG))
    assert math.isnan(example["age"])
    serialized = tf.constant([features.encode_slice(example)])
    decoded = features.decode_slices(serialized, (32, 30), ("age", "sex", "ethnicity"))
    assert np.isnan(decoded["age"].numpy()).all()
    assert (int(decoded["sex"][0]), int(decoded["ethnicity"][0])) == (2, 5)
