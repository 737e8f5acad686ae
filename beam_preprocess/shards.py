"""Writing one shard: the unit of work of the Beam job.

A shard is a function of its scans and the config alone. So it has the same bytes whoever writes
it, and a job that was interrupted goes on with the shards that are whole. Beside each shard stands
a record of it (JSON), written last: a shard without its record does not count.
"""

import base64
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import struct
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np

from ixi_tfds import storage
from ixi_tfds.catalog import Scan
from ixi_tfds.configs import SliceConfig
from ixi_tfds.errors import ScanError
from ixi_tfds.features import encode_slice
from ixi_tfds.folders import naming
from ixi_tfds.integrity import masked_crc
from ixi_tfds.nifti import Volume, read_file, read_volume
from ixi_tfds.roster import git_blob_sha1
from ixi_tfds.slices import slices_of

STRICT_FAILURE = "strict-failure.txt"
_THUMBNAIL_SIDE = 112


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard, wherever it runs.

    Attributes:
      split: train, validation or test.
      index: number of the shard within its split, from 0.
      count: shards that the split has.
      scans: whose slices stand in it.
      config: geometry and scaling.
      source_dir: paths in records are relative to it.
      work_dir: folder of the unfinished dataset.
      strict: fail at the first refused volume.
    """

    split: str
    index: int
    count: int
    scans: tuple[Scan, ...]
    config: SliceConfig
    source_dir: str
    work_dir: str
    strict: bool = False

    @property
    def file_name(self) -> str:
        """The shard's name as TFDS lays it out."""
        return shard_name(self.split, self.index, self.count)

    @property
    def path(self) -> pathlib.Path:
        """Where the shard is written."""
        return storage.at(self.work_dir, self.file_name)

    @property
    def record_path(self) -> pathlib.Path:
        """Where the record of the shard is written."""
        return self.path.with_name(self.file_name + ".json")


def shard_name(split: str, index: int, count: int) -> str:
    """File name of a shard, TFDS's default template for the dataset `ixi_t1`."""
    return f"ixi_t1-{split}.tfrecord-{index:05d}-of-{count:05d}"


def write_shard(task: ShardTask) -> None:
    """Write the task's shard and its record, unless both are there and whole.

    Raises:
      ScanError: a volume is refused and the task is strict; the folder then holds the message in
        `STRICT_FAILURE`, for the runner wraps exceptions beyond recognition.
      OSError: a scan is gone since the job was planned, or the operating system refuses something.
    """
    if _is_whole(task):
        return
    slices: list[tuple[bytes, bytes]] = []
    volumes: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for scan in task.scans:
        relative = os.path.relpath(scan.path, task.source_dir)
        volume = None
        try:
            volume = read_volume(scan.path)
            examples = list(slices_of(scan, task.config, volume))
        except ScanError as error:
            _check_source(scan.path, error)
            if task.strict:
                _write_whole(storage.at(task.work_dir, STRICT_FAILURE), [str(error).encode()])
                raise
            rejected.append(
                {
                    "path": relative,
                    "subject": scan.subject,
                    "split": task.split,
                    "reason": error.reason,
                    "detail": error.detail,
                    "git_blob_sha1": volume.git_blob_sha1 if volume else _file_digest(scan.path),
                }
            )
            continue
        volumes.append({"path": relative} | _describe(scan, volume, examples, task.config))
        for key, example in examples:
            order = hashlib.sha256(f"{task.file_name}:{key}".encode()).digest()
            slices.append((order, encode_slice(example)))
    # Neighbouring slices of a head are near-copies: within the shard they stand in the order of a
    # hash, so that a training buffer need not hold whole volumes to mix them.
    slices.sort()
    digest, size = _write_whole(task.path, _framed(record for _, record in slices))
    record = {
        "shard": task.file_name,
        "split": task.split,
        "sha256": digest,
        "bytes": size,
        "slices": len(slices),
        "volumes": volumes,
        "rejected": rejected,
    }
    _write_whole(task.record_path, [json.dumps(record, sort_keys=True).encode()])


def _check_source(path: str, error: ScanError) -> None:
    """Raise what is no fault of the scan, and would leave a person out of the dataset for it."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        here = not storage.is_remote(path) and os.path.lexists(path)
        vanished = cause.errno == errno.ENOENT and not here
        if vanished or cause.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
            raise cause


def _framed(records: Iterable[bytes]) -> Iterable[bytes]:
    """TFRecord frames: length, its masked CRC-32C, data, its masked CRC-32C (little-endian).

    TensorFlow writes the same, but costs each worker half a gigabyte and eight seconds to import.
    """
    for record in records:
        length = struct.pack("<Q", len(record))
        yield length + struct.pack("<I", masked_crc(length))
        yield record
        yield struct.pack("<I", masked_crc(record))


def _write_whole(path: pathlib.Path, parts: Iterable[bytes]) -> tuple[str, int]:
    """Write under a temporary name, then rename; give the SHA-256 and the size."""
    digest, size = hashlib.sha256(), 0
    # Workers on two machines may have the same process number.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with naming(temporary), temporary.open("wb") as file:
        for part in parts:
            digest.update(part)
            size += len(part)
            file.write(part)
        storage.synchronise(file)
    temporary.replace(path)
    return digest.hexdigest(), size


def _is_whole(task: ShardTask) -> bool:
    """Whether an earlier run left this shard whole, made from files that have not changed since."""
    try:
        record = json.loads(task.record_path.read_text())
        with task.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return False
    seen = {v["path"]: v["git_blob_sha1"] for v in record["volumes"] + record["rejected"]}
    now = {os.path.relpath(s.path, task.source_dir): _file_digest(s.path) for s in task.scans}
    allowed = not (task.strict and record["rejected"])
    return allowed and digest == record["sha256"] and seen == now


def _file_digest(path: str) -> str | None:
    try:
        return git_blob_sha1(read_file(path))
    except OSError:
        return None


def _describe(
    scan: Scan, volume: Volume, examples: list[tuple[str, dict[str, Any]]], config: SliceConfig
) -> dict[str, Any]:
    """What the quality report tells of a volume; intensities are in scanner units."""
    window = volume.voxels[:, :, slice(*config.window)]
    values = volume.scaled(np.array([window.min(), window.mean(dtype=np.float64), window.max()]))
    lowest, mean, highest = sorted(values.tolist())
    return {
        "subject": scan.subject,
        "site": scan.site,
        "sex": scan.sex,
        "ethnicity": scan.ethnicity,
        "age": None if np.isnan(scan.age) else round(scan.age, 2),
        "shape": list(volume.voxels.shape),
        "zooms": volume.zooms,
        "git_blob_sha1": volume.git_blob_sha1,
        "lowest": round(lowest, 3),
        "mean": round(mean, 3),
        "highest": round(highest, 3),
        "thumbnail": _thumbnail(examples[len(examples) // 2][1]["image"][..., 0]),
    }


def _thumbnail(image: np.ndarray) -> str:
    """A small upright JPEG of a slice, in base64."""
    from PIL import Image

    picture = Image.fromarray(np.rot90(image))
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70)
    return base64.b64encode(buffer.getvalue()).decode()
