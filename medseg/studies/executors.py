"""Who makes the cells of a study: an executor takes them and tells of each, by its name, when it is done.

That is all there is between a study and the machines that work for it: `cells_by` turns cells into jobs for the
executors of `medseg.jobs`. The cells themselves see to it that each is made once: whichever process comes to one locks
it, goes on with it, or finds it complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medseg.jobs import here as machine
from medseg.jobs import job
from medseg.jobs.job import Done, Job
from medseg.studies.study import Cell
from medseg.studies.study_cell import CELL, Places

__all__ = ["Done", "Executor", "cells_by", "here"]

Executor = Callable[[Path, Sequence[Cell], bool], Iterator[Done]]
"""Takes the folder of a study, cells of it and whether cells may be mixed; yields each cell when it is done."""


_LONG = 30 * 24 * 3600  # seconds: as long as the batch system lets it


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
