"""Unpack the volumes, and nothing else, from a cohort's tar file."""

import logging
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ixi_tfds.cohorts.names import stem_of
from ixi_tfds.download.fetch import bytes_bar
from ixi_tfds.system.errors import DownloadError
from ixi_tfds.system.files import replacing

_BLOCK = 1 << 18


def extract_volumes(tar_path: str, output_dir: str, volume_name: str) -> list[str]:
    """Unpack the volumes in a tar file, block by block.

    Only regular files named `<volume_name>.nii.gz` are unpacked, under their base name, directly
    into `output_dir`. An existing file of the same size is kept. All other members (other
    modalities, links, devices, sparse files, absolute paths, paths with `..`) are never written; a
    warning gives their number.

    Args:
      tar_path: an uncompressed tar file.
      output_dir: folder for the volumes, made if missing.
      volume_name: regular expression for names of volumes without extension.

    Returns:
      The paths of the archive's volumes in `output_dir`, sorted.

    Raises:
      DownloadError: the tar file cannot be read to its end, holds a volume twice or no volume, or
        the folder cannot be written.
    """
    folder, names, left_out = Path(output_dir), set[str](), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar_path, "r:") as archive:
            for member in _members(archive, Path(tar_path)):
                name = _volume_in(member, volume_name)
                if name is None:
                    left_out += 1
                elif name in names:
                    raise DownloadError(
                        f"{tar_path}: holds {name} twice, so it is not the published file; "
                        "remove it and download it again"
                    )
                else:
                    _write_member(archive, member, folder / name)
                    names.add(name)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DownloadError(
            f"{tar_path}: cannot be unpacked into {output_dir} ({error}); make sure that it is "
            "complete and the disk has room, then run the same command again"
        ) from error
    if not names:
        raise DownloadError(
            f"{tar_path}: holds no T1 volume ({volume_name}.nii.gz); is it the right archive?"
        )
    if left_out:
        logging.getLogger(__name__).warning(
            "%s: left out %d members that are not T1 volumes", tar_path, left_out
        )
    return sorted(str(folder / name) for name in names)


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, with a progress bar in bytes."""
    with bytes_bar(f"unpacking {path.name}") as bar:
        bar.reset(path.stat().st_size)
        while (member := archive.next()) is not None:
            # The archive would keep all members in memory.
            archive.members.clear()  # type: ignore[attr-defined]  # undocumented
            if member.size < 0:  # tarfile would go back and never end.
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            yield member
            bar.update(member.offset_data + member.size - bar.n)


def _volume_in(member: tarfile.TarInfo, volume_name: str) -> str | None:
    """The file name of a member that is a volume and safe to unpack, else None."""
    path = PurePosixPath(member.name)
    # A sparse member may claim far more data than the archive holds.
    safe = member.isreg() and not member.issparse()
    inside = not path.is_absolute() and ".." not in path.parts
    named = path.name.endswith(".nii.gz") and re.fullmatch(volume_name, stem_of(path.name))
    return path.name if safe and inside and named else None


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    data = archive.extractfile(member)
    assert data is not None, "extractfile gives None only for members that are not regular files"
    with data, replacing(target) as partial:
        partial.unlink(missing_ok=True)  # It may be a link to another place.
        with partial.open("wb") as file:
            shutil.copyfileobj(data, file, _BLOCK)
