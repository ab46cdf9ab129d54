"""The test of a study: its cells, and the ensembles of their folds, on the test list that none of them has seen.

Who looks at a test set again and again chooses by it. So nothing else of a study of folds touches it, and each test is
written down before it begins, in the study and in each run: when, which weights, which cases, how often before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from medseg.bundle import workflow
from medseg.bundle.looks import looking
from medseg.bundle.ready import refuse_unlabelled
from medseg.bundle.seen import refuse_seen
from medseg.data.datalist import Datalist
from medseg.errors import counted, few, shown
from medseg.jobs import job
from medseg.jobs.here import here
from medseg.jobs.job import Job, names_device
from medseg.runs import tested
from medseg.runs.lock import FolderLock
from medseg.runs.paths import resolve_path
from medseg.runs.run_folder import METRICS, MODEL, RunFolder
from medseg.studies.executors import all_done
from medseg.studies.study import Cell, Study, StudyError, read_study
from medseg.studies.study_cell import Made, Places, read_made
from medseg.studies.study_run import Tracked
from medseg.studies.study_scores import collect, footnotes
from medseg.studies.study_table import StudyTable

__all__ = ["CASES", "ENSEMBLES", "SINGLE", "score_part", "score_test_list"]

ENSEMBLES, SINGLE = "ensembles", "single_runs"
"""Folders of a test's two tables."""

CASES = "cases.csv"
"""File of each table that has the scores of each case."""

Say = Callable[[str], None]


def score_test_list(
    folder: str | Path,
    *,
    rows: Sequence[str] = (),
    executor: job.Executor | None = None,
    mixed: bool = False,
    tracking: bool = True,
    tracking_uri: str | None = None,
    say: Say = lambda line: None,
) -> tuple[Path, dict[str, StudyTable]]:
    """Score a study on the test list of its data, and write down that this was done.

    Args:
        folder: of the study.
        rows: names of those to test; all by default.
        executor: scores each ensemble and run; by default one after the other on this machine.
        mixed: whether cells of different code, data or budgets may stand in one table, which then says so.
        tracking: whether MLflow is told, of the test as a run and of each ensemble and run as its child.
        tracking_uri: of MLflow; by default the database in the study's folder.
        say: called with a line of news.

    Returns:
        The test's folder and its tables: `ENSEMBLES` where rows have several folds, and `SINGLE`.

    Raises:
        StudyError: if the folder holds no study, cells are missing or mixed, there is no test list, or the study's own
            table is of it already.
        MedsegError: if a run has seen a case of it, or another of its group.
        CellsError: with what could not be scored, after the last.
        LockedError: if another process works in the study.
    """
    places = Places.begun(folder)
    lock = FolderLock(places.folder)
    lock.acquire()
    try:
        test = _Test.of(places, rows, mixed)
        target, parts, tables = test.run(executor or here(), say)
        if tracking:
            name = f"{places.folder.name}_test_{target.name}"
            Tracked(test.study, places.folder, tracking_uri).tell(
                target, name, [target / p.name for p in parts], tables
            )
    finally:
        lock.release()
    return target, tables


def score_part(folder: str | Path, look: str, name: str) -> Path:
    """Score one ensemble or run of a test that has begun, in this process.

    Args:
        folder: of the study.
        look: id of the test, as the study's ``tested.json`` has it.
        name: of the part, such as ``single_runs/u_net-fold0-seed0``.

    Returns:
        The folder of its scores.

    Raises:
        StudyError: if there is no such test at work, or it has no such part.
        MedsegError: what an evaluation refuses.
    """
    places = Places(resolve_path(folder, "the study's folder"))
    study = read_study(places.study)
    data = study.load()
    test = next((each for each in tested.read(places.folder) if each["id"] == look and not each["ended"]), None)
    part = next((each for each in _parts(study, data) if each.name == name), None)
    if test is None or part is None or "tables" not in test:
        raise StudyError(f"{shown(places.folder)}: no test {look} is at work on {name}; medseg study test begins one")
    row, target = part.cell.row, places.folder / str(test["tables"]) / name
    found = workflow.evaluate_together(
        [places.cell(each) for each in part.members],
        data=data.path,
        output=target,
        overlays=row.score_with,
        overrides={**row.scoring, "mlflow": False},
        scores=study.scores,
        noted=True,
    )
    RunFolder(target).append_metrics(0, found.metrics)  # the last file: it is complete
    return target


@dataclass(frozen=True)
class _Part:
    """What is scored as one.

    Args:
        name: of its folder in the test's.
        cell: that stands for it in a table.
        members: names of the study's cells.
    """

    name: str
    cell: Cell
    members: Sequence[str]


