"""A session with an archive whose answers have bounds.

What requests would take from the environment by itself (``~/.netrc``, proxies) it does not take here, and it follows no
redirect: data of patients go where they were sent.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from medseg.caller import spelt
from medseg.io.dicomweb_address import ArchiveError, Credentials

__all__ = ["BrokenAnswerError", "Limits", "Session", "why_untrusted"]

_CHUNK = 2**16
_TAIL = 256  # bytes: longer than any boundary (RFC 2046: 70)
_UNTRUSTED = {  # by OpenSSL's X509_V_ERR_*
    9: "it is not valid yet; see this computer's clock",
    10: "it is too old; have it renewed",
    18: "it is self-signed; name it by {}",
    62: "it is of another host; name the host as it does",
    64: "it is of another host; name the host as it does",
}
_NO_AUTHORITY = 2, 19, 20, 21, 27


class BrokenAnswerError(Exception):
    """An answer that stopped early; asked again, it may be whole."""


@dataclass(frozen=True)
class Limits:
    """What an archive may cost.

    Args:
        connect: seconds until it must have taken the connection.
        read: seconds without a byte.
        answer: seconds that one answer may take.
        tries: how often it is asked for one thing.
        pause: seconds before the second time; each further pause is twice the last.
        rounds: how often a series that grows is read again.
        most_bytes: of all series that one `medseg.io.dicomweb.Archive` downloads; of any other answer by itself.
        most_instances: of one series.
    """

    connect: float = 10.0
    read: float = 60.0
    answer: float = 3600.0
    tries: int = 5
    pause: float = 1.0
    rounds: int = 4
    most_bytes: int = 64 * 2**30
    most_instances: int = 50_000


class Session(requests.Session):
    """A session that sends to one place alone, verifies it, and bounds its answers.

    Args:
        credentials: who asks.
        ca: file of certificates (PEM) to trust in place of the public authorities.
        limits: of each answer.

    Raises:
        ArchiveError: if ``ca`` holds no certificate.
    """

    def __init__(self, credentials: Credentials, ca: Path | None, limits: Limits) -> None:
        super().__init__()
        if ca is not None:
            try:
                ssl.create_default_context(cafile=str(ca))
            except ssl.SSLError:
                raise ArchiveError(f"{ca}: holds no certificate in PEM form; convert it") from None
            except OSError as error:
                raise ArchiveError(f"{ca}: cannot be read ({error.strerror}); name a certificate") from error
        self.trust_env = False
        self.max_redirects = 0
        self.verify = True if ca is None else str(ca)
        self.auth = credentials
        self.headers.update({"Accept": "application/dicom+json", "Accept-Encoding": "identity", "User-Agent": "medseg"})
        self.room = limits.most_bytes
        self._limits = limits
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(self))

    def taken(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            ArchiveError: if they are too many.
        """
        self.room -= count
        if self.room < 0:
            raise ArchiveError(
                f"the archive sends more than {self._limits.most_bytes / 2**30:.3g} GiB; name fewer studies, or series"
            )

    @property
    def limits(self) -> Limits:
        """Of each answer."""
        return self._limits


class _Adapter(HTTPAdapter):
    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        made = _Answer(self._session)
        made.__dict__.update(super().build_response(req, resp).__dict__)
        return made


class _Answer(requests.Response):
    """An answer whose bytes are counted and timed as they come, and whose parts must have an end."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session, self.began = session, time.monotonic()

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """Yield what comes, as it comes.

        Raises:
            ArchiveError: if it is too much, or takes too long.
            BrokenAnswerError: if it stops before its end.
        """
        if self._content_consumed:
            return iter([self.content])
        return self._bounded()

    def _bounded(self) -> Iterator[bytes]:
        tail = b""
        try:
            while chunk := self._read_some():
                tail = (tail + chunk)[-_TAIL:]
                yield chunk
            self._content_consumed = True
            if self._boundary() not in tail:
                raise BrokenAnswerError("its answer stops in the middle")
        finally:
            if not self._content_consumed:
                self.close()

    def _read_some(self) -> bytes:
        limits = self.session.limits
        try:
            chunk = bytes(self.raw.read1(_CHUNK, decode_content=True))
        except ReadTimeoutError:
            raise BrokenAnswerError(f"its answer pauses for more than {limits.read:g} s") from None
        except (HTTPError, OSError):
            raise BrokenAnswerError("its answer stops in the middle") from None
        if time.monotonic() - self.began > limits.answer:
            raise ArchiveError(f"an answer of the archive takes more than {limits.answer:g} s; ask for less")
        self.session.taken(len(chunk))
        return chunk

    def _boundary(self) -> bytes:
        """Return what an answer of several parts ends with; nothing for any other."""
        kind, *parameters = self.headers.get("Content-Type", "").split(";")
        named = dict(each.strip().partition("=")[::2] for each in parameters)
        boundary = named.get("boundary", "").strip('"') if kind.strip().lower() == "multipart/related" else ""
        return f"--{boundary}--".encode() if boundary else b""


def why_untrusted(error: BaseException) -> str | None:
    """Return why a certificate is not trusted, and the way out; ``None`` where no certificate is the reason.

    Args:
        error: as requests raises it, around that of the library that compares certificates.
    """
    inner: object = error
    while isinstance(inner, BaseException) and not isinstance(inner, ssl.SSLCertVerificationError):
        inner = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
    if not isinstance(inner, ssl.SSLCertVerificationError):
        return None
    unknown = "its authority is not known; name the certificate, or its authority's, by {}"
    if inner.verify_code not in _NO_AUTHORITY:
        unknown = f"{inner.verify_message}; have it made anew"
    return _UNTRUSTED.get(inner.verify_code, unknown).format(spelt("ca", "FILE"))
