"""A node as a whole: it receives, predicts and sends side by side, and each may be killed at any moment."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from medseg.errors import counted, one_line
from medseg.node.config import Config
from medseg.node.page import StatusPage
from medseg.node.queue import Queue
from medseg.node.receive import Receiver
from medseg.node.repeated import Repeated
from medseg.node.send import Destination, Sender, destinations_of
from medseg.node.states import Claim, Worked
from medseg.node.status import Status, read_status, stranded
from medseg.node.store import Store
from medseg.node.upkeep import forget, recover, straighten, sweep
from medseg.node.work import Route, work
from medseg.runs.lock import FolderLock

__all__ = ["Node"]

logger = logging.getLogger(__name__)

_PAUSE = 0.25  # seconds between two looks at the queue
_AFTER_ERROR = 5.0
_TRIED_AGAIN = f"tried again every {_AFTER_ERROR:g} s"
_HOUR, _DAY = 3600.0, 86400.0
_TIDY = 1.0  # seconds between two looks at what may be deleted


class Node:
    """A node: `start`, then `stop`.

    Args:
        config: of it.
        routes: its models.
        destinations: where results go; ``None`` for those of the configuration.
    """

    def __init__(
        self, config: Config, routes: Sequence[Route], destinations: Sequence[Destination] | None = None
    ) -> None:
        self._config, self._routes = config, routes
        self._destinations = destinations_of(config) if destinations is None else destinations
        self._names = [each.name for each in self._destinations]
        self._store = Store(config.folder)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._page: StatusPage | None = None
        self._forgot = self._looked = 0.0

    @property
    def port(self) -> int:
        """That it listens on."""
        return self._receiver.port

    def start(self) -> None:
        """Take the folder, bring it in order, and begin.

        Raises:
            MedsegError: if another process has the folder, the queue cannot be read, or a port cannot be had.
        """
        config, store = self._config, self._store
        store.make()
        self._lock = FolderLock(store.root)
        self._lock.acquire()
        try:
            self._queue = Queue(store.queue)
            for line in recover(self._queue, store, config.predicting, time.time()).lines():
                logger.warning("%s", line)
            for line in stranded(self._status()):
                logger.warning("%s", line)
            self._receiver = Receiver(config, store, self._queue)
            self._receiver.start()
            if config.status_port is not None:
                self._page = StatusPage(config.status_port, config.title, self._status)
        except BaseException:
            if hasattr(self, "_queue"):
                self._queue.close()
            self._lock.release()
            raise
        self._begin("predicting", self._predict)
        for destination in self._destinations:
            sender = Sender(self._queue, store, destination, config.sending, time.time)
            self._begin(f"sending to {destination.name}", partial(sender.step, self._stop.is_set))
        self._begin("deleting", self._tidy, _TIDY)
        logger.info("%s listens on %s:%d", config.title, config.address, self.port)

    def stop(self) -> None:
        """Finish the objects in hand, and the study if it takes no longer than the configuration allows; then end."""
        self._stop.set()
        self._receiver.stop()
        until = time.monotonic() + self._config.stop_seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if self._page is not None:
            self._page.stop()
        if any(thread.is_alive() for thread in self._threads):
            logger.warning("what is in hand takes longer; it is done again at the next start")
            return  # the process ends now; the queue is as whole as after a kill
        self._queue.close()
        self._lock.release()

    def _status(self) -> Status:
        return read_status(self._store.queue, running=True, to=self._names, disk_gib=self._config.disk_gib)

    def _begin(self, name: str, step: Callable[[], int], pause: float = _PAUSE) -> None:
        thread = threading.Thread(target=self._loop, args=(name, step, pause), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _loop(self, name: str, step: Callable[[], int], pause: float) -> None:
        """Take steps until the node ends; one that fails, such as by a full disk, is taken again later."""
        repeated = Repeated(logger)
        while not self._stop.is_set():
            try:
                idle = not step()
            except Exception as error:
                repeated.failed(f"{name}: {_why(error)}", _TRIED_AGAIN)
                logger.debug("%s", name, exc_info=error)
                self._stop.wait(_AFTER_ERROR)
                continue
            repeated.over(f"{name}: goes on")
            if idle:
                self._stop.wait(pause)

    def _predict(self) -> int:
        config = self._config
        claim = self._queue.claim(time.time(), config.still_seconds, config.broken_seconds, self._receiver.held())
        if claim is None:
            return False
        began = time.monotonic()
        worked = work(claim, self._store, self._routes)
        seconds = time.monotonic() - began
        if not self._committed(claim, worked):
            logger.info("study %d grew meanwhile; it is done again", claim.study)
            return True
        logger.info("study %d: %s in %.1f s", claim.study, counted(len(worked.made), "result"), seconds)
        for line in (*worked.faults, *worked.notes):
            logger.warning("study %d: %s", claim.study, line)
        return True

    def _committed(self, claim: Claim, worked: Worked) -> bool:
        """Commit what came of a study, when the disk allows it: the study is in nobody else's hands."""
        repeated = Repeated(logger)
        while True:
            try:
                return self._queue.predicted(claim, worked, self._names, self._config.predicting, time.time())
            except sqlite3.Error as error:
                if self._stop.is_set():
                    raise
                repeated.failed(f"the queue cannot be written ({error})", _TRIED_AGAIN)
                self._stop.wait(_AFTER_ERROR)

    def _tidy(self) -> bool:
        config, now = self._config, time.time()
        if now < self._looked - _TIDY:
            logger.warning("the clock was set back by %.0f s", self._looked - now)
            straighten(self._queue, now, now)
        self._looked = now
        keep, keep_failed = config.keep_hours * _HOUR, config.keep_failed_hours * _HOUR
        sweep(self._queue, keep, keep_failed, now, self._store.remove)
        if abs(now - self._forgot) > _HOUR:
            forget(self._queue, now - config.forget_days * _DAY)
            self._forgot = now
        return False


def _why(error: Exception) -> str:
    """Return why a step failed; no message of a library gets into a log but those that cannot name a patient."""
    if isinstance(error, sqlite3.Error):
        return f"the queue cannot be used ({error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__
