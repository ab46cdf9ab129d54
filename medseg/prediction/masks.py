"""The output that every prediction has: a mask where its image lies, see `medseg.io.masks`.

A mask is on the disk before it takes its name; that the names are, too, is waited for once, at the end of the run: a
power cut takes the last ones back, and the next run does those cases again.
"""

from __future__ import annotations

from pathlib import Path

from medseg.atomic import sync_folder
from medseg.io.masks import write_mask
from medseg.prediction.sinks import Case, Result, RunInfo

__all__ = ["Masks"]


class Masks:
    """Writes the mask of each case to its ``target``."""

    wants: frozenset[str] = frozenset()

    def open(self, run: RunInfo) -> None:
        """Begin a run."""
        self._run = run
        self._folders: dict[Path, None] = {}

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
            sync_name=False,
        )
        self._folders[case.target.parent] = None

    def close(self) -> None:
        """Wait until the names of all masks are on the disk."""
        while self._folders:
            sync_folder(self._folders.popitem()[0])
