"""A process that is asked to end (SIGTERM, SIGHUP) ends its run as KILLED, with the exit status that shells expect.

Only a command calls `handle`: a process that uses medseg from Python keeps the handlers that it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from medseg.caller import spelt

logger = logging.getLogger(__name__)

_received: list[int] = []
_process: list[int] = []
_blocks: list[None] = []  # that a request to end waits for


class Terminated(SystemExit):
    """The process was asked to end; its exit status is 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def handle() -> dict[int, Any]:
    """Turn SIGTERM and SIGHUP into `Terminated` in the main thread; one that is ignored (``nohup``) stays so.

    Returns:
        The handlers that were there, by signal.
    """
    _process[:] = [os.getpid()]
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, _end)
    return before


def received() -> Terminated | None:
    """Return the request to end, if there was one.

    An exception that a handler raises is lost where Python is in a destructor, and a loading process that got the same
    signal may end first: who goes on after either asks here.
    """
    return Terminated(_received[0]) if _received else None


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Let a request to end wait for the end of the block: a database call that is broken off leaves a locked file."""
    before = len(_received)
    _blocks.append(None)
    try:
        yield
    finally:
        _blocks.pop()
        if not _blocks and len(_received) > before:
            raise Terminated(_received[-1])


def _end(number: int, _frame: FrameType | None) -> None:
    if _process != [os.getpid()]:  # a loading process, forked with the handler: it ends at once
        os._exit(128 + number)
    if _received:  # it is ending
        return
    _received.append(number)
    named = signal.Signals(number).name
    logger.warning("%s: the run ends now; %s continues a training", named, spelt("resume", "FOLDER"))
    if not _blocks:
        raise Terminated(number)
