"""Who makes the cells of a study: an executor takes them and tells of each, by its name, when it is done.

That is all there is between a study and the machines that work for it: `cells_by` turns cells into jobs for the
executors of `medseg.jobs`. The cells themselves see to it that each is made once: whichever process comes to one locks
it, goes on with it, or finds it complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from medseg.errors import counted
from medseg.jobs import here as machine
from medseg.jobs import job
from medseg.jobs.job import Done, Job
from medseg.studies.study import Cell, StudyError
from medseg.studies.study_cell import CELL, Places

__all__ = ["CellsError", "Done", "Executor", "all_done", "cells_by", "here"]

Executor = Callable[[Path, Sequence[Cell], bool], Iterator[Done]]
"""Takes the folder of a study, cells of it and whether cells may be mixed; yields each cell when it is done."""


_LONG = 30 * 24 * 3600  # seconds: as long as the batch system lets it


class CellsError(StudyError):
    """Cells that could not be made, or parts of a test that could not be scored.

    Args:
        message: what is said of them.
        failed: why, by the cell's name.
    """

    def __init__(self, message: str, failed: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failed = failed


def all_done(results: Iterator[Done], number: int, noun: str, remedy: str, say: Callable[[str], None]) -> None:
    """Tell of each that is done, until all are.

    Args:
        results: of an executor.
        number: how many there are.
        noun: what they are.
        remedy: what to do about those that failed.
        say: called with a line of news.

    Raises:
        CellsError: with those that failed, after the last.
    """
    began, done = time.monotonic(), 0
    failed: dict[str, str] = {}
    for result in results:
        done += 1
        if result.error:
            failed[result.name] = result.error
            say(f"{done} of {number}  {result.name} is not complete: {result.error}")
            continue
        left = (time.monotonic() - began) / done * (number - done) / 60
        say(f"{done} of {number}  {result.name}  about {left:.0f} min left")
    if failed:
        lines = "\n  ".join(f"{name}: {error}" for name, error in failed.items())
        raise CellsError(f"{counted(len(failed), noun)} of {number} could not be made; {remedy}:\n  {lines}", failed)


def cells_by(executor: job.Executor) -> Executor:
    """Return what makes cells by jobs.

    A job waits while another works on its cell, such as one that a batch system still has of a study that was killed,
    and finds the cell complete then.

    Args:
        executor: of `medseg.jobs`.
    """

    def execute(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        places = Places(folder)
        more = ("--mixed",) if mixed else ()
        return executor(
            [
                Job(
                    cell.name,
                    ("study", "cell", str(folder), cell.name, "--tied", "--patience", str(_LONG), *more),
                    places.log(cell.name),
                    places.cell(cell.name) / CELL,
                    names_device=job.names_device(cell.row.settings),
                )
                for cell in cells
            ]
        )

    return execute


def here(workers: int = 1) -> Executor:
    """Return what makes so many cells at a time on this machine, see `medseg.jobs.here.here`."""
    return cells_by(machine.here(workers))
