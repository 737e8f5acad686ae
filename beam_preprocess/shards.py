"""Writing one shard, the unit of work of the Beam job.

A shard depends on its scans and the config alone, so every worker writes the same bytes. An
interrupted job resumes and keeps complete shards. The record of a shard is written after the shard;
a shard without a record is written again.
"""

import base64
import dataclasses
import hashlib
import io
import os
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from beam_preprocess import choice
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import shard_record
from ixi_tfds.documents.shard_record import RefusedVolume, ShardRecord, VolumeRecord
from ixi_tfds.features import encode_slice
from ixi_tfds.images.head import Head, tilt_of
from ixi_tfds.images.look import look_of
from ixi_tfds.images.resampling import share_cropped
from ixi_tfds.integrity import masked_crc
from ixi_tfds.nifti import Volume, digest_of, raise_fault_of_system, read_volume
from ixi_tfds.slices import Checked, check_scan, check_spacing, pixels_digest, slices_of
from ixi_tfds.system import files, storage
from ixi_tfds.system.errors import ScanError, UserError

_THUMBNAIL_SIDE = 112
_SQUARE = 1.02

_Examples = list[tuple[str, dict[str, Any]]]
"""Keys and examples of a volume's slices."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to write one shard.

    Attributes:
      dataset: name of the dataset, which is the name of the cohort.
      split: train, validation or test.
      index: number of the shard within its split, from 0.
      count: number of shards in the split.
      scans: the people whose slices are stored, each with their volumes.
      config: geometry and scaling.
      source_dir: folder that paths in the record are relative to.
      work_dir: folder of the unfinished dataset.
      strict: fail at the first refused volume.
      zooms: sides of a voxel in mm that a volume must have, to 5%; None takes any.
      allow_unknown_orientation: as for `nifti.read_volume`.
      masks: path of the brain's mask, by path of the volume.
    """

    dataset: str
    split: str
    index: int
    count: int
    scans: tuple[Scan, ...]
    config: SliceConfig
    source_dir: str
    work_dir: str
    strict: bool = False
    zooms: tuple[float, float, float] | None = None
    allow_unknown_orientation: bool = False
    masks: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def copies(self) -> int:
        """Number of moved copies of each volume in this shard."""
        return self.config.copies or 0 if self.split == "train" else 0

    @property
    def file_name(self) -> str:
        """File name of the shard."""
        return shard_name(self.dataset, self.split, self.index, self.count)

    @property
    def path(self) -> pathlib.Path:
        """Path of the shard."""
        return storage.at(self.work_dir, self.file_name)

    @property
    def record_path(self) -> pathlib.Path:
        """Path of the record."""
        return self.path.with_name(self.file_name + ".json")

    def relative(self, scan: Scan) -> str:
        """The path of a scan within the source folder."""
        return os.path.relpath(scan.path, self.source_dir)


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """File name of a shard in the default template of TFDS."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def write_shard(task: ShardTask) -> None:
    """Write the shard and its record, unless both exist and are complete.

    Raises:
      ScanError: a volume is refused and the task is strict.
      OSError: a scan has vanished since the job was planned, or reading or writing fails.
    """
    if _is_whole(task):
        return
    slices: list[tuple[bytes, bytes]] = []
    volumes: list[VolumeRecord] = []
    rejected: list[RefusedVolume] = []
    for person in task.scans:
        taken, encoded, refused = _first_good(task, person)
        rejected += refused
        volumes += [taken] if taken else []
        slices += encoded
    # Neighbouring slices of a head are nearly equal. The order of a hash mixes the slices of a
    # shard, so the shuffle buffer of a training can be smaller than a volume.
    slices.sort()
    digest, size = _write_whole(task.path, _framed(record for _, record in slices))
    record = ShardRecord(
        shard=task.file_name,
        split=task.split,
        sha256=digest,
        bytes=size,
        slices=len(slices),
        volumes=tuple(volumes),
        rejected=tuple(rejected),
        masks=choice.digests_of_masks(task.masks, task.source_dir) or None,
    )
    _write_whole(task.record_path, [shard_record.encode(record)])


def _first_good(
    task: ShardTask, person: Scan
) -> tuple[VolumeRecord | None, list[tuple[bytes, bytes]], list[RefusedVolume]]:
    """The first volume of a person that is not refused, and those that were refused before.

    Of the volume: its record, and its slices with their order in the shard. Its voxels are given
    back before the next volume is read, which saves a tenth of the time.
    """
    refused: list[RefusedVolume] = []
    for scan in person.candidates:
        volume = None
        try:
            volume = read_volume(
                scan.path, allow_unknown_orientation=task.allow_unknown_orientation
            )
            if task.zooms:
                check_spacing(volume, scan.path, task.zooms)
            mask = task.masks.get(scan.path)
            checked = check_scan(volume, scan.path, task.config, mask)
            examples = list(slices_of(scan, task.config, volume, checked, task.copies))
        except ScanError as error:
            raise_fault_of_system(error)
            if task.strict:
                raise
            refused.append(_refusal(task, scan, error, volume))
            continue
        instead = task.relative(scan)
        before = [dataclasses.replace(entry, instead=instead) for entry in refused]
        encoded = [(_order(task, key), encode_slice(example)) for key, example in examples]
        return _describe(task, scan, volume, checked, examples), encoded, before
    return None, [], refused


def _order(task: ShardTask, key: str) -> bytes:
    return hashlib.sha256(f"{task.file_name}:{key}".encode()).digest()


def _framed(records: Iterable[bytes]) -> Iterable[bytes]:
    """TFRecord frames: length, its masked CRC-32C, data, its masked CRC-32C (little-endian).

    TensorFlow writes the same bytes, but its import takes half a gigabyte and eight seconds.
    """
    for record in records:
        length = struct.pack("<Q", len(record))
        yield length + struct.pack("<I", masked_crc(length))
        yield record
        yield struct.pack("<I", masked_crc(record))


def _write_whole(path: pathlib.Path, parts: Iterable[bytes]) -> tuple[str, int]:
    """Write a file completely or not at all; return its SHA-256 and its size."""
    digest, size = hashlib.sha256(), 0
    # A runner may give one task to two workers.
    with files.replacing(path, shared=True) as partial, partial.open("wb") as file:
        for part in parts:
            digest.update(part)
            size += len(part)
            file.write(part)
        storage.synchronise(file)
    return digest.hexdigest(), size


def _is_whole(task: ShardTask) -> bool:
    """Whether an earlier run completed this shard and its scans have not changed since."""
    try:
        record = shard_record.read(task.record_path)
        with task.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UserError):
        return False
    taken = {volume.subject: volume.path for volume in record.volumes}
    read = choice.tried(task.scans, taken, task.source_dir)
    now = {path: digest_of(scan.path) for path, scan in read}
    now |= choice.digests_of_masks(task.masks, task.source_dir)
    allowed = not (task.strict and record.rejected)
    return allowed and digest == record.sha256 and record.inputs == now


def _refusal(task: ShardTask, scan: Scan, error: ScanError, volume: Volume | None) -> RefusedVolume:
    return RefusedVolume(
        path=task.relative(scan),
        reason=error.reason,
        detail=error.detail,
        subject=scan.subject,
        split=task.split,
        git_blob_sha1=volume.git_blob_sha1 if volume else digest_of(scan.path),
    )


def _describe(
    task: ShardTask, scan: Scan, volume: Volume, checked: Checked, examples: _Examples
) -> VolumeRecord:
    window = volume.voxels[:, :, slice(*checked.window)]
    values = volume.scaled(np.array([window.min(), window.mean(dtype=np.float64), window.max()]))
    lowest, mean, highest = sorted(values.tolist())
    rows, columns, depth = volume.voxels.shape
    head = checked.head
    cropped = round(share_cropped(volume, task.config, head), 4) if head else None
    if checked.brain:
        cropped, examples = checked.brain.outside, examples[: task.config.slices_per_volume]
    middle = examples[len(examples) // 2][1]["image"][..., 0]
    return VolumeRecord(
        path=task.relative(scan),
        subject=scan.subject,
        site=scan.site,
        sex=scan.sex,
        ethnicity=scan.ethnicity,
        age=None if np.isnan(scan.age) else round(scan.age, 2),
        shape=(rows, columns, depth),
        zooms=volume.zooms,
        git_blob_sha1=volume.git_blob_sha1,
        lowest=round(lowest, 3),
        mean=round(mean, 3),
        highest=round(highest, 3),
        thumbnail=_thumbnail(middle, task.config.spacing or volume.zooms, task.config.plane),
        background=round(head.background, 3) if head else None,
        cropped=cropped or None,
        off_middle=_off_middle(task.config, volume, head) if head else None,
        tilt=round(tilt_of(volume.affine), 1),
        pixels=pixels_digest(example["image"] for _, example in examples),
        look=None if checked.brain else look_of(volume),
        assumed_axes=volume.assumed_axes,
    )


def _off_middle(config: SliceConfig, volume: Volume, head: Head) -> float | None:
    """`VolumeRecord.off_middle`."""
    if config.spacing is not None:
        return None
    middle = (config.window[0] + config.window[1] - 1) / 2
    return round((middle - head.middle[2]) * volume.zooms[2], 1)


def _thumbnail(image: np.ndarray, spacing: Sequence[float], plane: str | None = None) -> str:
    """A small, upright JPEG of a slice, in base64.

    Nose to the left, or up in axial slices; `spacing` is along posterior, superior and right.
    """
    from PIL import Image

    p, s, r = spacing
    if plane == "axial":
        upright, width, height = image, r, p
    elif plane == "coronal":
        upright, width, height = image[::-1], r, s
    else:
        upright, width, height = np.rot90(image), p, s
    picture = Image.fromarray(np.ascontiguousarray(upright))
    sides = [side / min(width, height) for side in (width, height)]
    if max(sides) > _SQUARE:
        width, height = (round(n * side) for n, side in zip(picture.size, sides, strict=True))
        picture = picture.resize((width, height))
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70)
    return base64.b64encode(buffer.getvalue()).decode()
