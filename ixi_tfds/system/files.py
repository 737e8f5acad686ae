"""Files that are there whole or not at all, checksums, and random numbers from a name."""

import contextlib
import hashlib
import pathlib
import uuid
from collections.abc import Iterator

import numpy as np

PARTIAL = ".partial-"
"""How the names of files begin that are not finished."""


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, shared: bool = False) -> Iterator[pathlib.Path]:
    """Where to write what `path` shall hold: a file beside it that is renamed when it is finished.

    When writing fails the unfinished file is removed, and `path` is left as it was. A process that
    is killed leaves the unfinished file, which the next one to write `path` replaces.

    Args:
      path: of the finished file.
      shared: whether several processes may write `path` at once; each then has a file of its own.

    Raises:
      OSError: as it came, with the path of the unfinished file where it names none.
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
    """Name a file in errors of the operating system that name none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a UTF-8 file, line ends as they are, that is there whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def generator(text: str) -> np.random.Generator:
    """A generator of random numbers that depends on `text` alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def git_blob_sha1(data: bytes) -> str:
    """The SHA-1, in hex, that git gives a file of these bytes."""
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()
