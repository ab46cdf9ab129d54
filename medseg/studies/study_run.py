"""Run a study: make the cells that are missing, put all of them into one table, and tell MLflow."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medseg.atomic import atomic_write, remove_leftovers_of
from medseg.bundle import early, library
from medseg.bundle.command import Command
from medseg.bundle.data import where
from medseg.bundle.evaluation import ALWAYS
from medseg.bundle.source import read_source
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, counted, few, shown
from medseg.metrics.score_board import ScoreBoard
from medseg.resources import BUNDLE_FILE
from medseg.runs.identity import differences
from medseg.runs.lock import FolderLock
from medseg.runs.mlflow_run import RECORD
from medseg.runs.paths import resolve_path
from medseg.runs.processes import pick_device
from medseg.runs.run_folder import refuse_other, to_plain
from medseg.runs.tracking import MLflowTracker, import_run
from medseg.studies.executors import Executor, all_done, here
from medseg.studies.study import Cell, Study, StudyError, StudyRow, read_study
from medseg.studies.study_cell import CELL, STUDY, Made, Places, identity, read_made, recipe_of
from medseg.studies.study_pictures import PICTURES, curves_of
from medseg.studies.study_scores import collect, footnotes, told, torn
from medseg.studies.study_table import FILES, StudyTable

__all__ = ["Tracked", "make_table", "run_study"]

logger = logging.getLogger(__name__)

_DEAD = 60.0  # seconds after which an unfinished file is a killed process's; `make_table` may be at work beside a study

Say = Callable[[str], None]


def run_study(
    study: Study,
    folder: str | Path,
    *,
    executor: Executor | None = None,
    sharing: Callable[[Mapping[str, Any]], int] = lambda settings: 1,
    mixed: bool = False,
    tracking: bool = True,
    tracking_uri: str | None = None,
    say: Say = lambda line: None,
) -> StudyTable:
    """Make the cells of a study that are not there yet, and its table.

    Args:
        study: what is asked.
        folder: of the study, new or begun.
        executor: makes the cells; by default one after the other on this machine.
        sharing: told the settings of a row that is to be planned, how many cells at a time share a GPU or a machine.
        mixed: whether cells of different code, data or budgets may stand in the table, which then says so.
        tracking: whether MLflow is told, of the study as a run and of each cell as its child.
        tracking_uri: of MLflow; by default a database in the folder.
        say: called with a line of news.

    Returns:
        The table, which lies in the folder in every format.

    Raises:
        MedsegError: with what is wrong, before the first cell.
        CellsError: with the cells that failed, after the last.
        LockedError: if another process runs the study.
    """
    places = Places(resolve_path(folder, "output"))
    data = study.load()
    check_datalist(data, fold_keys=_whole(study, data)).raise_for_errors()
    cells = study.cells(data)
    study.classes_of(data)
    begun = places.study.is_file() or any(places.folder.glob(f"cells/*/{CELL}"))
    refuse_other(places.folder, "study", begun=begun)
    places.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(places.folder)
    lock.acquire()
    try:
        made = _made(places, study, cells)
        if made:
            _refuse_no_budget(places, study)
            _footnotes(places, study, data, made, mixed)
        remove_leftovers_of((places.folder / name for name in (STUDY, RECORD, *FILES, *PICTURES)), seconds=_DEAD)
        _write_study(places, study)
        _plan(places, study, data, sharing, say)
        _refuse(places, study, data, cells)
        missing = [cell for cell in cells if cell.name not in made]
        if missing:
            footnotes(list(made.values()), mixed, _now(places, study, missing[0], data, made))
            _make_cells(places, missing, executor or here(), mixed, say)
        table = _table(places, study, data, mixed=mixed)
        table.write(places.folder)
        for cell in cells:  # what a process that was killed between a cell's name and its own end left
            shutil.rmtree(places.work(cell.name), ignore_errors=True)
        if tracking:
            folders = [each.folder for each in _made(places, study, cells).values()]
            Tracked(study, places.folder, tracking_uri).tell(places.folder, places.folder.name, folders, {"": table})
    finally:
        lock.release()
    return table


def _whole(study: Study, data: Datalist) -> list[str] | None:
    """Return the fold schemes in which a group must lie on one side; ``None`` where data have no folds.

    Raises:
        StudyError: naming what the study has to say, if its folds divide groups.
    """
    if not data.fold_keys:
        return None
    if study.divides_groups or study.folds == ():
        return []
    if groups := torn((entry.get("group", ""), entry.get(study.fold_key)) for entry in data.training):
        raise StudyError(
            f"study {study.name}: its folds by {study.fold_key} divide {counted(len(groups), 'group')} (patients, "
            "sections): a network sees cases of groups that it is scored on; name another fold_key, or say why in "
            "divides_groups"
        )
    return [study.fold_key]


def make_table(folder: str | Path, *, mixed: bool = False, incomplete: bool = False) -> StudyTable:
    """Make the table of a study from the cells that are there.

    Args:
        folder: of the study.
        mixed: as in `run_study`.
        incomplete: whether cells may be missing, which the table then says.

    Raises:
        StudyError: if the folder holds no study, or cells are missing or mixed.
    """
    places = Places.begun(folder)
    study = read_study(places.study)
    table = _table(places, study, study.load(), mixed=mixed, incomplete=incomplete)
    table.write(places.folder)
    return table


def _made(places: Places, study: Study, cells: Sequence[Cell]) -> dict[str, Made]:
    """Return the complete cells by name."""
    found = {cell.name: read_made(places, study, cell) for cell in cells}
    return {name: made for name, made in found.items() if made is not None}


def _now(places: Places, study: Study, cell: Cell, data: Datalist, made: Mapping[str, Made]) -> dict[str, Any]:
    """Return with what a cell would be made now, to be compared with what has been made."""
    found = identity(study, cell, data, places.bundle(cell))
    if all(each.record["budget"].get("minutes") == study.minutes for each in made.values()) and study.minutes:
        found["budget"] = {}  # the processors that its process will have are not this one's
    return found


def _write_study(places: Places, study: Study) -> None:
    """Write what is asked to where the processes of the cells read it."""
    with atomic_write(places.study) as temporary:
        text = yaml.safe_dump(study.plain(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def _plan(places: Places, study: Study, data: Datalist, sharing: Callable[[Mapping[str, Any]], int], say: Say) -> None:
    """Plan a bundle for each row that asks for one; each once, whole or not at all, for the share that a cell gets."""
    rows = [row for row in study.rows if row.plan]
    if not rows:
        return
    from medseg.studies import plan, plan_bundle, plan_network
    from medseg.studies.plan_asked import Asked

    for row in rows:
        Asked.of(row.settings, row.plan)  # of every row before the first is measured
    for row in rows:
        target, wanted = places.folder / "plans" / row.slug, to_plain({**row.definition(), "minutes": study.minutes})
        if _is_planned(places, row, target / plan_bundle.ASKED, wanted):
            continue
        device, shared, memory = row.settings.get("device"), sharing(row.settings), row.memory
        if memory is None and shared > 1:
            memory = plan_network.memory_limit(None, pick_device(device)).value / shared / 2**30
        minutes = (plan.MINUTES if study.minutes is None else study.minutes) / shared
        told = {**row.settings, "fold": study.folds_of(data)[0], "fold_key": study.fold_key}
        made = plan_bundle.plan_for(
            data, row.settings, run=told, network=row.plan, dimensions=row.dimensions, memory=memory, minutes=minutes,
            device=device, say=say,
        )  # fmt: skip
        plan_bundle.write(made, data, target, asked=wanted)
        say(f"{row.name}: planned, see {shown(target / 'docs' / 'README.md')}")


def _is_planned(places: Places, row: StudyRow, record: Path, wanted: Mapping[str, Any]) -> bool:
    """Return whether a row's plan is there; one that was made for something else is removed while no cell rests on it.

    Raises:
        StudyError: naming what is different, if cells were made by it.
    """
    target = record.parents[1]
    if not target.is_dir():
        return False
    different = differences(json.loads(record.read_text(encoding="utf-8")), wanted)
    if different and any(places.folder.glob(f"cells/{row.slug}-*")):
        raise StudyError(
            f"{shown(target)} was planned otherwise: {'; '.join(different)}; give what the study began with, or a new "
            "folder with -o"
        )
    if different:
        shutil.rmtree(target)
    return not different


def _refuse(places: Places, study: Study, data: Datalist, cells: Sequence[Cell]) -> None:
    """Refuse rows that cannot be trained as they are written, or do not score what is to be shown."""
    for cell in cells[: len(study.rows)]:
        bundle = library.find(places.bundle(cell))
        files = library.config_files(bundle, "train", list(cell.row.overlays))
        given = {**where(data.path), **cell.row.settings, "fold": cell.fold, "fold_key": study.fold_key}
        early.refuse(Command("medseg", tuple(files), given), begins=False)
        if not (bundle / BUNDLE_FILE).is_file():
            continue
        scored = {"overlap": {}, **ALWAYS, **read_source(bundle).description.scores, **study.scores}
        board = ScoreBoard(data.class_names, data.ignore_index, scored)
        for name in study.show:
            if name not in board.columns:
                raise StudyError(
                    f"study {study.name}, row {cell.row.name}: show names {name!r}, which is not scored; there are "
                    f"{', '.join(board.columns)}; scores adds others"
                )


def _make_cells(places: Places, missing: Sequence[Cell], executor: Executor, mixed: bool, say: Say) -> None:
    made = counted(len(missing), "cell")
    say(f"{made} to make in {shown(places.folder)}; how far each is: {shown(places.log(missing[0].name).parent)}")
    remedy = "once that is mended, the same command makes the rest"
    all_done(executor(places.folder, missing, mixed), len(missing), "cell", remedy, say)


def _table(
    places: Places, study: Study, data: Datalist, *, mixed: bool = False, incomplete: bool = False
) -> StudyTable:
    cells = study.cells(data)
    made = _made(places, study, cells)
    missing = [cell.name for cell in cells if cell.name not in made]
    notes = []
    if missing and (not incomplete or not made):
        way = "make them: medseg study run" if not incomplete else "there is nothing to show yet"
        raise StudyError(
            f"{shown(places.folder)}: {len(missing)} of {counted(len(cells), 'cell')} are missing, {few(missing, 3)}; "
            f"{way}"
        )
    if missing:
        notes.append(f"{len(missing)} of {counted(len(cells), 'cell')} are missing: {few(missing)}")
    notes += _footnotes(places, study, data, made, mixed)
    found = list(made.values())
    return StudyTable(study, collect(study, data, found), notes, curves_of(found))


def _footnotes(places: Places, study: Study, data: Datalist, made: Mapping[str, Made], mixed: bool) -> list[str]:
    """Return what a reader must know of complete cells beside the study, its bundles and the data as they are now.

    Raises:
        StudyError: if they may not stand in one table.
    """
    first = next(iter(made.values())).record
    at_hand = {**first, "data": data.fingerprint(), "budget": _budget(study, first["budget"])}
    notes = footnotes(list(made.values()), mixed, at_hand, "the study and data at hand")
    changed = {each.cell.row.name: None for each in made.values() if _is_changed(places, each)}
    if changed:
        notes.append(
            told("configuration files", f"{few(list(changed))}: what it was trained by was changed since", mixed)
        )
    return notes


def _is_changed(places: Places, made: Made) -> bool:
    """Return whether the configuration files of a cell are others now; those that are not here are not asked."""
    try:
        return bool(made.record["recipe"] != recipe_of(places.bundle(made.cell), made.cell))
    except MedsegError:
        return False


def _budget(study: Study, made: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the budget that a study now says, on the device of what was made; without one what was made."""
    if study.minutes is not None:
        return {"minutes": study.minutes, "on": made.get("on")}
    return made if study.epochs is None else {"epochs": study.epochs}


