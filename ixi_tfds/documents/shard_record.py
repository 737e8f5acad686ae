"""The record beside each shard of an unfinished dataset: what is in the shard, and who is not."""

import dataclasses
import json
import pathlib

from ixi_tfds.documents import codec


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A file that is not in the dataset, by its path within the source folder.

    `reason` is one of `ScanError.REASONS`, `detail` says it in words.
    """

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class RefusedVolume(Refusal):
    """A volume that was refused when it was read; no `git_blob_sha1` where it cannot be read."""

    subject: str
    split: str
    git_blob_sha1: str | None


@dataclasses.dataclass(frozen=True)
class VolumeRecord:
    """A volume in a shard, by its path within the source folder.

    Attributes:
      age: in years; None where it is not known.
      shape: voxels along posterior, superior and right.
      zooms: sides of a voxel along these axes, in mm.
      lowest: value of the slice window, in scanner units, as `mean` and `highest` are.
      thumbnail: of the middle slice, a JPEG in base64.
    """

    path: str
    subject: str
    site: str
    sex: str
    ethnicity: str
    age: float | None
    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    git_blob_sha1: str
    lowest: float
    mean: float
    highest: float
    thumbnail: str


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """What a shard holds: `slices` of the `volumes`, without those that were rejected.

    `shard` is the name of its file, `sha256` and `bytes` are of its content.
    """

    shard: str
    split: str
    sha256: str
    bytes: int
    slices: int
    volumes: tuple[VolumeRecord, ...]
    rejected: tuple[RefusedVolume, ...]

    @property
    def inputs(self) -> dict[str, str | None]:
        """`git_blob_sha1` of each file that the shard was made from, by path."""
        digests: dict[str, str | None] = {v.path: v.git_blob_sha1 for v in self.volumes}
        return digests | {entry.path: entry.git_blob_sha1 for entry in self.rejected}


def read(path: pathlib.Path) -> ShardRecord:
    """The record in a file.

    Raises:
      OSError: it cannot be read.
      DocumentError: it is no record.
    """
    return codec.from_json(ShardRecord, path.read_bytes())


def encode(record: ShardRecord) -> bytes:
    """A record as `read` reads it."""
    return json.dumps(codec.to_plain(record), sort_keys=True).encode()
