"""Comparing the files of a dataset with its manifest, to find damage.

The manifest has the SHA-256 and size of each shard, the SHA-256 of each metadata file of TFDS, and
its own. Finding damage does not need TensorFlow.
"""

import contextlib
import dataclasses
import pathlib
import re
import struct
from collections.abc import Collection, Iterator

import google_crc32c
from tqdm import tqdm

from ixi_tfds.documents.manifest import Manifest, file_sha256
from ixi_tfds.splits import SPLITS
from ixi_tfds.system.errors import DatasetError

CHECKS = ("full", "quick")
"""How much is checked: full reads every byte, quick compares names and sizes only."""

_SHARD = re.compile(r"\w+-(\w+)\.tfrecord-\d+-of-\d+")


@dataclasses.dataclass(frozen=True)
class Damage:
    """A damaged file: its name in the dataset's folder, and what is wrong with it."""

    name: str
    what: str


def split_of(shard: str) -> str:
    """The split of a shard, by its file name; "" for other files."""
    match = _SHARD.fullmatch(shard)
    return match[1] if match else ""


def check_dataset(
    folder: pathlib.Path, manifest: Manifest, splits: Collection[str], how: str = "full"
) -> None:
    """Refuse a dataset if any file that will be read is damaged.

    Args:
      folder: the dataset's folder.
      manifest: the dataset's manifest.
      splits: the splits that will be read.
      how: one of `CHECKS`.

    Raises:
      DatasetError: a file is damaged; the message names the first.
    """
    damaged = find_damage(folder, manifest, splits=splits, full=how == "full")
    if damaged:
        first, more = damaged[0], len(damaged) - 1
        raise DatasetError(
            f"{folder / first.name}: {first.what}{f' (and {more} more files)' * (more > 0)}; "
            f"{repair_hint(folder)}"
        )


def repair_hint(folder: pathlib.Path) -> str:
    """How to repair a damaged dataset, for messages."""
    root, name = folder.parents[2], "/".join(folder.parts[-3:-1])
    return (
        f"python -m beam_preprocess verify --data_dir={root} --dataset={name} lists what is "
        "damaged, and with --repair --source_dir=FOLDER_OF_THE_VOLUMES mends it"
    )


def find_damage(
    folder: pathlib.Path,
    manifest: Manifest,
    *,
    splits: Collection[str] = SPLITS,
    full: bool = True,
) -> list[Damage]:
    """The files that differ from their entries in the manifest.

    Manifests of earlier versions record less, so less damage is found with them.

    Args:
      folder: the dataset's folder.
      manifest: the dataset's manifest.
      splits: the splits to check.
      full: read the shards, instead of comparing only their names and sizes.
    """
    damaged = [
        Damage(name, what)
        for name, digest in (manifest.metadata or {}).items()
        if (what := _wrong(folder / name, None, digest, full=True))
    ]
    shards = {name: sha for name, sha in manifest.shards.items() if split_of(name) in splits}
    sizes = manifest.shard_bytes or {}
    with tqdm(
        total=sum(sizes.get(name, 0) for name in shards),
        desc=f"checking {folder.parent.name}",
        unit="B",
        unit_scale=True,
        leave=False,
        # Small datasets are checked before a bar would be useful.
        delay=1,
        disable=None if full else True,
    ) as bar:
        for name, digest in shards.items():
            what = _wrong(folder / name, sizes.get(name), digest, full=full)
            if what:
                damaged.append(Damage(name, what))
            bar.update(sizes.get(name, 0))
    for path in sorted(folder.glob("*.tfrecord-*")):
        if path.name not in manifest.shards and split_of(path.name) in splits:
            damaged.append(Damage(path.name, "is of another run: the manifest does not name it"))
    return damaged


@contextlib.contextmanager
def user_error_if_damaged(dataset: str) -> Iterator[None]:
    """Turn TensorFlow's error on reading a damaged record into one sentence.

    Args:
      dataset: the dataset's name, for the message.

    Raises:
      DatasetError: a shard is damaged.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.DataLossError as error:
        # The rest of the message is stack and graph.
        found = re.search(r"\w+ record at \d+", str(error))
        raise DatasetError(
            f"--dataset={dataset}: a shard is damaged{f' ({found[0]})' if found else ''}; "
            "python -m beam_preprocess verify names it, and mends it with --repair"
        ) from error


def records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file, with their checksums verified.

    Raises:
      DatasetError: at the first record that is damaged or cut off.
    """
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            number += 1
            where = f"{path}: record {number} (from byte {file.tell() - len(head)})"
            if len(head) < 12:
                raise DatasetError(f"{where} is cut off")
            length, checksum = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != checksum:
                raise DatasetError(f"{where} has a damaged length")
            data, tail = file.read(length), file.read(4)
            if len(tail) < 4:
                raise DatasetError(f"{where} is cut off")
            if masked_crc(data) != struct.unpack("<I", tail)[0]:
                raise DatasetError(f"{where} is damaged")
            yield data


def masked_crc(data: bytes) -> int:
    """The masked CRC-32C of the TFRecord format."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _wrong(path: pathlib.Path, size: int | None, digest: str, *, full: bool) -> str | None:
    """What is wrong with a file; None if it matches the manifest."""
    try:
        found = path.stat().st_size
        differs = size is not None and found != size
        if differs and not full:
            return f"has {found:,} bytes, and {size:,} were written"
        if not (full and (differs or file_sha256(path) != digest)):
            return None
        if not split_of(path.name):
            return "is not what was written (its SHA-256 differs)"
        for _ in records(path):
            pass
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except DatasetError as error:
        return f"is damaged: {str(error).removeprefix(f'{path}: ')}"
    return "is of another run: its records are whole, but not those that the manifest tells of"
