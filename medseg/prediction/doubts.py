"""Which cases are unlike what a model was trained on: told when all are done, a line each of the first few."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from medseg.errors import counted, shown

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

    def add(self, name: str, said: Sequence[str]) -> None:
        """Add what was found of a case; of nothing, nothing."""
        if said:
            self._held.setdefault(name, []).extend(said)

    def of(self, name: str) -> tuple[str, ...]:
        """Return what was found of a case."""
        return tuple(self._held.get(name, ()))

    def warn(self, cases: int) -> None:
        """Say it.

        Args:
            cases: how many there are in all.
        """
        for name in sorted(self._held)[:_LINES]:
            logger.warning("%s", told(name, self._held[name]))
        if len(self._held) > _LINES:
            number, every = len(self._held), counted(cases, "image")
            logger.warning("%d of %s are unlike what the model was trained on; the record names all", number, every)