def _parts(study: Study, data: Datalist) -> list[_Part]:
    """Return the ensembles, where there are several folds, and the single runs."""
    cells, folds = study.cells(data), study.folds_of(data)
    together: dict[str, list[Cell]] = {}
    for cell in cells if len(folds) > 1 else ():
        together.setdefault(f"{ENSEMBLES}/{cell.row.slug}-seed{cell.seed}", []).append(cell)
    parts = [_Part(name, replace(each[0], fold=None), [cell.name for cell in each]) for name, each in together.items()]
    runs = _runs(study, data)
    return parts + [
        _Part(f"{SINGLE}/{cell.name}", Cell(cell.row, None, runs.index((cell.fold, cell.seed))), [cell.name])
        for cell in cells
    ]


def _runs(study: Study, data: Datalist) -> list[tuple[int | None, int]]:
    """Return fold and seed of each run of a row."""
    return [(fold, seed) for seed in study.seeds for fold in study.folds_of(data)]


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
        study = whole.of_rows(rows)
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

    def run(self, executor: job.Executor, say: Say) -> tuple[Path, list[_Part], dict[str, StudyTable]]:
        """Score, and return the test's folder with its parts and tables."""
        target = next(place for place in map(self._folder, count(1)) if not place.exists())
        weights = {each.folder: each.folder / MODEL for each in self.made}
        hidden = any({**row.settings, **row.score_set}.get("hide_names") for row in self.study.rows)
        more = {"rows": [row.name for row in self.study.rows], "tables": f"tests/{target.name}"}
        entries, parts = [self.data.absolute(entry) for entry in self.data.test], _parts(self.study, self.data)
        with looking(self.data, entries, weights, more, hidden=hidden) as look:
            if look is None:
                raise StudyError(f"{shown(self.data.path)}: its test list is empty; fill the list")
            say(f"{counted(len(entries), 'test case')}: {look['said']}")
            jobs = [self._job(part, target, str(look["id"])) for part in parts]
            remedy = "once that is mended, the same command begins another test"
            all_done(executor(jobs), len(jobs), "ensemble or run", remedy, say)
            tables = self._tables(target, parts, [*self.notes, look["said"]])
            for name, table in tables.items():
                table.write(target / name)
        return target, parts, tables

    def _job(self, part: _Part, target: Path, look: str) -> Job:
        words = ("study", "part", str(self.places.folder), look, part.name, "--tied")
        log = self.places.log(f"test{target.name}-{part.name.replace('/', '-')}")
        device = names_device(part.cell.row.settings)
        return Job(part.name, words, log, target / part.name / METRICS, names_device=device)

    def _folder(self, number: int) -> Path:
        return self.places.folder / "tests" / str(number)

    def _tables(self, target: Path, parts: Sequence[_Part], notes: Sequence[str]) -> dict[str, StudyTable]:
        study, found = self.study, {}
        runs = _runs(study, self.data)
        made: dict[str, list[Made]] = {}
        for part in parts:
            kind, _, name = part.name.partition("/")
            made.setdefault(kind, []).append(Made(part.cell, target / kind, {"data": self.data.fingerprint()}, name))
        if ENSEMBLES in made:  # without what a paper prints, which is of single networks
            folds = study.folds_of(self.data)
            asked = replace(study, title=f"{study.title}: test, ensembles of {len(folds)} folds", paper="")
            found[ENSEMBLES] = self._table(asked, made[ENSEMBLES], notes)
        asked = replace(study, title=f"{study.title}: test, single runs", seeds=tuple(range(len(runs))))
        names = [f"seed{seed}" if fold is None else f"fold{fold}-seed{seed}" for fold, seed in runs]
        return {**found, SINGLE: self._table(asked, made[SINGLE], notes, names)}

    def _table(
        self, study: Study, made: Sequence[Made], notes: Sequence[str], runs: Sequence[str] | None = None
    ) -> StudyTable:
        """Return a table of the test list, over seeds, or over runs that have names."""
        asked = replace(study, folds=(), scored="test")
        scores = collect(asked, self.data, made)
        scores = scores if runs is None else replace(scores, seeds=runs)
        return StudyTable(asked, scores, notes, replicate="seed" if runs is None else "run", cases_file=CASES)


def _refuse_groups(data: Datalist) -> None:
    """Refuse to test on cases of groups that are trained on."""
    seen = {entry["group"] for entry in (*data.training, *data.validation) if entry.get("group")}
    common = sorted({str(entry["group"]) for entry in data.test if entry.get("group") in seen})
    if common:
        raise StudyError(
            f"{shown(data.path)}: {counted(len(common), 'group')} of the test list (such as {shown(common[0])}) are in "
            "training too, so that it is no test; leave their cases out of the test list"
        )
