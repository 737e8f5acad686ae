"""Unpacking IXI's tar file: only T1 volumes, wherever the archive would like the rest to go."""

import logging
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from ixi_tfds.catalog import IXI_NAME, stem_of
from ixi_tfds.download import bytes_bar
from ixi_tfds.errors import DownloadError

_BLOCK = 1 << 18


def extract_t1(tar_path: str, output_dir: str, *, progress: bool = True) -> list[str]:
    """Unpack the T1 volumes of an IXI tar file, block by block.

    Only regular files with names of IXI's T1 form are taken, and written under their base name
    straight into `output_dir`. Everything else (other modalities, links, devices, sparse files,
    absolute paths, paths with `..`) never touches the disk; a warning says how many there were.
    A volume that is already there with the same size is left as it is.

    Args:
      tar_path: an uncompressed tar file.
      output_dir: folder for the volumes, made where missing.
      progress: show a progress bar, in bytes.

    Returns:
      The paths of the archive's T1 volumes in `output_dir`, sorted.

    Raises:
      DownloadError: the tar file cannot be read whole, holds a volume twice or none at all, or
        the folder cannot be written.
    """
    folder = Path(output_dir)
    volumes: dict[str, str] = {}
    left_out = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tarfile.open(tar_path, "r:") as archive,
            bytes_bar(f"unpacking {Path(tar_path).name}", progress) as bar,
        ):
            bar.reset(Path(tar_path).stat().st_size)
            while (member := archive.next()) is not None:
                # It would keep them all, however many there are.
                archive.members.clear()  # type: ignore[attr-defined]  # undocumented
                if member.size < 0:  # tarfile would step back and read the same members for ever.
                    raise tarfile.ReadError(f"{member.name!r} has a negative size")
                name = _t1_name(member)
                if name is None:
                    left_out += 1
                elif name in volumes:
                    raise DownloadError(
                        f"{tar_path}: {name} stands twice in it, so it is not the published file; "
                        "remove it and download it again"
                    )
                else:
                    _write_member(archive, member, folder / name)
                    volumes[name] = str(folder / name)
                bar.update(member.offset_data + member.size - bar.n)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DownloadError(
            f"{tar_path}: cannot be unpacked into {output_dir} ({error}); make sure that it is "
            "whole and the disk has room, then run the same command again"
        ) from error
    if not volumes:
        raise DownloadError(
            f"{tar_path}: no T1 volume in it (names like IXI002-Guys-0828-T1.nii.gz); is it "
            "IXI-T1.tar?"
        )
    if left_out:
        logging.getLogger(__name__).warning(
            "%s: left out %d members that are not T1 volumes", tar_path, left_out
        )
    return sorted(volumes.values())


def _t1_name(member: tarfile.TarInfo) -> str | None:
    """The file name of a member that is a T1 volume and safe to take, else None."""
    path = PurePosixPath(member.name)
    # A sparse member may claim far more data than the archive holds.
    safe = member.isreg() and not member.issparse()
    inside = not path.is_absolute() and ".." not in path.parts
    named = path.name.endswith(".nii.gz") and IXI_NAME.fullmatch(stem_of(path.name))
    return path.name if safe and inside and named else None


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.size:
        return
    data = archive.extractfile(member)
    assert data is not None, "extractfile gives None for members that are not regular files only"
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)  # It might be a link to somewhere else.
    with data, temporary.open("wb") as file:
        shutil.copyfileobj(data, file, _BLOCK)
    temporary.replace(target)
