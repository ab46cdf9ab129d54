"""One cell of a study: a training and its scores, in a folder that takes its name when everything is in it.

Until then it lies in ``unfinished/NAME/NAME``, locked by the process that works in it. Whoever comes after a process
that was killed goes on where that one was, by the run's own resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import sync_folder
from medseg.bundle import library, workflow
from medseg.data.datalist import Datalist
from medseg.errors import shown
from medseg.runs import provenance
from medseg.runs.identity import differences
from medseg.runs.lock import FolderLock, LockedError
from medseg.runs.paths import resolve_path
from medseg.runs.report import PER_CASE
from medseg.runs.run_folder import LAST, MODEL, STUDY, RunFolder, config_of
from medseg.studies.study import Cell, Study, StudyError, read_study

__all__ = ["CELL", "PATIENCE", "STUDY", "THEN", "Made", "Places", "describe_code", "identity", "read_made", "run_cell"]

logger = logging.getLogger(__name__)

CELL = "cell.json"
_BEGUN = "begun.json"
THEN = ", then "  # between the commits, and the changed files, of a cell that other code went on with
PATIENCE = 60.0  # seconds in which the process of a study that was killed lets go of its cell
_WAIT = 0.5


@dataclass(frozen=True)
class Places:
    """Where a study keeps what.

    Args:
        folder: of the study.
    """

    folder: Path

    @property
    def study(self) -> Path:
        """The study as it was asked for, for the processes of its cells."""
        return self.folder / STUDY

    def cell(self, name: str) -> Path:
        """Return the folder of a complete cell."""
        return self.folder / "cells" / name

    @classmethod
    def begun(cls, folder: str | Path) -> Places:
        """Return the places of a study that is there.

        Raises:
            StudyError: if the folder holds none.
        """
        places = cls(resolve_path(folder, "the study's folder"))
        if not places.study.is_file():
            raise StudyError(f"{shown(places.folder)} holds no {STUDY}; name the folder of a study")
        return places

    def work(self, name: str) -> Path:
        """Return the folder that is locked while a cell is made; its run lies in it under the cell's name."""
        return self.folder / "unfinished" / name

    def log(self, name: str) -> Path:
        """Return the file of what a cell's process said."""
        return self.folder / "logs" / f"{name}.log"

    def bundle(self, cell: Cell) -> str:
        """Return the bundle of a cell's row: its own, or the one that was planned."""
        return str(self.folder / "plans" / cell.row.slug) if cell.row.plan else cell.row.bundle

    def complete(self, name: str) -> bool:
        """Return whether a cell is complete."""
        return (self.cell(name) / CELL).is_file()


@dataclass(frozen=True)
class Made:
    """A complete cell.

    Args:
        cell: which.
        folder: of its run.
        record: see `identity`.
        scored: part of the data.
    """

    cell: Cell
    folder: Path
    record: Mapping[str, Any]
    scored: str = "test"

    @property
    def scores(self) -> Path:
        """Folder of the evaluation."""
        return self.folder / self.scored

    @property
    def per_case(self) -> Path:
        """Scores of each case."""
        return self.scores / PER_CASE


def identity(study: Study, cell: Cell, data: Datalist, bundle: str) -> dict[str, Any]:
    """Return what makes a cell the one that it is, and with what it is made, as plain values.

    Args:
        study: of the cell.
        cell: which.
        data: of the study.
        bundle: of the cell's row.

    Returns:
        ``cell`` (row, fold, seed, what is scored), ``code`` (see `describe_code`), ``recipe`` (hash of the
        configuration files), ``data`` (fingerprint), ``budget`` (as the study says it; of minutes, with the device that
        they are spent on).
    """
    found = provenance.collect()
    budget: dict[str, Any] = {} if study.epochs is None else {"epochs": study.epochs}
    if study.minutes is not None:
        budget = {"minutes": study.minutes, "on": device_of(found)}
    return {
        "cell": _asked(study, cell),
        "code": describe_code(found["git"]),
        "recipe": recipe_of(bundle, cell),
        "data": data.fingerprint(),
        "budget": budget,
    }


