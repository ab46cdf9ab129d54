"""How a node's results reach archives: by C-STORE or STOW, one object after the other, each answer committed.

What an archive answers twice it has once: an object that is sent again has the UID that it had.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from medseg.errors import MedsegError, one_line
from medseg.io.dicom_heads import quiet, read_head
from medseg.node.config import Peer, Retry, Web
from medseg.node.queue import Queue
from medseg.node.receive import DUPLICATE, SUCCESS, require_pynetdicom
from medseg.node.states import Delivery
from medseg.node.store import Store

__all__ = ["Destination", "DicomPeer", "UnreachableError", "WebArchive", "destination_of", "send_due"]

logger = logging.getLogger(__name__)

_BATCH = 50  # objects of one association
_STORED = (SUCCESS, 0xB000, 0xB006, 0xB007, DUPLICATE)  # stored as it is, or with tags changed; there already
_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_MOST_CONTEXTS = 128
_CONNECT, _ANSWER = 10.0, 120.0  # seconds
_ECHO = "1.2.840.10008.1.1"


class UnreachableError(MedsegError):
    """An archive that cannot be reached, or went away; what was not answered is not stored."""


class Destination(Protocol):
    """Somebody who takes results."""

    @property
    def name(self) -> str:
        """What the queue calls it."""
        ...

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """Send files; yield, for each in order, an empty text where it is stored, else why not.

        Raises:
            UnreachableError: where nothing more can be sent now.
        """
        ...

    def check(self) -> None:
        """Ask whether it is there.

        Raises:
            MedsegError: if not.
        """
        ...


class DicomPeer:
    """An archive that takes C-STORE.

    Args:
        peer: of the configuration.
        title: the node's own AE title.
    """

    def __init__(self, peer: Peer, title: str) -> None:
        self.name, self._peer, self._title = peer.name, peer, title

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """Send files in one association.

        Raises:
            UnreachableError: if there is none, or it ends early.
        """
        kinds: dict[str, None] = {str(read_head(file, ["SOPClassUID"]).SOPClassUID): None for file in files}
        association = self._associate(list(kinds)[:_MOST_CONTEXTS])
        try:
            for file in files:
                yield self._send(association, file)
        finally:
            if association.is_established:
                association.release()

    def check(self) -> None:
        """Ask by C-ECHO.

        Raises:
            UnreachableError: if it does not answer.
        """
        association = self._associate([_ECHO])
        status = association.send_c_echo()
        if association.is_established:
            association.release()
        if status.get("Status") != SUCCESS:
            raise UnreachableError(
                f"{self.name} does not answer C-ECHO; look whether {self._peer.title} knows {self._title}"
            )

    def _associate(self, kinds: Sequence[str]) -> Any:
        ae = require_pynetdicom().AE(ae_title=self._title)
        ae.connection_timeout = ae.acse_timeout = _CONNECT
        ae.dimse_timeout = ae.network_timeout = _ANSWER
        for kind in kinds:
            ae.add_requested_context(kind, list(_SYNTAXES))
        association = ae.associate(self._peer.host, self._peer.port, ae_title=self._peer.title)
        if association.is_established:
            return association
        if association.is_rejected:
            raise UnreachableError(
                f"{self.name} refuses the association; make {self._title} known to {self._peer.title}"
            )
        if association.acceptor.primitive is not None:  # it answered, and took none of the kinds
            raise UnreachableError(f"{self.name} takes none of the kinds of object that are to be sent")
        raise UnreachableError(f"{self.name} cannot be reached at its host and port")

    def _send(self, association: Any, file: Path) -> str:
        if not association.is_established:
            raise UnreachableError(f"{self.name} broke off")
        try:
            with quiet():
                answer = association.send_c_store(file)
        except ValueError:
            return "it does not take this kind of object"
        except RuntimeError as error:  # it went away since the line above
            raise UnreachableError(f"{self.name} broke off") from error
        status = answer.get("Status")
        if status is None:
            raise UnreachableError(f"{self.name} broke off in the middle of an object")
        return "" if status in _STORED else f"it answers with status {status:04X}"


class WebArchive:
    """An archive that takes STOW, by `medseg.io.dicomweb`.

    Args:
        web: of the configuration.

    Raises:
        MedsegError: if its address or its credentials cannot be used.
    """

    def __init__(self, web: Web) -> None:
        self.name = web.name
        archive, address, session = (
            importlib.import_module(f"medseg.io.dicomweb{end}") for end in ("", "_address", "_session")
        )
        url = address.url_of(web.url)
        credentials = address.Credentials.read(url, web.credentials)
        self._archive: Any = archive.Archive(url, credentials, ca=web.ca, limits=session.Limits(tries=1))

    def send(self, files: Sequence[Path]) -> Iterator[str]:
        """Send files one by one: the answer to one is committed before the next.

        Raises:
            UnreachableError: if it does not answer.
        """
        for file in files:
            failed = self._archive.store([file]).failed
            if failed:
                self.check()
            yield failed[0][1] if failed else ""

    def check(self) -> None:
        """Ask whether it answers.

        Raises:
            UnreachableError: if not.
        """
        try:
            self._archive.has(["2.25.0"])
        except MedsegError as error:
            raise UnreachableError(f"{self.name}: {error}") from error


def destination_of(given: Peer | Web, title: str) -> Destination:
    """Return a destination.

    Args:
        given: of the configuration.
        title: the node's own AE title.
    """
    return DicomPeer(given, title) if isinstance(given, Peer) else WebArchive(given)


def send_due(
    queue: Queue,
    store: Store,
    destination: Destination,
    retry: Retry,
    clock: Callable[[], float],
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Send what is due to a destination, and commit each answer.

    Args:
        queue: it.
        store: where the results are.
        destination: where they go.
        retry: how often.
        clock: gives the time.
        stopping: whether the object in hand is to be the last.

    Returns:
        How many were stored.
    """
    due = queue.due(destination.name, clock(), _BATCH)
    left, stored = list(due), 0
    if not due:
        return 0
    try:
        for fault in destination.send([store.root / each.path for each in due]):
            delivery = left.pop(0)
            if fault:
                logger.warning("study %d: not stored by %s: %s", delivery.study, destination.name, fault)
                queue.not_delivered([delivery], fault, retry, clock())
            else:
                queue.delivered(delivery, clock())
                stored += 1
            if stopping():
                break
    except MedsegError as error:
        _not_sent(queue, destination, left, str(error), retry, clock)
    except OSError as error:
        _not_sent(queue, destination, left, one_line(error) or str(error.strerror), retry, clock)
    return stored


def _not_sent(
    queue: Queue,
    destination: Destination,
    left: Sequence[Delivery],
    reason: str,
    retry: Retry,
    clock: Callable[[], float],
) -> None:
    logger.warning("%d results wait: %s", len(left), reason)
    queue.not_delivered(left, reason.removeprefix(f"{destination.name} "), retry, clock())
