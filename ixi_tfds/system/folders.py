"""Output folders: one command writes at a time, and results are complete or absent.

A command locks its output folder while it writes and replaces results as a whole. Errors of the
operating system (no room, no permission, too many files) become one sentence for the user.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping

from ixi_tfds.system import files, storage
from ixi_tfds.system.errors import UserError

LOCK = ".lock"

_ROOM = "make room there"
_RIGHTS = "make it writable and readable for this user, or give another folder"
_FILES = "allow more open files, such as by `ulimit -n 4096`"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "see where its links lead",
    errno.EEXIST: "give the path of a folder",
    errno.ENOTDIR: "give the path of a folder",
    # Before EMFILE, because its message begins with that of EMFILE.
    errno.ENFILE: _FILES,
    errno.EMFILE: _FILES,
    errno.ENOENT: "bring it back, for it was there at the start",
    errno.EIO: "see whether the disk is in order",
}
"""Advice for the user about each error of the operating system."""

_UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str], flag: str) -> Iterator[None]:
    """Make a folder, and lock it so that no other command writes to it.

    The kernel locks the file `.lock` in the folder; the file is removed at the end. A killed
    process leaves the file, but no lock. Remote folders cannot be locked; a warning on standard
    error says so.

    Args:
      folder: the output folder.
      flag: the name of the flag for the folder, for messages.

    Raises:
      UserError: another process writes to the folder, or the operating system reports an error.
    """
    path = storage.at(folder)
    with os_errors_as_user_errors(path, flag):
        path.mkdir(parents=True, exist_ok=True)
        if storage.is_remote(path):
            _warn_of_no_lock(path)
            yield
        else:
            with _locked(path / LOCK, flag):
                yield


@contextlib.contextmanager
def os_errors_as_user_errors(folder: str | os.PathLike[str], flag: str) -> Iterator[None]:
    """Turn errors of the operating system, even inside a library's error, into one sentence.

    Args:
      folder: the folder to name if the error names no file.
      flag: the name of the flag for the folder.

    Raises:
      UserError: with the path, what is wrong, and what to do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if storage.is_remote(folder) and storage.is_storage_fault(error):
            raise storage.storage_fault(folder, error) from error
        found = _fault(error)
        if found is None:
            raise
        code, place = found
        if place in (None, str(folder)):
            place = f"--{flag}={folder}"
        raise UserError(
            f"{place}: {os.strerror(code)}; {_ADVICE[code]}, then run the same command again"
        ) from error


def _fault(error: BaseException) -> tuple[int, str | None] | None:
    """Number and file of the operating system's error in an exception; None if there is none."""
    if isinstance(error, OSError):
        known = error.errno in _ADVICE
        return (error.errno, error.filename) if known and error.errno is not None else None
    # TensorFlow keeps only the message of the error.
    text = str(error)
    for code in _ADVICE:
        words = re.escape(os.strerror(code))
        for pattern in (rf"{words}: '(/[^']+)'", rf"(/[^\s;]+); {words}", words):
            match = re.search(pattern, text)
            if match:
                return code, match[1] if match.groups() else None
    return None


@contextlib.contextmanager
def _locked(path: pathlib.Path, flag: str) -> Iterator[None]:
    file = _open_locked(path, flag)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _open_locked(path: pathlib.Path, flag: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed the file since it was opened.
            if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
                return file
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise UserError(
                f"{path.parent}: {holder} is writing there; wait until it is done, or give another "
                f"--{flag}"
            ) from None
        except OSError as error:
            if error.errno not in _UNLOCKABLE:
                os.close(file)
                raise
            _warn_of_no_lock(path.parent)
            return file
        os.close(file)


def _warn_of_no_lock(folder: pathlib.Path) -> None:
    print(
        f"warning: {folder}: its file system has no locks, so see to it that nothing else writes "
        "there",
        file=sys.stderr,
    )


def write_files(folder: pathlib.Path, texts: Mapping[str, str]) -> None:
    """Write text files that belong together.

    A reader sees the old files, for a moment fewer files, or the new files. Every file is complete,
    and old files are never mixed with new ones.

    Args:
      folder: the folder of the files.
      texts: content by name; the files appear in this order.
    """
    for leftover in folder.glob(".*.partial"):
        leftover.unlink()
    partials = {name: folder / f".{name}.partial" for name in texts}
    for name, text in texts.items():
        with files.with_path(partials[name]):
            partials[name].write_text(text, encoding="utf-8", newline="\n")
    for name in texts:
        (folder / name).unlink(missing_ok=True)
    for name, partial in partials.items():
        partial.replace(folder / name)


def put_in_place(made: pathlib.Path, folder: pathlib.Path, marker: str) -> None:
    """Move a finished folder to its place, and remove the old folder there.

    A reader sees the old folder, for a moment none, or the new one. Local folders are renamed, and
    `recover` repairs an interrupted rename. Remote folders cannot be renamed, so their files are
    moved one by one. The marker is removed first and written last, and readers ignore a folder
    without it.

    Args:
      made: the finished folder.
      folder: its place.
      marker: name of the file that marks a complete folder.
    """
    if storage.is_remote(folder):
        _move_in_place(made, folder, marker)
        return
    old = _replaced(folder)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    storage.remove_tree(old)


def _move_in_place(made: pathlib.Path, folder: pathlib.Path, marker: str) -> None:
    (folder / marker).unlink(missing_ok=True)
    storage.remove_tree(folder)
    files = [pathlib.PurePath(top, name) for top, _, names in storage.walk(made) for name in names]
    inside = [file.relative_to(pathlib.PurePath(made)) for file in files]
    for name in sorted(inside, key=lambda name: (str(name) == marker, name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Object stores rename files without a transfer.
        if storage.is_remote(made):
            (made / name).replace(folder / name)
        else:
            storage.copy(made / name, folder / name)
    storage.remove_tree(made)


def is_whole(folder: pathlib.Path, marker: str) -> bool:
    """Whether a complete folder is in the place that `put_in_place` writes."""
    return (folder / marker if storage.is_remote(folder) else folder).exists()


def recover(folder: pathlib.Path) -> None:
    """Restore the old folder if a process was killed while replacing it."""
    if storage.is_remote(folder):
        return
    old = _replaced(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    storage.remove_tree(old)


def _replaced(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f".replaced-{folder.name}")
