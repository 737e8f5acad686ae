"""Local files and folders, and remote ones in the file systems of TensorFlow.

The packages open every path through `at`. A local path is a `pathlib.Path`. A path with a scheme
that TensorFlow knows, such as `gs://bucket/folder`, has the same methods. Callers need to know the
difference only to rename or lock folders.
"""

import contextlib
import errno
import fnmatch
import functools
import importlib
import io
import os
import pathlib
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

from ixi_tfds.system.errors import UserError

_WILDCARD = re.compile(r"[*?\[\]\\]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def at(path: str | os.PathLike[str], *parts: str) -> pathlib.Path:
    """The path of a file or folder, which need not exist.

    Args:
      path: as given by the user; remote paths begin with `scheme://`.
      parts: names to append to the path.

    Raises:
      UserError: TensorFlow does not know the scheme.
    """
    if not is_remote(path):
        return pathlib.Path(path, *parts)
    _check_scheme(str(path).partition("://")[0])
    return cast(pathlib.Path, _RemotePath(path, *parts))


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path has a scheme, such as `gs://bucket`."""
    return bool(_SCHEME.match(os.fspath(path)))


def check_local(path: str, flag: str) -> None:
    """Refuse a remote path for a flag that needs a local one.

    Raises:
      UserError: the path has a scheme; the message names the flag.
    """
    if is_remote(path):
        raise UserError(
            f"--{flag}={path}: give a folder on a local or mounted disk, and copy from there"
        )


def walk(
    folder: pathlib.Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like `os.walk`: folders from the top, with the names of their folders and files."""
    if not is_remote(folder):
        yield from os.walk(folder, onerror=onerror)
        return
    try:
        children = list(folder.iterdir())
        folders = [child.name for child in children if child.is_dir()]
    except OSError as error:
        if onerror:
            onerror(error)
        return
    yield str(folder), folders, sorted({child.name for child in children} - set(folders))
    for name in folders:
        yield from walk(folder / name, onerror)


@contextlib.contextmanager
def without_wildcards(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path of a folder that TensorFlow can restore from, whatever characters are in it.

    TensorFlow takes the paths of checkpoints and SavedModels for patterns.
    """
    if is_remote(folder) or not _WILDCARD.search(str(folder)):
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield pathlib.Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def synchronise(file: IO[bytes]) -> None:
    """Write a local file's bytes to the disk before returning."""
    file.flush()
    with contextlib.suppress(io.UnsupportedOperation):
        os.fsync(file.fileno())


class _Facts(NamedTuple):
    st_mode: int
    st_size: int


class _RemotePath(pathlib.PurePosixPath):
    """The methods of `pathlib.Path` that the packages use, on TensorFlow's file systems."""

    def __str__(self) -> str:
        # pathlib turns two slashes into one.
        return re.sub(r"^([^/]+:)/(?!/)", r"\1//", super().__str__())

    def resolve(self) -> "_RemotePath":
        return self

    expanduser = resolve

    def exists(self) -> bool:
        with _telling(self):
            return _gfile().exists(str(self))

    def is_dir(self) -> bool:
        # Not `isdir`, which cannot tell an unreachable store from an empty one.
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        return self.exists() and not self.is_dir()

    def stat(self) -> _Facts:
        with _telling(self):
            facts = _gfile().stat(str(self))
        kind = stat.S_IFDIR if facts.is_directory else stat.S_IFREG
        return _Facts(kind | 0o644, facts.length)

    def open(
        self, mode: str = "r", encoding: str | None = None, newline: str | None = None
    ) -> IO[Any]:
        raw = _RawFile(self, "wb" if "w" in mode else "rb")
        buffered = io.BufferedWriter(raw) if "w" in mode else io.BufferedReader(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, newline=newline)

    def read_bytes(self) -> bytes:
        # Not with `open`, which would request one block at a time.
        with _telling(self), _gfile().GFile(str(self), "rb") as file:
            return file.read()

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> None:
        with _telling(self), _gfile().GFile(str(self), "wb") as file:
            file.write(data)

    def write_text(
        self, text: str, encoding: str | None = None, newline: str | None = None
    ) -> None:
        self.write_bytes(text.encode(encoding or "utf-8"))

    def iterdir(self) -> Iterator["_RemotePath"]:
        with _telling(self):
            names = _gfile().listdir(str(self))
        for name in sorted(name.rstrip("/") for name in names):
            yield self / name

    def glob(self, pattern: str) -> Iterator["_RemotePath"]:
        first, _, rest = pattern.partition("/")
        try:
            inside = list(self.iterdir())
        except OSError:
            return
        for path in inside:
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        if not exist_ok and self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        with _telling(self):
            _gfile().makedirs(str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with _telling(self):
                _gfile().remove(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "_RemotePath") -> "_RemotePath":
        # A file renamed to itself would be copied and then removed.
        if target != self:
            with _telling(self):
                _gfile().rename(str(self), str(target), overwrite=True)
        return target

    replace = rename


class _RawFile(io.RawIOBase):
    """A TensorFlow file as a raw stream for Python's buffers and decoders."""

    def __init__(self, path: _RemotePath, mode: str) -> None:
        self._path, self._mode = path, mode
        # Python closes the stream, too, if opening fails.
        self._file: Any = None
        with _telling(path):
            self._file = _gfile().GFile(str(path), mode)
            # GFile opens the file at first use; a missing file should be an error here.
            self._file.seek(0) if mode == "rb" else self._file.write(b"")

    def readable(self) -> bool:
        return self._mode == "rb"

    def writable(self) -> bool:
        return self._mode == "wb"

    def seekable(self) -> bool:
        return self.readable()

    def readinto(self, buffer: Any) -> int:
        with _telling(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        with _telling(self._path):
            self._file.write(bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _telling(self._path):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        with _telling(self._path):
            return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._file is not None:
                with _telling(self._path):
                    self._file.close()


def remove_tree(path: pathlib.Path) -> None:
    """Remove a folder and its content, if it exists."""
    if not path.exists():
        return
    if not is_remote(path):
        shutil.rmtree(path)
        return
    with _telling(path):
        _gfile().rmtree(str(path))


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file; source and target may be local or remote."""
    with _telling(target):
        _gfile().copy(str(source), str(target), overwrite=True)


def is_storage_fault(error: BaseException) -> bool:
    """Whether an error of TensorFlow is about remote files, not about a computation."""
    import tensorflow as tf

    return isinstance(error, tf.errors.OpError) and bool(_SCHEME.search(str(error)))


def storage_fault(path: str | os.PathLike[str], error: BaseException) -> UserError:
    """The error to show the user for an error of remote storage."""
    what = " ".join(str(error).split())[:300]
    return UserError(
        f"{path}: the storage refuses or cannot be reached ({what}); see that the bucket is there, "
        "and that network and credentials are in order (docs/scaling.md), then run the same "
        "command again"
    )


@contextlib.contextmanager
def _telling(path: pathlib.PurePath) -> Iterator[None]:
    """Turn TensorFlow's errors into `FileNotFoundError` or a `UserError`."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except tf.errors.OpError as error:
        raise storage_fault(path, error) from error


@functools.cache
def _gfile() -> Any:
    # The import takes seconds and half a gigabyte, so only remote files trigger it.
    import tensorflow as tf

    return tf.io.gfile


@functools.cache
def _check_scheme(scheme: str) -> None:
    if scheme not in _gfile().get_registered_schemes():
        # Importing tensorflow_io registers more schemes, if it is installed.
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorflow_io")
    known = sorted(set(_gfile().get_registered_schemes()) - {"", "file"})
    if scheme not in known:
        raise UserError(
            f"{scheme}://: TensorFlow has no file system for it, only for "
            f"{', '.join(f'{name}://' for name in known)}; docs/scaling.md says how to add one"
        )
    _register_with_tfds(scheme)


def _register_with_tfds(scheme: str) -> None:
    """Let TFDS open paths of this scheme; it knows only a few schemes by itself."""
    from etils import epath

    epath.register_path_cls(f"{scheme}://")(_RemotePath)
