"""Cells become jobs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.jobs.job import Done, Job
from medseg.studies.executors import cells_by, here
from medseg.studies.study import Cell, StudyRow


def test_a_cell_that_names_its_device_is_not_given_another(tmp_path: Path) -> None:
    jobs: list[Job] = []

    def execute(given: Sequence[Job]) -> Iterator[Done]:
        jobs.extend(given)
        yield from (Done(each.name) for each in given)

    rows = [StudyRow("a"), StudyRow("b", settings={"device": "cuda:1"}), StudyRow("c", settings={"device": "cuda"})]
    done = list(cells_by(execute)(tmp_path, [Cell(row, 0, 0) for row in rows], False))
    assert [each.name for each in done] == ["a-fold0-seed0", "b-fold0-seed0", "c-fold0-seed0"]
    assert [each.names_device for each in jobs] == [False, True, False]


def test_workers_are_at_least_one() -> None:
    with pytest.raises(MedsegError, match="workers is 0; give a whole number of at least 1"):
        here(0)
