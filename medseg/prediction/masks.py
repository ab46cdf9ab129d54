"""The output that every prediction has: a mask where its image lies, see `medseg.io.masks`."""

from __future__ import annotations

from pathlib import Path

from medseg.io.masks import write_mask
from medseg.prediction.sinks import Case, Result, RunInfo

__all__ = ["Masks"]


class Masks:
    """Writes the mask of each case to its ``target``."""

    wants: frozenset[str] = frozenset()

    def open(self, run: RunInfo) -> None:
        """Begin a run."""
        self._run = run

    def files(self, case: Case) -> list[Path]:
        """Return the mask's file."""
        return [case.target]

    def has(self, case: Case) -> bool:
        """Return true: nothing is shared."""
        return True

    def write(self, case: Case, result: Result) -> None:
        """Write the mask."""
        write_mask(
            result.mask,
            result.grid,
            case.target,
            source=case.image,
            class_names=self._run.description.classes,
            colours=self._run.description.colours,
            keep_header=self._run.keep_identifiers,
        )

    def close(self) -> None:
        """End the run."""