def _refuse_no_budget(places: Places, study: Study) -> None:
    """Refuse a study whose budget was taken out since it began: its cells do not say whether theirs is the bundle's.

    Raises:
        StudyError: naming what it was.
    """
    if study.epochs is not None or study.minutes is not None or not places.study.is_file():
        return
    try:
        before = read_study(places.study)
    except StudyError:  # damaged: it is written anew
        return
    for key in ("epochs", "minutes"):
        if (held := getattr(before, key)) is not None:
            raise StudyError(
                f"{shown(places.folder)} was begun with {key}: {held:g}, which the study no longer says; give it "
                "again, or another folder with -o"
            )


@dataclass(frozen=True)
class Tracked:
    """A table in MLflow: a run, and what it was made of as its children; a store that fails costs the record alone.

    Args:
        study: whose title is the experiment.
        store: folder of the embedded database.
        uri: of MLflow; by default that database.
    """

    study: Study
    store: Path
    uri: str | None

    def tell(self, folder: Path, name: str, children: Sequence[Path], tables: Mapping[str, StudyTable]) -> None:
        """Tell MLflow.

        Args:
            folder: of the tables.
            name: of the run.
            children: folders of runs.
            tables: by their folder in ``folder``, ``""`` for itself.
        """
        title = self.study.title
        with MLflowTracker(self.uri, title, name, folder, store=self.store, resume=True) as parent:
            if parent.run_id is None:
                return
            for child in children:
                try:
                    import_run(child, parent.uri, experiment=title, store=self.store, parent=parent.run_id)
                except Exception as error:  # as in MLflowTracker: a store may raise anything
                    logger.warning("MLflow does not take %s (%s)", child.name, type(error).__name__)
                    return
            for where, table in tables.items():
                parent.log_metrics(
                    {f"{where}/{key}".lstrip("/"): value for key, value in _means(table).items()}, step=0
                )
                for path in (folder / where / file for file in (*FILES, table.cases_file, *PICTURES)):
                    if path.is_file():
                        parent.log_artifact(path, where or None)
            parent.log_artifact(self.store / STUDY)


def _means(table: StudyTable) -> dict[str, float]:
    """Return the means of all rows by name: ``row/score`` and ``row/score_class``."""
    long = table.long()
    lines = [dict(zip(long.columns, line, strict=True)) for line in long.rows]
    return {
        f"{line['row']}/{line['score']}_{line['class']}".removesuffix("_(mean)"): value
        for line in lines
        if isinstance(value := line["mean"], float)
    }
