"""Atomic writes of files, checksums, and random generators seeded by text."""

import contextlib
import hashlib
import pathlib
import re
import uuid
from collections.abc import Iterator

import numpy as np

PARTIAL = ".partial-"
"""Prefix of the names of unfinished files."""

_LITTER = re.compile(
    r"\._.*|\.nfs.*|\.fuse_hidden.*|\.DS_Store|\.directory|\.Trash.*|\.Spotlight-V100|"
    r"\.fseventsd|__MACOSX|Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information|"
    r"lost\+found|@eaDir",
    re.IGNORECASE,
)


def is_litter(name: str) -> bool:
    """Whether operating systems and file servers make files or folders of this name by themselves.

    Some cannot be read or removed, and none is part of what people put into a folder.
    """
    return bool(_LITTER.fullmatch(name))


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """Yield a path beside `path` to write to; the file is renamed to `path` at the end.

    If writing fails, the unfinished file is removed and `path` stays as it was. A killed process
    leaves the unfinished file, and the next write of `path` replaces it.

    Args:
      path: path of the finished file.
      shared: whether several processes may write `path` at once; each then uses its own file.

    Raises:
      OSError: writing failed; an error without a file name gets that of the unfinished file.
    """
    unique = f"{uuid.uuid4().hex}-" if shared else ""
    partial = path.with_name(f"{PARTIAL}{unique}{path.name}")
    try:
        with with_path(partial):
            yield partial
            partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def with_path(path: pathlib.Path) -> Iterator[None]:
    """Add the file name to errors of the operating system that have none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_bytes(path: pathlib.Path, content: bytes | bytearray) -> None:
    """Write a file completely or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a UTF-8 file completely or not at all; line ends are kept."""
    write_bytes(path, text.encode("utf-8"))


def generator(text: str) -> np.random.Generator:
    """A random generator whose seed depends only on `text`."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def git_blob_sha1(data: bytes) -> str:
    """The SHA-1, in hex, of a git blob with these bytes."""
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()
