"""`manifest.json`: the contents of a dataset, with the checksums that verify it."""

import dataclasses
import hashlib
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ixi_tfds.config import VERSION, SliceConfig, in_words
from ixi_tfds.documents import codec
from ixi_tfds.images.look import Look, TypicalLook, typical
from ixi_tfds.system.errors import DatasetError, UserError

NAME = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The typical volume of a dataset, with which other scans are compared.

    Attributes:
      shape: median voxels along posterior, superior and right.
      zooms: median sides of a voxel along these axes, in mm.
      off_middle: median of `VolumeRecord.off_middle`; None where no volume has it.
    """

    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]
    off_middle: float | None = None

    def __post_init__(self) -> None:
        if not all(0 < side < 1e6 for side in (*self.shape, *self.zooms)):
            raise UserError(f"{self.shape} and {self.zooms} are not a shape and voxel sides in mm")
        if self.off_middle is not None and not abs(self.off_middle) < 1e6:
            raise UserError(f"{self.off_middle} is not a distance in mm")


@dataclasses.dataclass(frozen=True)
class VoxelRange:
    """Shortest and longest sides of the volumes' voxels along posterior, superior and right, mm."""

    lowest: tuple[float, float, float]
    highest: tuple[float, float, float]

    @property
    def in_words(self) -> str:
        """Such as `0.9375x0.9375x1.2 mm`, or `0.9375x0.9375x1.2 to 2x2x2 mm`."""
        ends = dict.fromkeys(in_words(sides) for sides in (self.lowest, self.highest))
        return f"{' to '.join(ends)} mm (posterior x superior x right)"


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of volumes and slices in a split."""

    volumes: int
    slices: int


@dataclasses.dataclass(frozen=True)
class Source:
    """The split and shard of a subject's slices, and the volume that they come from.

    `path` is relative to the source folder. `assumed_axes` are as in `VolumeRecord`.
    """

    split: str
    shard: str
    path: str
    git_blob_sha1: str
    assumed_axes: str | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`. Fields that its writer does not record are None.

    TFDS's own writer leaves out `voxels` to `volumes`; earlier versions record less.

    Attributes:
      version: of the preprocessing.
      config: of the slices.
      fingerprint: SHA-256 of inputs and settings; of the shards if TFDS's own writer made them.
      shards: SHA-256 of each shard, by file name.
      geometry: of the volumes.
      voxels: range of the volumes' voxel sides.
      look: how the volumes look.
      volumes_per_shard: setting of the Beam job.
      splitting: how people were assigned to splits, one of `splits.SPLITTINGS`; None for roster.
      splits: numbers of volumes and slices, by split.
      strata: number of volumes by split, then by `sex/ethnicity`.
      rejected: number of volumes that were refused when read, by reason.
      people_lost: number of people of whom every volume was refused; None where each of `rejected`
        is one, because nobody had several.
      skipped: number of files that were not read, by reason.
      passed_over: number of images of other formats and the like that were not read, by kind.
      bytes: of all shards.
      volumes: source of the slices, by subject.
      shard_bytes: size of each shard, by file name.
      bids_filter: which volumes of a BIDS folder were asked for, as a JSON text for `bids_filter`.
      metadata: SHA-256 of each other file that TFDS reads, by file name.
      digest: SHA-256 of all other fields as JSON, keys sorted.
    """

    version: str
    config: SliceConfig
    fingerprint: str
    shards: dict[str, str]
    geometry: Geometry | None = None
    voxels: VoxelRange | None = None
    look: TypicalLook | None = None
    volumes_per_shard: int | None = None
    splits: dict[str, Counts] | None = None
    strata: dict[str, dict[str, int]] | None = None
    rejected: dict[str, int] | None = None
    people_lost: int | None = None
    skipped: dict[str, int] | None = None
    passed_over: dict[str, int] | None = None
    bytes: int | None = None
    volumes: dict[str, Source] | None = None
    shard_bytes: dict[str, int] | None = None
    bids_filter: str | None = None
    metadata: dict[str, str] | None = None
    digest: str | None = None
    splitting: str | None = None


