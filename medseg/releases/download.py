"""Downloads that resume and are verified; standard library only."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from medseg.atomic import atomic_write, sync_folder
from medseg.errors import MedsegError, shown

__all__ = ["DownloadError", "download"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

_CHUNK = 1 << 18
_SCHEMES = ("https", "http", "file")
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_DIGITS = {"sha256": 64, "md5": 32}
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SPAN = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)


class DownloadError(MedsegError):
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
            raise DownloadError(
                f"{shown(req.full_url)}: redirects to {shown(newurl)}, which is not safe; take another source"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Limits:
    """How long a download may take and how large it may become; ends its connections when the time is over.

    A server that sends a byte now and then never times out: each read, of headers too, gets something. So a timer shuts
    the socket down, whatever waits for it.
    """

    def __init__(self, timeout: float, seconds: float, max_bytes: int) -> None:
        self.timeout, self.seconds, self.max_bytes = timeout, seconds, max_bytes
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Limits:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self._over.is_set()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.over:
            self._end()

    def check(self, url: str, size: int) -> None:
        if self.over:
            raise TimeoutError(f"it takes more than {self.seconds:g} s")
        if size > self.max_bytes:
            raise DownloadError(f"{shown(url)}: is larger than {self.max_bytes} bytes; check the address")

    def _end(self) -> None:
        self._over.set()
        for connection in self._sockets:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # a TLS socket's own shutdown is not thread-safe


class _Connection(http.client.HTTPConnection):
    limits: _Limits

    def connect(self) -> None:
        super().connect()
        self.limits.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    limits: _Limits

    def connect(self) -> None:
        super().connect()
        self.limits.watch(self.sock)


class _Handler(urllib.request.HTTPHandler):
    def __init__(self, limits: _Limits) -> None:
        super().__init__()
        self.limits = limits

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def _connect(self, host: str, /, **options: Any) -> _Connection:
        made = _Connection(host, **options)
        made.limits = self.limits
        return made


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, limits: _Limits) -> None:
        super().__init__()
        self.limits = limits

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def _connect(self, host: str, /, **options: Any) -> _SecureConnection:
        made = _SecureConnection(host, **options)
        made.limits = self.limits
        return made


@dataclass(frozen=True)
class _Part:
    """The unfinished file beside the target, and a note of what it is a part of."""

    file: Path
    note: Path

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def read_note(self, url: str, trusted: bool) -> dict[str, Any]:
        """Return what was known of the file as the transfer began; drop a part that may be of something else."""
        note: dict[str, Any] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self.note.read_text(encoding="utf-8"))
            if found["url"] == url and isinstance(found["validator"], str):
                note = {"validator": found["validator"], "length": found["length"]}
        if not note.get("validator") and not trusted:
            self.drop()  # without a checksum nobody would notice halves of two versions
        return note

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
    total_timeout: float = 12 * 3600.0,
    max_bytes: int = 2**38,
) -> Path:
    """Download a file, continuing an interrupted transfer.

    The transfer goes to ``<target>.part`` and is renamed when it is complete and verified, so `target` is never a
    part. A part is continued with an HTTP range; it is started again where the server does not know ranges, where the
    file on the server has changed (its ETag or date, or its length), and, if no checksum is given, where the part
    belongs to another URL or the server gave it neither ETag nor date. A compressed answer, a range that was not asked
    for and, without a checksum, a file of unknown length are refused.
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
        total_timeout: seconds for all of it, however many bytes drip in; what came is kept, the next run continues.
        max_bytes: largest file that is taken.

    Raises:
        DownloadError: if the file cannot be had or its checksum differs.
    """
    target = Path(target)
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise DownloadError(f"{shown(url)}: only {', '.join(_SCHEMES)} addresses are downloaded")
    checksums = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value is not None}
    for name, value in checksums.items():
        if not re.fullmatch(f"[0-9a-f]{{{_DIGITS[name]}}}", value):
            raise DownloadError(
                f"{shown(url)}: {name} {shown(value)[:80]!r} is not one; it has {_DIGITS[name]} hexadecimal digits"
            )
    if target.is_dir():
        raise DownloadError(f"{shown(url)}: {shown(target)} is a folder; name the file to write")
    if target.exists() and all(_digest(target, name) == value for name, value in checksums.items()):
        logger.info("%s: already there", shown(target))
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json"))
    with _Limits(timeout, total_timeout, max_bytes) as limits:
        _attempt(url, part, bool(checksums), progress, limits, retries, backoff)
    for name, expected in checksums.items():
        found = _digest(part.file, name)
        if found != expected:
            part.drop()
            raise DownloadError(
                f"{shown(url)}: {name} is {found}, but {expected} was expected; the download was deleted. "
                "Run again; if it stays so, the file at the source has changed"
            )
    os.replace(part.file, target)
    sync_folder(target.parent)
    part.note.unlink(missing_ok=True)
    return target


def _attempt(
    url: str, part: _Part, trusted: bool, progress: Progress | None, limits: _Limits, retries: int, backoff: float
) -> None:
    """Transfer, again and again where the fault may pass."""
    for attempt in range(retries + 1):
        try:
            _transfer(url, part, trusted, progress, limits)
            return
        except (OSError, http.client.HTTPException) as error:
            if attempt == retries or limits.over or not _may_pass(error):
                reason = f"it takes more than {limits.seconds:g} s" if limits.over else shown(error)
                raise DownloadError(
                    f"{shown(url)}: cannot be downloaded ({reason}) after {attempt + 1} attempt{'s' * (attempt > 0)}; "
                    f"{part.size} bytes are kept in {shown(part.file)}: run again to continue, or fetch the file by "
                    "hand"
                ) from error
            wait = min(30.0, backoff * 2**attempt)
            logger.warning("%s: %s; continuing at byte %d in %.1f s", shown(url), shown(error), part.size, wait)
            time.sleep(wait)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING_STATUS
    if isinstance(error, urllib.error.URLError):
        return not isinstance(error.reason, (FileNotFoundError, IsADirectoryError, PermissionError))
    return isinstance(error, (_InterruptedTransferError, ConnectionError, TimeoutError, http.client.HTTPException))


def _transfer(url: str, part: _Part, trusted: bool, progress: Progress | None, limits: _Limits) -> None:
    """Bring the part to its full length, or raise."""
    note = part.read_note(url, trusted)
    offset = part.size if not url.startswith("file:") else 0
    with _open(url, offset, note.get("validator"), limits) as response:
        if response is None:  # nothing comes after the part: it is whole, or longer than the file, or of an older one
            found = _whole_file(url, limits)
            if found["length"] == offset and _same(note, found):
                return
            part.drop()
            raise _InterruptedTransferError(f"the part of {offset} bytes does not fit the file of {found['length']}")
        offset, found = _describe(url, response, offset)
        if offset and not _same(note, found):
            part.drop()  # two versions would make one file that never was
            raise _InterruptedTransferError("the file at the source has changed since the transfer began")
        total = found["length"]
        if total is None and not trusted and not getattr(response, "chunked", False):
            raise DownloadError(
                f"{shown(url)}: the server does not say how long the file is, so that a broken transfer would look "
                "whole; give its sha256, or fetch it by hand"
            )
        if offset == 0:
            with atomic_write(part.note) as temporary:
                temporary.write_text(json.dumps({"url": url, **found}), encoding="utf-8")
        with part.file.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.truncate()
            for chunk in _chunks(response):
                file.write(chunk)
                limits.check(url, file.tell())
                if progress is not None:
                    progress(file.tell(), total)
            done = file.tell()
            limits.check(url, done)  # a connection that was ended for the time looks like a file that ends
            file.flush()
            os.fsync(file.fileno())  # before it takes the target's name
    if total is not None and done != total:
        raise _InterruptedTransferError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _open(url: str, offset: int, validator: str | None, limits: _Limits) -> Iterator[Any]:
    """Open the URL from an offset; yields ``None`` where the server has nothing from there on."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "medseg"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
    opener = urllib.request.build_opener(_SafeRedirect, _Handler(limits), _SecureHandler(limits))
    try:
        response = opener.open(request, timeout=limits.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not offset:
            raise
        yield None
        return
    with response:
        yield response


def _whole_file(url: str, limits: _Limits) -> dict[str, Any]:
    with _open(url, 0, None, limits) as response:
        return _describe(url, response, 0)[1]


def _describe(url: str, response: Any, offset: int) -> tuple[int, dict[str, Any]]:
    """Return the byte at which the response begins, and length and validator of the whole file.

    Raises:
        DownloadError: if the answer is not what was asked for.
    """
    headers, where = response.headers, shown(url)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise DownloadError(f"{where}: the server sent it in the encoding {shown(encoding)!r}; fetch the file by hand")
    length = headers.get("Content-Length")
    if length is not None and not _NUMBER.fullmatch(length.strip()):
        raise DownloadError(f"{where}: the server sent the length {shown(length)[:40]!r}; take another source")
    etag = headers.get("ETag") or ""
    strong = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""
    found = {"length": None if length is None else int(length), "validator": strong}
    if getattr(response, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, found
    sent = headers.get("Content-Range", "")
    span = _SPAN.fullmatch(sent.strip())
    if span is None or not offset or int(span[1]) != offset:
        asked = f"asked for byte {offset}" if offset else "asked for the whole file"
        raise DownloadError(
            f"{where}: {asked}, but the server sent {shown(sent)[:60]!r}; delete the .part file and run again"
        )
    if span[3] != "*":
        found["length"] = int(span[3])
    elif length is not None:
        found["length"] = offset + int(length)
    return offset, found


def _same(note: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether what was noted as the transfer began still holds; what was not noted is not compared."""
    return all(not note.get(key) or note[key] == found[key] for key in ("validator", "length"))


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)  # what has come so far: `read` would wait for a whole chunk of drips
        except http.client.IncompleteRead as error:
            raise _InterruptedTransferError("the connection ended early") from error
        if not chunk:
            return
        yield chunk


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()
