"""What a file that is no image holds, for messages: pointers, pages, archives, other formats."""

import pathlib

from ixi_tfds.formats import NO_HEADER, READ_FORMATS, READ_KINDS, conversion, image_kind
from ixi_tfds.system import storage

HEAD_BYTES = 540
"""Bytes at the start of a file by which its content is recognized."""

_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_DICOM_MAGIC, _DICOM_PLACE = b"DICM", 128
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<error")
_STARTS = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"BZh": "is compressed by bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "is compressed by xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it, or compress it with gzip",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"\x1f\x8b": "is compressed by gzip twice; unpack it once with gunzip",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file; MINC 2 is read if its name ends in .mnc",
    b"CDF": "is a netCDF file; MINC 1 is read if its name ends in .mnc",
    b"\x93NUMPY": "is a NumPy array, which does not say how the head lies",
    b"\x89PNG": "is a PNG picture",
    b"\xff\xd8\xff": "is a JPEG picture",
    b"%PDF": "is a PDF document",
}


def what_it_is(path: str, head: bytes | memoryview, stored: bytes) -> str:
    """What is wrong with a file that has no valid header, as the end of a message.

    Args:
      path: the file.
      head: its first bytes, at least `HEAD_BYTES` of a longer file; of a gzip file, inflated.
      stored: the file as it is.
    """
    packed = stored.startswith(b"\x1f\x8b")
    head = bytes(head[:HEAD_BYTES])
    if not stored:
        return "is empty (0 bytes); get it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file itself; get that with: git lfs pull"
    if b"/annex/objects/" in head and not packed:
        return f"is a pointer of git-annex and not the file itself; {_datalad_get(path)}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "is a page (HTML or XML) and not an image: its download failed; get it again"
    if head.startswith(_TAR_MAGIC, _TAR_PLACE):
        return "is a tar archive; unpack it"
    if head.startswith(_DICOM_MAGIC, _DICOM_PLACE):
        folder = str(pathlib.PurePath(path).parent)
        return f"is a DICOM file; {conversion('DICOM', folder)}"
    if head.startswith(b"NRRD"):
        return f"is an NRRD file; {conversion('NRRD', path)}"
    for start, words in _STARTS.items():
        if head.startswith(start):
            return words
    kind = image_kind(path)
    if kind and kind not in (*READ_KINDS, NO_HEADER):
        return f"is named as an image of another format, {kind}; {conversion(kind, path)}"
    return f"has no valid header of a format that is read: {READ_FORMATS}"


def broken_link(path: str) -> str | None:
    """What to do about a link of git-annex to content that is not here; None for anything else."""
    link = pathlib.Path(path)
    if storage.is_remote(path) or not link.is_symlink() or link.exists():
        return None
    if ".git/annex/objects" not in link.readlink().as_posix():
        return None
    return f"is a link of git-annex, and its content is not here; {_datalad_get(path)}"


def _datalad_get(path: str) -> str:
    return f"get it with: datalad get {path}"
