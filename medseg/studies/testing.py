"""The test of a study: its cells, and the ensembles of their folds, on the test list that none of them has seen.

Who looks at a test set again and again chooses by it. So nothing else of a study of folds touches it, and each test is
written down before it begins, in the study and in each run: when, which weights, which cases, how often before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from medseg.bundle import workflow
from medseg.bundle.looks import looking
from medseg.bundle.ready import refuse_unlabelled
from medseg.bundle.seen import refuse_seen
from medseg.data.datalist import Datalist
from medseg.errors import counted, few, shown
from medseg.runs.lock import FolderLock
from medseg.runs.paths import resolve_path
from medseg.runs.run_folder import MODEL
from medseg.studies.study import Cell, Study, StudyError, StudyRow, read_study
from medseg.studies.study_cell import STUDY, Made, Places, read_made
from medseg.studies.study_scores import collect, footnotes
from medseg.studies.study_table import StudyTable

__all__ = ["CASES", "ENSEMBLES", "SINGLE", "score_test_list"]

ENSEMBLES, SINGLE = "ensembles", "single_runs"
"""Folders of a test's two tables."""

CASES = "cases.csv"
"""File of each table that has the scores of each case."""

Say = Callable[[str], None]


def score_test_list(
    folder: str | Path, *, rows: Sequence[str] = (), mixed: bool = False, say: Say = lambda line: None
) -> tuple[Path, dict[str, StudyTable]]:
    """Score a study on the test list of its data, and write down that this was done.

    Args:
        folder: of the study.
        rows: names of those to test; all by default.
        mixed: whether cells of different code, data or budgets may stand in one table, which then says so.
        say: called with a line of news.

    Returns:
        The test's folder and its tables: `ENSEMBLES` where rows have several folds, and `SINGLE`.

    Raises:
        StudyError: if the folder holds no study, cells are missing or mixed, there is no test list, or the study's own
            table is of it already.
        MedsegError: if a run has seen a case of it, or another of its group.
        LockedError: if another process works in the study.
    """
    places = Places(resolve_path(folder, "the study's folder"))
    if not places.study.is_file():
        raise StudyError(f"{shown(places.folder)} holds no {STUDY}; name the folder of a study")
    lock = FolderLock(places.folder)
    lock.acquire()
    try:
        test = _Test.of(places, rows, mixed)
        return test.run(say)
    finally:
        lock.release()


