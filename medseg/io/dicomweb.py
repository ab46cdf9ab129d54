"""An archive of DICOM over DICOMweb: what a study holds (QIDO-RS), its files (WADO-RS), and storing (STOW-RS).

By dicomweb-client. What is asked for is compared with what came: a series is there whole, as the archive says that it
is before and after, or there is an error. What is stored is looked for first and read back after. No message names a
host, a UID or a tag: places are ``the archive`` and files by their names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from medseg.caller import spelt
from medseg.errors import counted
from medseg.io.dicom_heads import quiet
from medseg.io.dicomweb_address import ArchiveError, Credentials
from medseg.io.dicomweb_answers import TOLD, OfferedSeries, by_uid, digest_of, offered, text_of, why_refused
from medseg.io.dicomweb_session import BrokenAnswerError, Limits, Session, why_untrusted

__all__ = ["Archive", "ArchiveGoneError", "OfferedSeries", "StoreReport"]

_T = TypeVar("_T")
_AS_STORED = (("application/dicom", "*"),)
_TRANSIENT = (
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR),
    *(HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT),
)
_LATE = 3  # times that an archive is asked for what it has just taken


class ArchiveGoneError(ArchiveError):
    """An archive that answers nothing at all, or not to this user: further questions are in vain."""


@dataclass(frozen=True)
class StoreReport:
    """What became of files that were to be stored.

    Args:
        stored: that are in the archive now, and read back alike.
        present: that were there already, alike.
        failed: the others, with the reason.
        beside: those of ``stored`` whose series held other objects, as of an earlier result.
    """

    stored: tuple[Path, ...] = ()
    present: tuple[Path, ...] = ()
    failed: tuple[tuple[Path, str], ...] = ()
    beside: tuple[Path, ...] = ()


class Archive:
    """An archive of DICOM.

    Args:
        url: of its DICOMweb service, see `medseg.io.dicomweb_address.url_of`.
        credentials: who asks.
        ca: file of certificates to trust in place of the public authorities.
        limits: of time, bytes and tries.

    Raises:
        ArchiveError: if dicomweb-client is not there, or ``ca`` holds no certificate.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        ca: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        try:
            from dicomweb_client.web import DICOMwebClient
        except ImportError as error:
            raise ArchiveError("DICOMweb needs dicomweb-client; install it: pip install 'medseg[dicom]'") from error
        self._limits = limits or Limits()
        self._session = Session(credentials or Credentials(), ca, self._limits)
        timeout = self._limits.connect, self._limits.read
        try:
            # the chunk is of what is sent: in one piece, which every archive takes
            self._client = DICOMwebClient(url, self._session, timeout=timeout, chunk_size=2**62, permissive_uid=True)
        except ValueError as error:
            raise ArchiveError("the archive's address is none; write HOST:PORT/PATH, the path of DICOMweb") from error
        self._client.host = urlsplit(url).netloc  # what it sends as Host would lack the port
        self._client.set_http_retry_params(retry=False)  # it would ask again for what no asking mends

    def __enter__(self) -> Archive:
        """Return the archive."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    @property
    def limits(self) -> Limits:
        """Of time, bytes and tries."""
        return self._limits

    def series(self, study: str) -> tuple[OfferedSeries, ...]:
        """Return the series of a study, in the order of their UIDs.

        Raises:
            ArchiveError: if it cannot be asked, or has no such study.
        """
        found = self._search("SeriesInstanceUID", self._client.search_for_series, study, fields=list(TOLD))
        if not found:
            raise ArchiveError("the archive has no series of this study; see whether its UID is right")
        return tuple(offered(study, uid, answer) for uid, answer in sorted(found.items()))

    def instances(self, study: str, series: str) -> frozenset[str]:
        """Return the SOP instance UIDs of a series.

        Raises:
            ArchiveError: if the archive cannot be asked, or they are too many.
        """
        return frozenset(self._search("SOPInstanceUID", self._client.search_for_instances, study, series))

    def description(self, offered: OfferedSeries) -> str:
        """Return the whole description of a series, from one of its files where the search did not tell.

        Raises:
            ArchiveError: if the archive cannot be asked.
        """
        instances = sorted(self.instances(offered.study, offered.uid)) if not offered.told else []
        if not instances:
            return offered.description
        ask = self._client.retrieve_instance_metadata
        return self._again("reading tags", lambda: text_of(ask(offered.study, offered.uid, instances[0])))

    def retrieve(self, study: str, series: str, folder: Path) -> dict[str, Path]:
        """Download a series as it is stored, whole.

        Args:
            study: UID.
            series: UID.
            folder: new or empty, for its files alone, whose names follow from their UIDs.

        Returns:
            The files by SOP instance UID.

        Raises:
            ArchiveError: if it cannot be had, does not stop growing, or is too large.
            OSError: if the disk refuses.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        expected, first = self.instances(study, series), None
        for number in range(self._limits.rounds):
            if number:
                time.sleep(self._limits.pause * 2 ** (number - 1))
            first = len(expected) if first is None else first
            files = self._again("downloading a series", partial(self._download, study, series, expected, folder), True)
            expected = self.instances(study, series)
            if expected == set(files):
                return files
        raise ArchiveError(
            f"a series changes while it is read ({first} instances, then {len(expected)}); "
            "run again when the study is complete"
        )

    def has(self, uids: Iterable[str], study: str | None = None, series: str | None = None) -> frozenset[str]:
        """Return those SOP instance UIDs that the archive holds.

        Args:
            uids: looked for.
            study: that they are in; without it everywhere.
            series: that they are in.

        Raises:
            ArchiveError: if it cannot be asked.
        """
        found = set[str]()
        for uid in uids:
            ask = partial(self._client.search_for_instances, study, series, search_filters={"SOPInstanceUID": uid})
            found |= {uid} & self._asked("SOPInstanceUID", ask).keys()
        return frozenset(found)

    def object(self, study: str, series: str, uid: str) -> Any:
        """Return one object, as pydicom's ``Dataset``.

        Raises:
            ArchiveError: if it cannot be had.
        """
        return self._again("reading back", lambda: self._client.retrieve_instance(study, series, uid))

    def store(self, files: Sequence[Path]) -> StoreReport:
        """Store DICOM files that the archive does not hold yet, one by one, and read each back.

        Never raises for one of them: what failed is named, the others are stored. Called again with the same files, it
        stores what is missing.

        Args:
            files: of DICOM.
        """
        stored, present, beside = dict[str, Path](), list[Path](), list[Path]()
        failed, gone = list[tuple[Path, str]](), 0
        for number, file in enumerate(files):
            try:
                made, digest = _read(file)
                uid = str(made.SOPInstanceUID)
                held = self.instances(str(made.StudyInstanceUID), str(made.SeriesInstanceUID))
                if uid in held:
                    self._compare(made, digest)
                    present.append(file)
                    continue
                self._store(made, digest)
                gone, stored[uid] = 0, file
                beside += [file] * bool(held - stored.keys())
            except ArchiveGoneError as error:
                failed.append((file, str(error)))
                gone += 1
                if gone > 1:  # one alone may be the fault of the file
                    failed += [(each, str(error)) for each in files[number + 1 :]]
                    break
            except ArchiveError as error:
                failed.append((file, str(error)))
        return StoreReport(tuple(stored.values()), tuple(present), tuple(failed), tuple(beside))

    def _compare(self, made: Any, digest: str) -> None:
        if self._held(made) != digest:
            raise ArchiveError(
                "the archive holds another object of this UID (changed there, or of an older medseg); remove it there"
            )

    def _store(self, made: Any, digest: str) -> None:
        answer = self._again("storing", lambda: self._stow(made))
        if why := why_refused(answer, str(made.SOPInstanceUID)):
            raise ArchiveError(why)
        for number in range(_LATE):
            if self.has([made.SOPInstanceUID], made.StudyInstanceUID, made.SeriesInstanceUID):
                break
            time.sleep(self._limits.pause * 2**number)
        else:
            raise ArchiveError("the archive took it and does not find it; look into its log")
        if self._held(made) != digest:
            raise ArchiveError("the archive took it and gives back another content; look into its log")

    def _stow(self, dataset: Any) -> Any:
        try:
            return self._client.store_instances([dataset])
        except requests.HTTPError as error:
            response = error.response
            if response is None or response.status_code != HTTPStatus.CONFLICT:
                raise
            import pydicom

            try:
                return pydicom.Dataset.from_json(response.json())
            except Exception:  # no body, or none of DICOM
                raise ArchiveError("the archive did not take it (409, without a reason)") from None

    def _held(self, made: Any) -> str:
        """Return the digest of what the archive holds under an object's UID."""
        where = str(made.StudyInstanceUID), str(made.SeriesInstanceUID), str(made.SOPInstanceUID)
        return self._again("reading back", lambda: digest_of(self._client.retrieve_instance(*where)))

    def _download(self, study: str, series: str, expected: frozenset[str], folder: Path) -> dict[str, Path]:
        for left in folder.iterdir():  # of a try before
            left.unlink()
        files = dict[str, Path]()
        for dataset in self._client.iter_series(study, series, media_types=_AS_STORED):
            if str(dataset.get("SeriesInstanceUID")) != series:
                raise ArchiveError("the archive sends a file of another series than was asked for; look into its log")
            uid = str(dataset.SOPInstanceUID)
            files[uid] = folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:16]}.dcm"
            if len(files) > self._limits.most_instances:
                raise self._too_many()
            dataset.save_as(files[uid], enforce_file_format=True)
        if lacking := len(expected - files.keys()):
            raise BrokenAnswerError(f"{lacking} of {counted(len(expected), 'instance')} did not come")
        return files

    def _search(self, key: str, ask: Callable[..., Any], *where: str, **more: Any) -> dict[str, Mapping[str, Any]]:
        """Return all answers of a search by UID; archives may give them in parts."""
        found = dict[str, Mapping[str, Any]]()
        while True:
            offset = {"offset": len(found)} if found else {}
            new = self._asked(key, partial(ask, *where, **more, **offset))
            if not new.keys() - found.keys():  # none, or an archive that knows no offset and begins again
                return found
            found |= new
            if len(found) > self._limits.most_instances:
                raise self._too_many()

    def _asked(self, key: str, ask: Callable[[], Any]) -> dict[str, Mapping[str, Any]]:
        return self._again("a search", lambda: by_uid(ask(), key))

    def _too_many(self) -> ArchiveError:
        return ArchiveError(f"a series has more than {self._limits.most_instances} instances; name others")

    def _again(self, what: str, action: Callable[[], _T], kept: bool = False) -> _T:
        """Ask, and ask again after growing pauses where that may help.

        Args:
            what: for messages.
            action: asks.
            kept: whether what comes is kept, and counts for all further answers.

        Raises:
            ArchiveError: naming what was asked for, and why there is no answer.
        """
        why = ""
        for number in range(self._limits.tries):
            if number:
                time.sleep(self._limits.pause * 2 ** (number - 1))
            try:
                return self._counted(action, kept)
            except (ArchiveError, MemoryError):
                raise
            except Exception as error:
                why = self._why(error, what)
        raise ArchiveGoneError(
            f"the archive: {what} failed ({why}), tried {counted(self._limits.tries, 'time')}; "
            "see whether it runs, and run again"
        )

    def _counted(self, action: Callable[[], _T], kept: bool) -> _T:
        room, counts = self._session.room, False
        try:
            with quiet():
                found = action()
            counts = kept
            return found
        finally:
            if not counts:
                self._session.room = room

    def _why(self, error: Exception, what: str) -> str:
        """Return why an answer did not come, where asking again may help; raise where it does not."""
        if isinstance(error, BrokenAnswerError):
            return str(error)
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return _why_status(error.response.status_code, what)
        if isinstance(error, requests.exceptions.SSLError):
            if (untrusted := why_untrusted(error)) is None:
                return "TLS is not agreed on"
            raise ArchiveGoneError(f"the archive's certificate is not trusted: {untrusted}") from None
        if isinstance(error, requests.TooManyRedirects):
            raise ArchiveGoneError("the archive redirects to another address; name that one, if it is right") from None
        if isinstance(error, requests.Timeout):
            return f"no answer within {self._limits.read:g} s"
        if isinstance(error, requests.ConnectionError):
            return "no connection"
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise error  # of the disk
        raise ArchiveError(
            f"the archive: {what} is answered by what is no DICOMweb ({type(error).__name__}); see whether the path of "
            "the address is that of its DICOMweb service"
        ) from None


def _why_status(status: int, what: str) -> str:
    if status in _TRANSIENT:
        return f"status {status}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise ArchiveGoneError(
            f"the archive: {what} is not allowed to this user (status {status}); set MEDSEG_DICOMWEB_USER and "
            f"MEDSEG_DICOMWEB_PASSWORD, or name a file by {spelt('credentials', 'FILE')}"
        ) from None
    raise ArchiveError(
        f"the archive: {what} is refused (status {status}); see whether the path of the address is its DICOMweb, "
        "and the UIDs are right"
    ) from None


def _read(file: Path) -> tuple[Any, str]:
    """Return what a file holds, and its digest."""
    import pydicom

    try:
        with quiet():
            made = pydicom.dcmread(file)
            if not (made.StudyInstanceUID and made.SeriesInstanceUID and made.SOPInstanceUID):
                raise ValueError("a UID is empty")
            return made, digest_of(made)
    except Exception as error:  # pydicom raises nearly every type on damaged bytes
        raise ArchiveError(f"it cannot be read as DICOM ({type(error).__name__}); make it again") from error
