"""What a node receives: a DICOM store SCP that says success of what is on the disk and in the queue, of nothing else.

Titles and addresses that are not known are refused before a byte of an object is taken. Transfer syntaxes are those
that medseg decodes, so that an archive which holds others converts them. No tag gets into a log.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from medseg.errors import MedsegError, shown
from medseg.io.dicom_heads import check_deflated, quiet
from medseg.node.config import Config
from medseg.node.inflow import bound, size_of
from medseg.node.queue import Queue
from medseg.node.repeated import Repeated
from medseg.node.states import Added, Incoming, Part
from medseg.node.store import Store, stands_for

__all__ = [
    "CANNOT_UNDERSTAND",
    "DUPLICATE",
    "OUT_OF_RESOURCES",
    "SUCCESS",
    "WRONG_CLASS",
    "Receiver",
    "require_pynetdicom",
]

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, WRONG_CLASS, CANNOT_UNDERSTAND, DUPLICATE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0111
"""Statuses of C-STORE (PS3.4, B.2.3); a duplicate is an instance whose UID is here with other bytes (PS3.7, C.4.2)."""

_NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_JPEG = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (70, 57, 80, 90, 81, 91, 50, 51))
SYNTAXES = (*_NATIVE, "1.2.840.10008.1.2.5", *_JPEG)  # see `medseg.io.dicom_pixels`; without loss first
_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UNKNOWN_CALLER = (0x01, 0x01, 0x03)  # rejected for good, by the service user: calling AE title not recognised
_PATIENCE = 20.0  # seconds for what is in hand when the node is told to stop


def require_pynetdicom() -> Any:
    """Return pynetdicom.

    Raises:
        MedsegError: if it is not installed.
    """
    try:
        import pynetdicom
    except ImportError as error:
        raise MedsegError("a node needs pynetdicom; install it: pip install 'medseg[dicom]'") from error
    return pynetdicom


class Receiver:
    """The store SCP.

    Args:
        config: of the node.
        store: where files go.
        queue: where rows go.
        clock: gives the time.
    """

    def __init__(self, config: Config, store: Store, queue: Queue, clock: Callable[[], float] = time.time) -> None:
        self._config, self._store, self._queue, self._clock = config, store, queue, clock
        self._open: dict[Any, dict[Part, int]] = {}  # series that an association brings, with their study's number
        self._cut: dict[Any, set[Part]] = {}  # series of which something was lost while it was open
        self._unread: WeakSet[Any] = WeakSet()  # associations of which an object is of who knows what series
        self._over: WeakSet[Any] = WeakSet()  # associations that ended, maybe in the middle of an object
        self._lock, self._idle = threading.Lock(), threading.Condition()
        self._busy, self._closing, self._full = 0, False, False
        self._most = int(config.object_mib * 2**20)
        self._unstored, self._too_large = Repeated(logger), Repeated(logger)
        self._server: Any = None
        self.port = config.port

    def start(self) -> None:
        """Listen.

        Raises:
            MedsegError: if the port cannot be had.
        """
        pynetdicom = require_pynetdicom()
        from pynetdicom import evt

        self._ae = ae = pynetdicom.AE(ae_title=self._config.title)
        ae.require_called_aet = True
        ae.require_calling_aet = [caller.title for caller in self._config.callers]
        ae.maximum_associations = self._config.associations
        for context in pynetdicom.AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, list(SYNTAXES))
        ae.add_supported_context("1.2.840.10008.1.1")  # C-ECHO
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, lambda event: bound(event.assoc, self._most)),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_ACSE_RECV, self._asked),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server = ae.start_server((self._config.address, self.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise MedsegError(
                f"{self._config.address}:{self.port} cannot be listened on ({error.strerror}); choose another port"
            ) from error
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Take no more, finish the object in hand, close."""
        if self._server is None:
            return
        self._closing = True
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, timeout=_PATIENCE)
        self._ae.shutdown()
        self._server = None

    def held(self) -> set[int]:
        """Return the studies that somebody is sending just now."""
        with self._lock:
            return self._brought()

    def _brought(self) -> set[int]:
        return {number for parts in self._open.values() for number in parts.values()}

    # ------------------------------------------------------------------------------------------ associations

    def _requested(self, event: Any) -> None:
        """Refuse a known title from a foreign address."""
        title = str(event.assoc.requestor.primitive.calling_ae_title).strip()
        address = str(event.assoc.requestor.address)
        callers = [caller for caller in self._config.callers if caller.title == title]
        if callers and not any(_fits(caller.address, address) for caller in callers):
            event.assoc.acse.send_reject(*_UNKNOWN_CALLER)
            self._rejected(event)
            event.assoc.kill()

    @staticmethod
    def _rejected(event: Any) -> None:
        peer = event.assoc.requestor.primitive
        calling, called = (shown(str(title).strip()) for title in (peer.calling_ae_title, peer.called_ae_title))
        where = shown(event.assoc.requestor.address)
        logger.warning("refused: %s at %s, who called %s", calling, where, called)

    def _asked(self, event: Any) -> None:
        """Commit that a sender has sent all before it is told so: killed in between, it sends again."""
        if type(event.primitive).__name__ == "A_RELEASE":
            self._let_go(event.assoc, whole=True)

    def _closed(self, event: Any) -> None:
        self._let_go(event.assoc, whole=False)

    def _let_go(self, association: Any, *, whole: bool) -> None:
        with self._lock:
            self._over.add(association)
            brought, cut = self._open.pop(association, {}), self._cut.pop(association, set())
            if self._closing and not whole:  # the node goes first: whether all had come, nobody knows
                brought = {}
            if not whole or association in self._unread:
                cut |= brought.keys()
                self._lose(cut)
            sound = brought.keys() - cut
            for others in self._cut.values():  # their sender came back with it
                others -= sound
            studies = set(brought.values()) - self._brought()
        if studies or sound or cut:
            try:
                self._queue.ended(studies, self._clock(), whole=sound, cut=cut)
            except Exception as error:  # the study then waits as if its sender had broken off
                logger.error("the queue cannot be written: %s", error)

    def _lose(self, parts: Set[Part]) -> None:
        """Take note that something of series is lost: who brings others of them just now does not make them whole."""
        for association, brought in self._open.items():
            self._cut.setdefault(association, set()).update(parts & brought.keys())

    # ------------------------------------------------------------------------------------------ objects

    def _stored(self, event: Any) -> int:
        """Answer a C-STORE; whatever goes wrong here, the sender keeps the object and no tag is logged."""
        uids = None
        with self._in_hand() as taken:
            try:
                content = event.encoded_dataset()
                status, uids = _identify(event.request, content)
                if size_of(event.request.DataSet) > self._most:
                    status = OUT_OF_RESOURCES
                    self._too_large.failed(
                        f"objects of more than {self._config.object_mib:g} MiB (object_mib) are refused"
                    )
                elif uids is not None and status == SUCCESS:
                    status = self._store_object(event, content, uids) if taken else OUT_OF_RESOURCES
                elif status != SUCCESS:
                    logger.warning("refused an object with status %04X: its tags are not as DICOM asks", status)
            except Exception as error:  # a full disk, a locked queue: the sender shall try again
                why = getattr(error, "strerror", None) or type(error).__name__
                self._unstored.failed(f"an object could not be stored: {why}")
                status = OUT_OF_RESOURCES
            if status != SUCCESS:
                self._refused(event.assoc, uids)
            if event.assoc in self._over:  # it ended meanwhile: nobody else lets its studies go
                self._let_go(event.assoc, whole=False)
            return status

    def _refused(self, association: Any, uids: tuple[str, str, str] | None) -> None:
        with self._lock:
            if uids is None:
                self._unread.add(association)
            else:
                part = stands_for(uids[0]), stands_for(uids[1])
                self._cut.setdefault(association, set()).add(part)
                self._lose({part})

    @contextmanager
    def _in_hand(self) -> Iterator[bool]:
        with self._idle:
            taken = not self._closing
            self._busy += taken
        try:
            yield taken
        finally:
            with self._idle:
                self._busy -= taken
                self._idle.notify_all()

    def _store_object(self, event: Any, content: bytes, uids: tuple[str, str, str]) -> int:
        if not self._has_room(len(content)):
            return OUT_OF_RESOURCES
        study, series, sop = (stands_for(uid) for uid in uids)
        digest = hashlib.sha256(event.encoded_dataset(include_meta=False)).hexdigest()
        written = self._store.write(content)
        try:
            became, number = self._queue.add(
                Incoming(study, series, sop, digest, len(content)),
                lambda number: self._store.place(written, self._store.file(number, series, sop)),
                self._clock(),
            )
        finally:
            written.unlink(missing_ok=True)
        with self._lock:
            self._open.setdefault(event.assoc, {})[study, series] = number
        self._unstored.over("objects are stored again")
        if became == Added.OTHER:
            logger.warning("study %d: an instance came again with other content; the first one is kept", number)
            return DUPLICATE
        return SUCCESS

    def _has_room(self, size: int) -> bool:
        why = self._store.full(self._queue.held, self._config.disk_gib, size)
        if why and not self._full:
            logger.error("full: %s; objects are refused", why)
        elif self._full and not why:
            logger.info("there is room again")
        self._full = bool(why)
        return not why


def _fits(expected: str, address: str) -> bool:
    return expected in ("", "any", address) or f"::ffff:{expected}" == address


def _identify(asked: Any, content: bytes) -> tuple[int, tuple[str, str, str] | None]:
    """Return success or the status that refuses an object, and the UIDs of its study, series and instance."""
    import pydicom

    try:
        with quiet():
            check_deflated(io.BytesIO(content), len(content), "an object")
            head = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_TAGS), stop_before_pixels=True)
            kind, sop, study, series = (str(head.get(name) or "").strip("\0 ") for name in _TAGS)
    except Exception:  # pydicom raises nearly every type on damaged bytes
        return CANNOT_UNDERSTAND, None
    if not (study and series and sop):
        return CANNOT_UNDERSTAND, None
    right = sop == str(asked.AffectedSOPInstanceUID) and kind == str(asked.AffectedSOPClassUID)
    return SUCCESS if right else WRONG_CLASS, (study, series, sop)