@dataclass(frozen=True)
class _Test:
    """What is tested.

    Args:
        places: of the study.
        study: with the rows to test.
        data: of it.
        made: the cells of these rows.
        notes: what a reader must know of them.
    """

    places: Places
    study: Study
    data: Datalist
    made: Sequence[Made]
    notes: Sequence[str]

    @classmethod
    def of(cls, places: Places, rows: Sequence[str], mixed: bool) -> _Test:
        """Return a test, if there may be one."""
        whole = read_study(places.study)
        data = whole.load()
        where = shown(data.path)
        if not data.test:
            raise StudyError(f"{where}: its test list is empty, so that there is nothing to test on; fill the list")
        refuse_unlabelled(data, data.test, "test")
        _refuse_groups(data)
        if whole.folds_of(data) == (None,) and whole.scored == "test":
            raise StudyError(
                f"study {whole.name}: its own table is of the test list already (scored: test, without folds); see "
                f"{shown(places.folder / 'table.html')}"
            )
        study = replace(whole, rows=_named(whole, rows))
        cells = study.cells(data)
        made = {cell.name: read_made(places, study, cell) for cell in cells}
        missing = [name for name, each in made.items() if each is None]
        if missing:
            raise StudyError(
                f"{shown(places.folder)}: {len(missing)} of {counted(len(cells), 'cell')} are missing, "
                f"{few(missing, 3)}; make them before they are tested: medseg study run"
            )
        there = [each for each in made.values() if each is not None]
        at_hand = {**there[0].record, "data": data.fingerprint()}
        notes = footnotes(there, mixed, at_hand, "the data at hand")
        seen = refuse_seen([each.folder for each in there], data, [data.absolute(entry) for entry in data.test])
        if seen.unknown:
            notes.append(
                f"what they have seen is not known of {counted(len(seen.unknown), 'run')}: {few(seen.unknown)}"
            )
        return cls(places, study, data, there, notes)

    def run(self, say: Say) -> tuple[Path, dict[str, StudyTable]]:
        """Score, and return the test's folder with its tables."""
        target = next(place for place in map(self._folder, count(1)) if not place.exists())
        weights = {each.folder: each.folder / MODEL for each in self.made}
        hidden = any({**row.settings, **row.score_set}.get("hide_names") for row in self.study.rows)
        more = {"rows": [row.name for row in self.study.rows]}
        entries = [self.data.absolute(entry) for entry in self.data.test]
        with looking(self.data, entries, weights, more, hidden=hidden) as look:
            if look is None:
                raise StudyError(f"{shown(self.data.path)}: its test list is empty")
            say(f"{counted(len(entries), 'test case')}: {look['said']}")
            tables = self._tables(target, [*self.notes, look["said"]], say)
            for name, table in tables.items():
                table.write(target / name)
        return target, tables

    def _folder(self, number: int) -> Path:
        return self.places.folder / "tests" / str(number)

    def _tables(self, target: Path, notes: Sequence[str], say: Say) -> dict[str, StudyTable]:
        study, folds = self.study, self.study.folds_of(self.data)
        together, alone = [], []
        for row in study.rows if len(folds) > 1 else ():
            for seed in study.seeds:
                cell = Cell(row, None, seed)
                members = [each for each in self.made if (each.cell.row, each.cell.seed) == (row, seed)]
                together.append(self._scored(cell, members, target / ENSEMBLES / f"{row.slug}-seed{seed}", say))
        runs = [(fold, seed) for seed in study.seeds for fold in folds]
        for each in self.made:
            cell = Cell(each.cell.row, None, runs.index((each.cell.fold, each.cell.seed)))
            alone.append(self._scored(cell, [each], target / SINGLE / each.cell.name, say))
        asked = replace(study, title=f"{study.title}: test, single runs", seeds=tuple(range(len(runs))))
        names = [f"seed{seed}" if fold is None else f"fold{fold}-seed{seed}" for fold, seed in runs]
        found = {SINGLE: self._table(asked, alone, notes, names)}
        if together:  # without what a paper prints, which is of single networks
            asked = replace(study, title=f"{study.title}: test, ensembles of {len(folds)} folds", paper="")
            found = {ENSEMBLES: self._table(asked, together, notes), **found}
        return found

    def _scored(self, cell: Cell, members: Sequence[Made], target: Path, say: Say) -> Made:
        """Score cells as one, and return that as if it were a cell."""
        row = cell.row
        say(f"testing {row.name}, {few([each.cell.name for each in members], 3)}")
        device = {"device": row.settings["device"]} if "device" in row.settings else {}
        workflow.evaluate_together(
            [each.folder for each in members],
            data=self.data.path,
            output=target,
            overlays=row.score_with,
            overrides={**device, **row.score_set, "mlflow": False},
            scores=self.study.scores,
            noted=True,
        )
        return Made(cell, target.parent, {"data": self.data.fingerprint()}, target.name)

    def _table(
        self, study: Study, made: Sequence[Made], notes: Sequence[str], runs: Sequence[str] | None = None
    ) -> StudyTable:
        """Return a table of the test list, over seeds, or over runs that have names."""
        asked = replace(study, folds=(), scored="test")
        scores = collect(asked, self.data, made)
        scores = scores if runs is None else replace(scores, seeds=runs)
        return StudyTable(asked, scores, notes, replicate="seed" if runs is None else "run", cases_file=CASES)


def _named(study: Study, names: Sequence[str]) -> tuple[StudyRow, ...]:
    known: Mapping[str, StudyRow] = {row.name: row for row in study.rows}
    for name in names:
        if name not in known:
            raise StudyError(f"study {study.name} has no row {name!r}; there are {', '.join(known)}")
    return tuple(row for row in study.rows if not names or row.name in names)


def _refuse_groups(data: Datalist) -> None:
    """Refuse to test on cases of groups that are trained on."""
    seen = {entry["group"] for entry in (*data.training, *data.validation) if entry.get("group")}
    common = sorted({str(entry["group"]) for entry in data.test if entry.get("group") in seen})
    if common:
        raise StudyError(
            f"{shown(data.path)}: {counted(len(common), 'group')} of the test list (such as {shown(common[0])}) are in "
            "training too, so that it is no test; leave their cases out of the test list"
        )