def describe_code(git: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what names the code: the commit, and a hash of the files where they were changed since, else ``False``.

    Outside a checkout the version and a hash of the files stand for the commit.
    """
    if git is not None and not git["dirty"]:
        return {"commit": git["commit"], "changed": False}
    source = provenance.source_hash(provenance.PACKAGE)
    if git is None:
        return {"commit": f"{__version__} ({source[:12]})", "changed": False}
    return {"commit": git["commit"], "changed": source}


def _asked(study: Study, cell: Cell) -> dict[str, Any]:
    """Return what a study asks of a cell: what makes it this one, whatever it is made with, and wherever that lies."""
    row = cell.row.definition()
    return {
        "row": {**row, "bundle": Path(row["bundle"]).name} if "bundle" in row else row,
        "fold_key": study.fold_key,
        "fold": cell.fold,
        "seed": cell.seed,
        "scored": study.scored,
        "scores": {name: dict(options) for name, options in study.scores.items()},
    }


def device_of(environment: Mapping[str, Any]) -> str:
    """Return what computes, as `provenance.collect` describes it: the GPU, else the processor and its threads."""
    gpus = environment.get("gpus") or []
    if gpus:
        return str(gpus[0]["name"])
    return f"{environment['cpu']['model']}, threads: {environment['threads']}"


def recipe_of(bundle: str, cell: Cell) -> str:
    """Return the hash of the configuration files that a cell is trained by.

    Args:
        bundle: of the cell's row.
        cell: which.

    Raises:
        MedsegError: if there is no such bundle or overlay.
    """
    files = library.config_files(library.find(bundle), "train", list(cell.row.overlays))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def read_made(places: Places, study: Study, cell: Cell) -> Made | None:
    """Return a complete cell, or ``None`` where there is none.

    Raises:
        StudyError: if what lies there is another one, or its record is damaged.
    """
    if not places.complete(cell.name):
        return None
    folder = places.cell(cell.name)
    record = _record(folder / CELL, "remove the cell's folder, and medseg study run makes it anew")
    if different := differences(record["cell"], json.loads(json.dumps(_asked(study, cell)))):
        raise StudyError(
            f"{folder}: was made otherwise than the study now says: {'; '.join(different)}; name the row anew, or give "
            "another folder with -o"
        )
    return Made(cell, folder, record, study.scored)


def _record(path: Path, remedy: str) -> dict[str, Any]:
    """Return the record of a cell, complete or begun.

    Raises:
        StudyError: if it is damaged.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    if not isinstance(held, dict) or {"cell", "code", "recipe", "data", "budget"} - held.keys():
        raise StudyError(f"{shown(path)}: is damaged, no record of a cell; {remedy}")
    return held


def run_cell(folder: str | Path, name: str, *, mixed: bool = False, patience: float = PATIENCE) -> Path:
    """Make a cell of a study in this process, or go on with it; one that is complete is left as it is.

    Args:
        folder: of the study, in which ``study.yaml`` says what is asked.
        name: of the cell.
        mixed: whether to go on with a training that another code or budget began.
        patience: seconds to wait for another process to leave the cell.

    Returns:
        The cell's folder.

    Raises:
        StudyError: if there is no such cell, or what was begun is another one.
        LockedError: if another process works in it.
        MedsegError: what training and evaluation refuse.
    """
    places = Places(Path(folder).resolve())
    study = read_study(places.study)
    data = study.load()
    cell = next((each for each in study.cells(data) if each.name == name), None)
    if cell is None:
        names = ", ".join(each.name for each in study.cells(data)[:3])
        raise StudyError(f"{places.folder}: the study has no cell {name!r}; its cells are {names} ...")
    if places.complete(name):
        return places.cell(name)
    work = places.work(name)
    lock = _locked(work, patience)
    try:
        if not places.complete(name):  # by whom we waited for
            _make(places, study, cell, data, mixed)
    finally:
        lock.release()
    with contextlib.suppress(OSError):  # another process may be asking for the lock just now
        work.rmdir()
    return places.cell(name)


def _locked(work: Path, patience: float) -> FolderLock:
    until = time.monotonic() + patience
    while True:
        work.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(work)
        try:
            lock.acquire()
            return lock
        except FileNotFoundError:  # who left it has just removed the folder
            continue
        except LockedError:
            if time.monotonic() > until:
                raise
        time.sleep(_WAIT)


def _make(places: Places, study: Study, cell: Cell, data: Datalist, mixed: bool) -> None:
    work, bundle = places.work(cell.name), places.bundle(cell)
    now = json.loads(json.dumps(identity(study, cell, data, bundle)))
    record = _begin(work, now, mixed)
    run = work / cell.name
    if not (run / MODEL).is_file():  # the last file that a training writes
        workflow.train(bundle, data=data.path, overlays=cell.row.overlays, overrides=_overrides(study, cell, run))
    told = {**cell.row.scoring, "mlflow": False, "scored": study.scored}
    workflow.evaluate(run, overlays=cell.row.score_with, overrides=told, scores=study.scores)
    record["budget"] = record["budget"] or _own_budget(run)
    RunFolder(run).write_json(CELL, record)
    target = places.cell(cell.name)
    target.parent.mkdir(exist_ok=True)
    if target.exists():  # without its record: no cell, nobody's work
        shutil.rmtree(target)
    os.rename(run, target)
    sync_folder(target.parent)
    (work / _BEGUN).unlink()


def _begin(work: Path, now: dict[str, Any], mixed: bool) -> dict[str, Any]:
    """Return the record of the cell: what it was begun with, which must be what goes on with it."""
    path = work / _BEGUN
    if not path.is_file():
        RunFolder(work).write_json(_BEGUN, now)
        return now
    begun = _record(path, f"remove {shown(work)} to train the cell anew")
    different = differences(begun, now)
    if not different:
        return begun
    if begun["cell"] != now["cell"] or begun["data"] != now["data"] or not mixed:
        raise StudyError(
            f"{work}: was begun otherwise: {'; '.join(different)}; give what it began with, or remove this folder to "
            "train the cell anew" + ("" if mixed else " (--mixed goes on with other code or another budget)")
        )
    commits, changes = ([str(of["code"][key] or "") for of in (begun, now)] for key in ("commit", "changed"))
    code = {"commit": THEN.join(dict.fromkeys(commits)), "changed": THEN.join(dict.fromkeys(filter(None, changes)))}
    mixture = {**now, "code": code}
    RunFolder(work).write_json(_BEGUN, mixture)
    return mixture


def _overrides(study: Study, cell: Cell, run: Path) -> dict[str, Any]:
    values: dict[str, Any] = {**cell.row.settings, "fold": cell.fold, "fold_key": study.fold_key, "seed": cell.seed}
    if study.minutes is not None:
        values["max_minutes"] = study.minutes
    if study.epochs is not None:
        values |= {"max_epochs": study.epochs, "max_minutes": None}
    if (run / LAST).is_file():
        values["resume"] = True
    return {**values, "output_dir": str(run), "mlflow": False}


def _own_budget(run: Path) -> dict[str, Any]:
    """Return the budget that the bundle itself names."""
    config = config_of(run)
    minutes = config.get("max_minutes")
    budget = {"epochs": config.get("max_epochs")}
    if minutes is None:
        return budget
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    return {**budget, "minutes": minutes, "on": device_of(environment)}
