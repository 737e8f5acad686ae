"""Unpacking a cohort's tar file: only volumes, wherever the archive would like the rest to go."""

import logging
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ixi_tfds.cohorts.catalog import stem_of
from ixi_tfds.download.fetch import bytes_bar
from ixi_tfds.system.errors import DownloadError
from ixi_tfds.system.files import replacing

_BLOCK = 1 << 18


def extract_volumes(tar_path: str, output_dir: str, volume_name: str) -> list[str]:
    """Unpack the volumes in a tar file, block by block.

    Only regular files named `<volume_name>.nii.gz` are taken, and written under their base name
    straight into `output_dir`; one that is there with the same size is left as it is. Everything
    else (other modalities, links, devices, sparse files, absolute paths, paths with `..`) never
    touches the disk; a warning says how many there were.

    Args:
      tar_path: an uncompressed tar file.
      output_dir: folder for the volumes, made where missing.
      volume_name: regular expression for names of volumes without extension.

    Returns:
      The paths of the archive's volumes in `output_dir`, sorted.

    Raises:
      DownloadError: the tar file cannot be read whole, holds a volume twice or none at all, or
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
                        f"{tar_path}: {name} stands twice in it, so it is not the published file; "
                        "remove it and download it again"
                    )
                else:
                    _write_member(archive, member, folder / name)
                    names.add(name)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DownloadError(
            f"{tar_path}: cannot be unpacked into {output_dir} ({error}); make sure that it is "
            "whole and the disk has room, then run the same command again"
        ) from error
    if not names:
        raise DownloadError(
            f"{tar_path}: no T1 volume in it (names like {volume_name}.nii.gz); is it the archive?"
        )
    if left_out:
        logging.getLogger(__name__).warning(
            "%s: left out %d members that are not T1 volumes", tar_path, left_out
        )
    return sorted(str(folder / name) for name in names)


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of an archive one by one, with a bar of the bytes that are done."""
    with bytes_bar(f"unpacking {path.name}") as bar:
        bar.reset(path.stat().st_size)
        while (member := archive.next()) is not None:
            # It would keep them all, however many there are.
            archive.members.clear()  # type: ignore[attr-defined]  # undocumented
            if member.size < 0:  # tarfile would step back and read the same members for ever.
                raise tarfile.ReadError(f"{member.name!r} has a negative size")
            yield member
            bar.update(member.offset_data + member.size - bar.n)


def _volume_in(member: tarfile.TarInfo, volume_name: str) -> str | None:
    """The file name of a member that is a volume and safe to take, else None."""
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
    assert data is not None, "extractfile gives None for members that are not regular files only"
    with data, replacing(target) as partial:
        partial.unlink(missing_ok=True)  # It might be a link to somewhere else.
        with partial.open("wb") as file:
            shutil.copyfileobj(data, file, _BLOCK)
