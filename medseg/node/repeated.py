"""A fault that stays, such as a full disk: said once, then ever more rarely, and when it is another or over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Repeated"]

_FIRST, _LONGEST = 60.0, 3600.0  # seconds until one is said again; each pause is twice the last


class Repeated:
    """One thing that fails again and again; may be used by several threads.

    Args:
        logger: it is said to.
        clock: gives seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._lock = threading.Lock()
        self._fault, self._times, self._since, self._due, self._pause = "", 0, 0.0, 0.0, _FIRST

    def failed(self, fault: str, then: str = "") -> None:
        """Say a fault if it is new, or was not said for some time.

        Args:
            fault: what failed, and why.
            then: what is done about it.
        """
        with self._lock:
            now = self._clock()
            if fault != self._fault:
                self._fault, self._times, self._since, self._pause = fault, 0, now, _FIRST
            elif now < self._due:
                self._times += 1
                return
            else:
                self._pause = min(2 * self._pause, _LONGEST)
            self._times += 1
            self._due = now + self._pause
            again = f" ({self._times} times in {now - self._since:.0f} s)" if self._times > 1 else ""
            self._logger.error("%s%s%s", fault, again, then and f"; {then}")

    def over(self, told: str) -> None:
        """Say that it fails no more, if it did."""
        if not self._fault:  # nearly always, and without waiting for anybody
            return
        with self._lock:
            if self._fault:
                self._fault = ""
                self._logger.info("%s", told)
