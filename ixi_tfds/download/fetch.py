"""Fetch published files: resumable, verified, from one of several addresses.

The addresses are tried in order. Plain http is as good as https here, because the checksum decides
whether a file is the right one.
"""

import hashlib
import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ixi_tfds.cohorts.cohort import PublishedFile
from ixi_tfds.system.errors import DownloadError

ATTEMPTS = 4
"""Failures in a row, each with less than 1 MiB received, before the next address is tried."""

TIMEOUT_SECONDS = 60.0
"""Longest time without data from a connection."""

WAIT_SECONDS = 1.0
"""Pause before the second attempt at an address; the later pauses are 3 and 7 times as long."""

_BLOCK = 1 << 18
_PROGRESS_BYTES = 1 << 20


class _RefusedError(Exception):
    """An address cannot give the file, and further attempts are useless."""


class _DroppedError(Exception):
    """An address failed, but a further attempt may succeed."""


def fetch_files(files: Sequence[PublishedFile], output_dir: str) -> str:
    """Fetch published files into a folder. Files that are already there and right are kept.

    An interrupted transfer resumes where it stopped, in this run or a later one. Its bytes are in
    `<name>.part`, which gets its final name only when size and checksums are right.

    Args:
      files: the files to fetch.
      output_dir: folder for the files, made if missing.

    Returns:
      The path of the last of `files`.

    Raises:
      DownloadError: a file could not be fetched from any address, the folder cannot be written, or
        a file of the same name is there that is not the published one.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        for published in files:
            _fetch(published, Path(output_dir))
    except OSError as error:
        raise DownloadError(
            f"{output_dir}: cannot be written ({error}); solve this and run the same command again "
            "to resume"
        ) from error
    return str(Path(output_dir) / files[-1].name)


def bytes_bar(description: str, **kwargs: Any) -> tqdm:
    """A progress bar in bytes, on a terminal."""
    return tqdm(desc=description, unit="B", unit_scale=True, disable=None, leave=False, **kwargs)


def _fetch(published: PublishedFile, folder: Path) -> None:
    target, part = folder / published.name, folder / f"{published.name}.part"
    if target.exists():
        wrong = _mismatch(target, published)
        if wrong and published.sole:
            raise DownloadError(
                f"{target}: not the published file ({wrong}); move it away, or rename it to "
                f"{part.name} if its download was cut off, and run the same command again"
            )
        if wrong:
            logging.getLogger(__name__).warning(
                "%s: kept, though it is not the published file (%s)", target, wrong
            )
        return
    failures = []
    with bytes_bar(published.name) as bar:
        for url in published.urls:
            failure = _fetch_from(url, published, part, bar)
            if failure is None:
                part.replace(target)
                return
            failures.append(f"{url} ({failure})")
    raise DownloadError(
        f"{published.name} could not be fetched from {' or '.join(failures)}: run the same "
        f"command again later, or download it by hand to {target}"
    )


def _fetch_from(url: str, published: PublishedFile, part: Path, bar: tqdm) -> str | None:
    """Complete and verify `part` from one address.

    Returns:
      None if `part` is the published file, else the reason to give up this address.
    """
    etag = failure = ""
    failures, reached = 0, _size(part)
    while failures < ATTEMPTS:
        time.sleep(WAIT_SECONDS * (2**failures - 1))
        offset = _size(part)
        try:
            response = _open(url, offset, etag)
            if response is not None:
                with response:
                    etag = response.headers.get("ETag", "")
                    offset = _receive(response, offset, published, part, bar)
            wrong = _mismatch(part, published)
            if wrong is None:
                return None
            part.unlink()
            # Bytes from an earlier run or another address may be the wrong ones. A file that came
            # whole from this address will be wrong again.
            if offset == 0:
                return wrong
            failure = wrong
        except _RefusedError as error:
            return str(error)
        except _DroppedError as error:
            failure = str(error)
        bar.set_postfix_str(failure)
        failures += 1
        if _size(part) >= reached + _PROGRESS_BYTES:
            failures, reached = 1, _size(part)
    return f"{failure}, {ATTEMPTS} attempts"


def _open(url: str, offset: int, etag: str) -> Any:
    """The response to a request for the bytes from `offset`; None if there are none (416)."""
    headers = {"User-Agent": "ixi-autoencoders"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag.startswith('"'):  # A weak ETag does not guarantee equal bytes.
            headers["If-Range"] = etag
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            return None
        failure = _DroppedError if error.code in (408, 429) or error.code >= 500 else _RefusedError
        raise failure(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _RefusedError(
                f"its certificate is not valid: {error.reason.verify_message}"
            ) from error
        raise _DroppedError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(_text(error)) from error
    except ValueError as error:
        raise _RefusedError(_text(error)) from error


def _receive(response: Any, offset: int, published: PublishedFile, part: Path, bar: tqdm) -> int:
    """Append a response to `part`, or overwrite `part` if the response is the whole file.

    Returns:
      The offset of the response's first byte.
    """
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        sent = re.match(r"bytes ([0-9]+)-", response.headers.get("Content-Range", ""))
        if sent is None or int(sent[1]) != offset:
            part.unlink(missing_ok=True)
            raise _DroppedError("the answer has another range than the request")
    elif response.status == http.HTTPStatus.OK:
        offset = 0
    else:
        raise _RefusedError(f"HTTP {response.status}")
    total = None if response.length is None else offset + response.length
    whole = re.search(r"/([0-9]+)$", response.headers.get("Content-Range", ""))
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and whole:
        total = int(whole[1])
    fewest, most = published.sizes
    if total is not None and not fewest <= total <= most:
        raise _RefusedError(f"offers {total} bytes, but the file has {_expected(published)}")

    bar.total, bar.initial, bar.n = total, offset, offset
    bar.refresh()
    reached = offset
    with part.open("ab" if offset else "wb") as file:
        while reached < (most + 1 if total is None else total):
            block = _read(response)
            if not block:
                break
            file.write(block)
            bar.update(len(block))
            reached += len(block)
    if total is not None and reached < total:
        raise _DroppedError(f"the connection ended after {reached} of {total} bytes")
    return offset


def _read(response: Any) -> bytes:
    try:
        # read1 returns the bytes that have arrived, so that a broken connection loses none.
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(f"the connection broke: {_text(error)}") from error


def _mismatch(path: Path, published: PublishedFile) -> str | None:
    """How a file differs from the published one; None if it does not."""
    size = _size(path)
    if not published.sizes[0] <= size <= published.sizes[1]:
        return f"{size} bytes instead of {_expected(published)}"
    # Two files with the same MD5 can be made, but not a second file with a given MD5.
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file, bytes_bar(f"checking {path.name}", delay=1) as bar:
        bar.reset(size)
        while block := file.read(_BLOCK):
            md5.update(block)
            if published.sha256:
                sha256.update(block)
            bar.update(len(block))
    if md5.hexdigest() != published.md5:
        return f"its MD5 is {md5.hexdigest()} instead of {published.md5}"
    if published.sha256 and sha256.hexdigest() != published.sha256:
        return f"its SHA-256 is {sha256.hexdigest()} instead of {published.sha256}"
    return None


def _expected(published: PublishedFile) -> str:
    fewest, most = published.sizes
    return f"{most} bytes" if fewest == most else f"{fewest} to {most} bytes"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
