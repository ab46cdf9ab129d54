"""How a node's results reach archives: by C-STORE or STOW, one object after the other, each answer committed.

What an archive answers twice it has once: an object that is sent again has the UID that it had.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from medseg.errors import MedsegError, counted, one_line
from medseg.io.dicom_heads import quiet, read_head
from medseg.io.dicomweb_address import VARIABLES
from medseg.node.config import Config, Peer, Retry, Web
from medseg.node.queue import Queue
from medseg.node.receive import DUPLICATE, SUCCESS, require_pynetdicom
from medseg.node.states import Delivery
from medseg.node.store import Store

__all__ = [
    *("BrokenOffError", "Destination", "DicomPeer", "Sender", "UnreachableError", "WebArchive"),
    *("destination_of", "destinations_of", "refuse_shared_secrets"),
]

logger = logging.getLogger(__name__)

_BATCH = 50  # objects of one association
_STORED = (SUCCESS, 0xB000, 0xB006, 0xB007, DUPLICATE)  # stored as it is, or with tags changed; there already
_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_MOST_CONTEXTS = 128
_CONNECT, _ANSWER = 10.0, 120.0  # seconds
_ECHO = "1.2.840.10008.1.1"


class UnreachableError(MedsegError):
    """An archive that cannot be reached, or went away; what was not answered is not stored."""


class BrokenOffError(UnreachableError):
    """An archive that went away at one object, which may be at fault: the others do not wait for it."""


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
        kinds = {str(read_head(file, ["SOPClassUID"]).SOPClassUID) for file in files}
        association = self._associate(sorted(kinds)[:_MOST_CONTEXTS])
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
            raise BrokenOffError(f"{self.name} broke off")
        try:
            with quiet():
                answer = association.send_c_store(file)
        except ValueError:
            return "it does not take this kind of object"
        except RuntimeError as error:  # it went away since the line above
            raise BrokenOffError(f"{self.name} broke off") from error
        status = answer.get("Status")
        if status is None:
            raise BrokenOffError(f"{self.name} broke off in the middle of an object")
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
        # requests and urllib3 are of the extra, too
        from medseg.io.dicomweb import Archive
        from medseg.io.dicomweb_address import Credentials, url_of
        from medseg.io.dicomweb_session import Limits

        url = url_of(web.url)
        variables = web.variables if any(web.variables) else VARIABLES
        credentials = Credentials.read(url, web.credentials, variables=variables)
        self._archive = Archive(url, credentials, ca=web.ca, limits=Limits(tries=1))

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
            raise UnreachableError(f"{self.name} does not answer: {error}") from error


def destination_of(given: Peer | Web, title: str) -> Destination:
    """Return a destination.

    Args:
        given: of the configuration.
        title: the node's own AE title.
    """
    return DicomPeer(given, title) if isinstance(given, Peer) else WebArchive(given)


def destinations_of(config: Config) -> list[Destination]:
    """Return all destinations of a node.

    Raises:
        MedsegError: if one cannot be used, or a secret would go to more hosts than one.
    """
    refuse_shared_secrets(config)
    return [destination_of(each, config.title) for each in config.destinations]


def refuse_shared_secrets(config: Config) -> None:
    """Refuse to give one secret of the environment to several hosts.

    Raises:
        MedsegError: naming the destinations.
    """
    unnamed = [
        each for each in config.destinations if isinstance(each, Web) and not (each.credentials or any(each.variables))
    ]
    if len({urlsplit(each.url).netloc for each in unnamed}) > 1 and any(map(os.environ.get, VARIABLES)):
        names = ", ".join(each.name for each in unnamed)
        raise MedsegError(
            f"{VARIABLES[1]} or {VARIABLES[2]} would go to several hosts ({names}); give each destination its own "
            "credentials, or user_env and password_env, or token_env"
        )


def _is_sound(path: Path) -> bool:
    try:
        head = read_head(path, ["SOPClassUID", "SOPInstanceUID"])
    except (MedsegError, OSError):
        return False
    return bool(head.get("SOPClassUID") and head.get("SOPInstanceUID"))


class Sender:
    """Sends what is due to one destination, and commits each answer.

    While the destination cannot be reached, nothing is tried until a pause is over, which grows.

    Args:
        queue: it.
        store: where the results are.
        destination: where they go.
        retry: how often.
        clock: gives the time.
    """

    def __init__(
        self, queue: Queue, store: Store, destination: Destination, retry: Retry, clock: Callable[[], float]
    ) -> None:
        self._queue, self._store, self._to = queue, store, destination
        self._retry, self._clock = retry, clock
        self._away, self._until = 0, 0.0  # how often in a row it could not be reached; when it is tried again

    def step(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Send some.

        Args:
            stopping: whether the object in hand is to be the last.

        Returns:
            How many were stored.
        """
        ahead = self._until - self._clock()
        pausing = 0 < ahead <= self._retry.longest_seconds  # more is of a clock that was set back
        due = [] if pausing else self._queue.due(self._to.name, self._clock(), _BATCH)
        gone = [each for each in due if not _is_sound(self._store.root / each.path)]
        left, stored = [each for each in due if each not in gone], 0
        if gone:
            self._wait(gone, "its file is gone or damaged; the next start makes it again")
        if not left:
            return 0
        try:
            for fault in self._to.send([self._store.root / each.path for each in left]):
                delivery, left = left[0], left[1:]
                self._back()
                if fault:
                    self._wait([delivery], fault)
                else:
                    self._queue.delivered(delivery, self._clock())
                    stored += 1
                if stopping():
                    break
        except BrokenOffError as error:
            self._back()
            self._wait(left[:1], str(error))
        except (MedsegError, OSError) as error:
            self._away += 1
            self._until = self._clock() + self._retry.pause(self._away)
            self._wait(left, one_line(error) or f"cannot be reached ({type(error).__name__})")
        except sqlite3.Error:
            raise
        except Exception as error:  # of a damaged object, which would be the first again and again
            self._wait(left[:1], f"cannot be sent ({type(error).__name__})")
        return stored

    def _back(self) -> None:
        if self._away:
            logger.info("%s is back", self._to.name)
        self._away, self._until = 0, 0.0

    def _wait(self, left: Sequence[Delivery], reason: str) -> None:
        reason = reason.removeprefix(f"{self._to.name} ")
        over = self._queue.not_delivered(left, reason, self._retry, self._clock())
        said = [counted(len(left) - over, "result waits", "results wait")] * (over < len(left))
        if over:
            given_up = f"{counted(over, 'result is', 'results are')} given up after {self._retry.times} tries"
            said.append(f"{given_up}: medseg node status, medseg node retry")
        logger.warning("%s: %s; %s", self._to.name, reason, ", ".join(said))
