"""Downloads that resume and are verified; standard library only."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from medseg.atomic import atomic_write

__all__ = ["DownloadError", "download"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 18
_SCHEMES = ("https", "http", "file")
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(RuntimeError):
    """A file could not be downloaded or is not the expected one; the message names the URL."""


class _InterruptedTransferError(OSError):
    """The transfer stopped early; it may be resumed."""


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https down to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to follow with, or raise for a forbidden one."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DownloadError(f"{req.full_url}: redirects to {newurl}, which is not safe; take another source")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class _Part:
    """The unfinished file beside the target, and a note of what it is a part of."""

    file: Path
    note: Path

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def validator(self, url: str, trusted: bool) -> str | None:
        """Return what the server must still hold for the part to be continued; drop a part of something else."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            known = note["url"] == url and isinstance(note["validator"], str)
        except (OSError, ValueError, KeyError, TypeError):
            note, known = {}, False
        if not known and not trusted:
            self.drop()  # without a checksum nobody would notice halves of two versions
        return note["validator"] if known and note["validator"] else None

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    retries: int = 5,
    backoff: float = 1.0,
) -> Path:
    """Download a file, continuing an interrupted transfer.

    The transfer goes to ``<target>.part`` and is renamed when it is complete and verified, so `target` is never a
    part. A part is continued with an HTTP range; it is started again where the server does not know ranges, where the
    file on the server has changed, and where the part belongs to another URL and no checksum is given.
    An existing `target` is kept if it has the checksum, or if none is given.

    Args:
        url: ``https``, ``http`` or ``file`` URL.
        target: path of the file to write; its folder is made if missing.
        sha256: expected SHA-256, hexadecimal.
        md5: expected MD5, hexadecimal, for publishers that state no other.
        progress: called as ``progress(bytes done, bytes in all or None)``.
        timeout: seconds without a byte after which an attempt ends.
        retries: attempts after the first one.
        backoff: seconds before the first further attempt, doubled each time, at most 30.

    Raises:
        DownloadError: if the file cannot be had or its checksum differs.
    """
    target = Path(target)
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise DownloadError(f"{url}: only {', '.join(_SCHEMES)} addresses are downloaded")
    checksums = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    if target.exists() and all(_digest(target, name) == value for name, value in checksums.items()):
        logger.info("%s: already there", target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json"))
    for attempt in range(retries + 1):
        try:
            _transfer(url, part, bool(checksums), progress, timeout)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == retries or not _may_pass(error):
                raise DownloadError(
                    f"{url}: cannot be downloaded ({error}) after {attempt + 1} attempt{'s' * (attempt > 0)}; "
                    f"{part.size} bytes are kept in {part.file}: run again to continue, or fetch the file by hand"
                ) from error
            wait = min(30.0, backoff * 2**attempt)
            logger.warning("%s: %s; continuing at byte %d in %.1f s", url, error, part.size, wait)
            time.sleep(wait)
    for name, expected in checksums.items():
        found = _digest(part.file, name)
        if found != expected:
            part.drop()
            raise DownloadError(
                f"{url}: {name} is {found}, but {expected} was expected; the download was deleted. "
                "Run again; if it stays so, the file at the source has changed"
            )
    os.replace(part.file, target)
    part.note.unlink(missing_ok=True)
    return target


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING_STATUS
    if isinstance(error, urllib.error.URLError):
        return not isinstance(error.reason, (FileNotFoundError, IsADirectoryError, PermissionError))
    return isinstance(error, (_InterruptedTransferError, ConnectionError, TimeoutError, http.client.HTTPException))


def _transfer(url: str, part: _Part, trusted: bool, progress: Progress | None, timeout: float) -> None:
    """Bring the part to its full length, or raise."""
    validator = part.validator(url, trusted)
    offset = part.size if not url.startswith("file:") else 0
    with _open(url, offset, validator, timeout) as response:
        if response is None:  # nothing comes after the part: it is whole, or longer than the file
            total = _size_of(url, timeout)
            if total == offset:
                return
            part.drop()
            raise _InterruptedTransferError(f"the part of {offset} bytes does not fit the file of {total}")
        offset = _continued_at(response, offset)
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None else None
        if offset == 0:
            found = response.headers.get("ETag") or ""
            strong = found if found and not found.startswith("W/") else response.headers.get("Last-Modified") or ""
            with atomic_write(part.note) as temporary:
                temporary.write_text(json.dumps({"url": url, "validator": strong}), encoding="utf-8")
        with part.file.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            for chunk in _chunks(response):
                file.write(chunk)
                if progress is not None:
                    progress(file.tell(), total)
            done = file.tell()
    if total is not None and done != total:
        raise _InterruptedTransferError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _open(url: str, offset: int, validator: str | None, timeout: float) -> Iterator[Any]:
    """Open the URL from an offset; yields ``None`` where the server has nothing from there on."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "medseg"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
    opener = urllib.request.build_opener(_SafeRedirect)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
            error.close()
            raise
        error.close()
        yield None
        return
    with response:
        yield response


def _size_of(url: str, timeout: float) -> int | None:
    with _open(url, 0, None, timeout) as response:
        length = response.headers.get("Content-Length")
        return int(length) if length is not None else None


def _continued_at(response: Any, offset: int) -> int:
    """Return the byte at which the response begins."""
    if not offset or getattr(response, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        raise DownloadError(
            f"{response.url}: asked for byte {offset}, but the server sent "
            f"{response.headers.get('Content-Range')!r}; delete the .part file and run again"
        )
    return offset


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            if error.partial:
                yield error.partial
            raise _InterruptedTransferError("the connection ended early") from error
        if not chunk:
            return
        yield chunk


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()
