"""What is doubtful of cases, told when all are done: what is unlike the training's, and what of their files counts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from medseg.errors import counted, shown, together

__all__ = ["Doubts", "told"]

logger = logging.getLogger(__name__)

_LINES = 5


def told(name: str, said: Sequence[str]) -> str:
    """Return the line of a case.

    Args:
        name: of the case.
        said: how it is unlike, a phrase each.
    """
    return f"{shown(name)} is unlike what the model was trained on, is it the model for it? {'; '.join(said)}"


class Doubts:
    """Gathers what is doubtful of cases."""

    def __init__(self) -> None:
        self._held: dict[str, list[str]] = {}
        self._notes: dict[str, str] = {}

    def add(self, name: str, said: Sequence[str], notes: str = "") -> None:
        """Add what was found of a case; of nothing, nothing.

        Args:
            name: of the case.
            said: how it is unlike, a phrase each.
            notes: what is to be told of how its file was read, such as which of two places in it counts.
        """
        if said:
            self._held.setdefault(name, []).extend(said)
        if notes:
            self._notes[name] = notes

    def of(self, name: str) -> tuple[str, ...]:
        """Return how a case is unlike."""
        return tuple(self._held.get(name, ()))

    def warn(self, cases: int) -> None:
        """Say it.

        Args:
            cases: how many there are in all.
        """
        lines = together(sorted(self._notes.items()), "image")
        for line in lines[:_LINES]:
            logger.warning("%s", line)
        if len(lines) > _LINES:
            logger.warning("so much is to be told of %s; the record names all", counted(len(self._notes), "image"))
        for name in sorted(self._held)[:_LINES]:
            logger.warning("%s", told(name, self._held[name]))
        if len(self._held) > _LINES:
            number, every = len(self._held), counted(cases, "image")
            logger.warning("%d of %s are unlike what the model was trained on; the record names all", number, every)
