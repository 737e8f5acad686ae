"""The manifest as a typed document: files of today and of earlier versions, and what is refused."""

import dataclasses
import hashlib
import json

import pytest
import tiny_dataset

from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.documents.manifest import Counts, Geometry, Manifest, Source
from ixi_tfds.system.errors import DatasetError, UserError

CONFIG = SliceConfig("small", in_plane=None, size=(32, 30), window=(8, 14), scaling="volume")
PLAIN = {
    "bytes": 3,
    "config": {
        "in_plane": None,
        "name": "small",
        "scaling": "volume",
        "size": [32, 30],
        "window": [8, 14],
    },
    "fingerprint": "f" * 64,
    "geometry": {"shape": [32, 32, 24], "zooms": [4.0, 4.5, 5.0]},
    "metadata": {},
    "rejected": {"constant": 1},
    "shard_bytes": {"ixi_t1-train.tfrecord-00000-of-00001": 3},
    "shards": {
        "ixi_t1-train.tfrecord-00000-of-00001": hashlib.sha256(b"abc").hexdigest(),
    },
    "skipped": {},
    "splits": {"train": {"slices": 6, "volumes": 1}},
    "strata": {"train": {"male/white": 1}},
    "version": "1.0.0",
    "volumes": {
        "IXI701": {
            "git_blob_sha1": "0" * 40,
            "path": "a.nii",
            "shard": "ixi_t1-train.tfrecord-00000-of-00001",
            "split": "train",
        }
    },
    "volumes_per_shard": 16,
}
(SHARD,) = PLAIN["shards"]
EARLIER = ("version", "config", "fingerprint", "shards")


def with_digest(plain):
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return plain | {"digest": digest}


def save(folder, plain):
    (folder / SHARD).write_bytes(b"abc")
    text = json.dumps(plain, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)
    return text


def test_a_manifest_is_read_with_types_and_written_to_the_byte(tmp_path):
    text = save(tmp_path, with_digest(PLAIN))
    made = manifest.read(tmp_path)
    assert made.config == CONFIG
    assert made.geometry == Geometry((32, 32, 24), (4.0, 4.5, 5.0))
    assert made.splits == {"train": Counts(volumes=1, slices=6)}
    assert made.volumes == {"IXI701": Source("train", SHARD, "a.nii", "0" * 40)}
    (tmp_path / "manifest.json").unlink()
    assert manifest.write(tmp_path, made) == made
    assert (tmp_path / "manifest.json").read_text() == text


def test_manifests_of_earlier_versions_are_read(tmp_path):
    """They have no digest, sizes, or geometry; those of TFDS's writer know no volumes."""
    save(tmp_path, {name: PLAIN[name] for name in EARLIER})
    made = manifest.read(tmp_path)
    assert made == Manifest("1.0.0", CONFIG, "f" * 64, PLAIN["shards"])
    # As the builder wrote it where it had no volume.
    save(tmp_path, with_digest({name: PLAIN[name] for name in EARLIER} | {"geometry": None}))
    assert manifest.read(tmp_path).geometry is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "has the unknown field more"),
        ({"config": {"name": "small", "size": [0, 1]}}, "both sides must be between 1 and 4096"),
        ({"shards": {SHARD: 1}}, "1 is not of type str"),
        ({"geometry": {"shape": [1, 2], "zooms": [1, 1, 1]}}, r"@ \$\.geometry\.shape"),
        ({"geometry": {"shape": [1, 2, 3], "zooms": [1, 0, 1]}}, "not a shape and voxel sides"),
        ({"version": None}, r"None is not of type str @ \$\.version"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(change, message, tmp_path):
    save(tmp_path, with_digest(PLAIN | change))
    with pytest.raises(DatasetError, match=message) as caught:
        manifest.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'manifest.json'}: is not the manifest of a ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "1", "null", "{", "[" * 100_000, '{"digest": 1}'])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match="is not the manifest of a dataset"):
        manifest.read(tmp_path)


def test_lacking_fields_are_named(tmp_path):
    save(tmp_path, with_digest({name: PLAIN[name] for name in EARLIER[1:]}))
    with pytest.raises(DatasetError, match=r"lacks the field @ \$\.version"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("side", [0, -1, 1e6, float("nan"), float("inf")])
def test_a_geometry_has_sides_that_volumes_can_have(side):
    with pytest.raises(UserError, match="are not a shape and voxel sides"):
        Geometry((1, 1, 1), (1.0, 1.0, side))
    assert manifest.median_geometry([((1, 2, 3), (1.0, 1.0, side))]) is None
    assert Geometry((1, 1, 1), (1.0, 1.0, 999_999.0))


def test_a_wrong_geometry_is_refused_by_the_name_of_the_manifest(tmp_path):
    """Scans from elsewhere are fitted to what the dataset says of its own."""
    folder = tiny_dataset.write_tiny_dataset(tmp_path)
    right = Geometry((32, 32, 24), (4.0, 4.0, 5.0))
    manifest.write(folder, dataclasses.replace(manifest.read(folder), geometry=right))
    assert manifest.read(folder).geometry == right
    plain = json.loads((folder / "manifest.json").read_text())
    plain["geometry"]["zooms"][0] = 0.0
    del plain["digest"]
    (folder / "manifest.json").write_text(json.dumps(with_digest(plain)))
    with pytest.raises(DatasetError) as caught:
        manifest.read(folder)
    assert "manifest.json" in str(caught.value) and "card" not in str(caught.value)