def read(folder: pathlib.Path) -> Manifest:
    """The manifest of a dataset.

    Raises:
      DatasetError: it is missing or unreadable, or was edited.
    """
    path = folder / NAME
    try:
        plain = json.loads(path.read_text())
        # Manifests of earlier versions have no digest.
        if "digest" in plain and plain["digest"] != _digest(plain):
            raise ValueError("it was edited after it was written: its digest does not fit")
        return codec.from_plain(Manifest, plain)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, UserError) as error:
        raise DatasetError(
            f"{path}: is not the manifest of a dataset ({error}); move the folder away and make "
            "the dataset again"
        ) from error


def write(folder: pathlib.Path, manifest: Manifest) -> Manifest:
    """Add shard sizes and checksums to a manifest, and write it.

    Args:
      folder: of the dataset, with all shards. TFDS's own writer adds its metadata files later, so
        their checksums are missing then.
      manifest: its `shard_bytes`, `metadata` and `digest` are replaced.

    Returns:
      The manifest as written.
    """
    beside = [*folder.glob("dataset_info.json"), *folder.glob("features.json")]
    beside += sorted(folder.glob("*.labels.txt"))
    whole = dataclasses.replace(
        manifest,
        shard_bytes={name: (folder / name).stat().st_size for name in manifest.shards},
        metadata={path.name: file_sha256(path) for path in beside},
        digest=None,
    )
    whole = dataclasses.replace(whole, digest=_digest(codec.to_plain(whole)))
    text = json.dumps(codec.to_plain(whole), indent=1, sort_keys=True)
    (folder / NAME).write_text(text + "\n")
    return whole


def of_shards(
    folder: pathlib.Path,
    config: SliceConfig,
    volumes: Iterable[tuple[Sequence[int], Sequence[float]]],
    looks: Sequence[Look] = (),
) -> Manifest:
    """The manifest of a dataset that TFDS's own writer made.

    Args:
      folder: of the dataset.
      config: of its slices.
      volumes: shapes and zooms, as in `median_geometry`.
      looks: how the volumes look.
    """
    shards = {path.name: file_sha256(path) for path in sorted(folder.glob("[!.]*.tfrecord-*"))}
    settings = {"version": VERSION, "config": codec.to_plain(config), "shards": shards}
    text = json.dumps(settings, sort_keys=True)
    return Manifest(
        version=VERSION,
        config=config,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        shards=shards,
        geometry=median_geometry(volumes),
        look=typical(looks),
    )


def median_geometry(
    volumes: Iterable[tuple[Sequence[int], Sequence[float]]],
    off_middle: Sequence[float] = (),
) -> Geometry | None:
    """The lower median along each axis; None without volumes, or if a median is not plausible.

    Args:
      volumes: shape and voxel sides (mm) of each, along posterior, superior and right.
      off_middle: `VolumeRecord.off_middle` of those that have it.
    """
    off = round(statistics.median(off_middle), 1) if off_middle else None
    listed = list(volumes)
    if not listed:
        return None
    shape, zooms = (
        [round(statistics.median_low(axis), 6) for axis in zip(*sides, strict=True)]
        for sides in zip(*listed, strict=True)
    )
    try:
        return codec.from_plain(Geometry, {"shape": shape, "zooms": zooms, "off_middle": off})
    except codec.DocumentError:
        return None


def voxel_range(zooms: Iterable[Sequence[float]]) -> VoxelRange | None:
    """The range of voxel sides in mm along posterior, superior and right; None without volumes."""
    listed = list(zooms)
    if not listed:
        return None
    lowest, highest = (
        [round(end(axis), 6) for axis in zip(*listed, strict=True)] for end in (min, max)
    )
    return codec.from_plain(VoxelRange, {"lowest": lowest, "highest": highest})


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError if the file cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(plain: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in plain.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
