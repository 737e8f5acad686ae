"""The record beside each shard of an unfinished dataset: its volumes, and the refused ones."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from ixi_tfds.documents import codec
from ixi_tfds.images.look import Look


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A file that is not in the dataset, by its path relative to the source folder.

    `reason` is one of `ScanError.REASONS`; `detail` explains it in words.
    """

    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class RefusedVolume(Refusal):
    """A volume that was refused when read.

    Attributes:
      git_blob_sha1: None if the file is unreadable.
      instead: path of the volume of the same person that was taken; None if all were refused.
    """

    subject: str
    split: str
    git_blob_sha1: str | None
    instead: str | None = None


def lost_people(rejected: Iterable[RefusedVolume]) -> list[RefusedVolume]:
    """The first refused volume of each person of whom none was taken, in the order given."""
    first: dict[str, RefusedVolume] = {}
    for entry in rejected:
        if entry.instead is None:
            first.setdefault(entry.subject, entry)
    return list(first.values())


@dataclasses.dataclass(frozen=True)
class VolumeRecord:
    """A volume in a shard, by its path relative to the source folder.

    Attributes:
      age: in years; None if unknown.
      shape: voxels along posterior, superior and right.
      zooms: sides of a voxel along these axes, in mm.
      lowest: lowest value in the slice window; like `mean` and `highest` in scanner units.
      thumbnail: the middle slice as a JPEG, in base64; its pixels are square in mm.
      background: value of the padding in scanner units; None where it is 0, the rule of the
        published configs and of earlier versions.
      cropped: share of the head, in the plane of the slices, that the stored slices leave out;
        None where that is none, and where it is not looked for.
      off_middle: distance in mm from the middle of the head to the middle of a window by number,
        along right; None under other configs, and where it is not looked for.
      tilt: of the head in the scanner, from `head.tilt_of`; earlier versions lack it.
      pixels: digest of the stored slices; None in records of earlier versions.
      look: how it looks; earlier versions lack it.
      assumed_axes: axis codes of a file that does not say how the head lies in it, by which it was
        read; None for all others.
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
    background: float | None = None
    cropped: float | None = None
    off_middle: float | None = None
    tilt: float | None = None
    pixels: str | None = None
    look: Look | None = None
    assumed_axes: str | None = None


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """A shard: the number of its `slices`, its `volumes`, and the volumes that were `rejected`.

    Of a person with several volumes, those before the one in `volumes` are in `rejected`.

    `shard` is its file name; `sha256` and `bytes` are checksum and size of the file. `masks` are
    `git_blob_sha1` of the brain masks, by path relative to the source folder.
    """

    shard: str
    split: str
    sha256: str
    bytes: int
    slices: int
    volumes: tuple[VolumeRecord, ...]
    rejected: tuple[RefusedVolume, ...]
    masks: dict[str, str | None] | None = None

    @property
    def inputs(self) -> dict[str, str | None]:
        """`git_blob_sha1` of each file that was read for the shard, by path."""
        digests: dict[str, str | None] = {v.path: v.git_blob_sha1 for v in self.volumes}
        digests |= {entry.path: entry.git_blob_sha1 for entry in self.rejected}
        return digests | (self.masks or {})


def read(path: pathlib.Path) -> ShardRecord:
    """The record in a file.

    Raises:
      OSError: the file cannot be read.
      DocumentError: the file is not a record.
    """
    return codec.from_json(ShardRecord, path.read_bytes())


def encode(record: ShardRecord) -> bytes:
    """The bytes of a record, for `read`."""
    return json.dumps(codec.to_plain(record), sort_keys=True).encode()
