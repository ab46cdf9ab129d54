"""The scores of a study's complete cells, put together: every case once, in the fold that held it out, for each row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.bundle.evaluation import RECORD as EVALUATION
from medseg.data.datalist import Datalist
from medseg.engines.prediction_checks import learned_nothing
from medseg.errors import counted, few, shown
from medseg.reports.score_tables import WHOLE
from medseg.runs.report import read_rows
from medseg.studies.study import Study, StudyError
from medseg.studies.study_cell import THEN, Made

__all__ = ["MEAN", "Case", "Scores", "collect", "footnotes", "told", "torn"]

MEAN = ""
"""Stands for a class in the mean over those that count."""

Values = NDArray[np.float64]
_Row = Mapping[str, str]
_COMMIT = re.compile("[0-9a-f]{40,}")
_OVERALL = ("frequency_weighted_iou",)  # pooled scores that no case has, which papers print


@dataclass(frozen=True)
class Case:
    """A case: the fold that held it out, its place there, its name and group."""

    fold: int | None
    place: int
    name: str
    group: str


@dataclass(frozen=True)
class Scores:
    """What all cells found.

    Args:
        rows: names, in the study's order.
        seeds: of the study, or the names of the runs that each case was scored by.
        columns: shown, with unit as ``scores_per_case.csv`` has it, by name without.
        classes: that count.
        cases: all that were scored, each once.
        labelled: cases that could have been.
        values: by row, column and class (or `MEAN`), ``(seeds, cases)``; NaN where a case is not counted.
        pooled: by row, column and class (or `MEAN`): of each fold the mean over the seeds of what is pooled over all
            pixels; columns that are not pooled are not there.
        by_class: columns that have a value a class; others are of a case.
        scored: options by name of the scores beside overlap, of all rows.
        unlearned: by row, what is said of each of its networks that has learned nothing, after the cell's name.
        data: name of the data set.
    """

    rows: Sequence[str]
    seeds: Sequence[int | str]
    columns: Mapping[str, str]
    classes: Sequence[str]
    cases: Sequence[Case]
    labelled: int
    values: Mapping[tuple[str, str, str], Values]
    pooled: Mapping[tuple[str, str, str], Sequence[float]]
    by_class: frozenset[str]
    scored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unlearned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    data: str = ""

    @property
    def groups(self) -> list[str]:
        """Group of each case."""
        return [case.group for case in self.cases]

    @property
    def torn(self) -> list[str]:
        """Groups whose cases lie in several folds."""
        return torn((case.group, case.fold) for case in self.cases)

    def of_cases(self, row: str, column: str, name: str) -> Values:
        """Return the value of each case, its mean over the seeds that have one ``(cases,)``."""
        return _means(self.values[row, column, name], 0)

    def of_folds(self, row: str, column: str, name: str) -> Values:
        """Return the mean over the cases of each fold."""
        values, folds = self.of_cases(row, column, name), np.array([str(case.fold) for case in self.cases])
        return np.array([float(_means(values[folds == fold], 0)) for fold in dict.fromkeys(folds)])

    def of_seeds(self, row: str, column: str, name: str) -> Values:
        """Return the mean over the cases of each seed."""
        return _means(self.values[row, column, name], 1)


def torn(sides: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the groups that stand on several sides.

    Args:
        sides: group and side of each case; an empty text is no group.
    """
    found: dict[str, set[Any]] = {}
    for group, side in sides:
        found.setdefault(group, set()).add(side)
    return [group for group, several in found.items() if group and len(several) > 1]


def _means(values: Values, axis: int) -> Values:
    """Return means over what is no NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    number = there.sum(axis)
    sums = np.where(there, values, 0.0).sum(axis)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def collect(study: Study, data: Datalist, made: Sequence[Made]) -> Scores:
    """Read the scores of complete cells.

    Args:
        study: what was asked.
        data: of it.
        made: its cells.

    Raises:
        StudyError: if a cell's scores are damaged or not there, are of other cases than its fold has, or have no column
            that is to be shown.
    """
    classes = study.classes_of(data)
    read = [(each, _json(each, "scores.json")) for each in made]
    found = {each.cell.name: _cases(each) for each in made}
    units = _units(study, *read[0])
    place_of: dict[Case, int] = {}
    for each in sorted(made, key=lambda m: -1 if m.cell.fold is None else m.cell.fold):
        rows = found[each.cell.name]
        _refuse_others(study, data, each, len(rows))
        for place, (whole, _) in enumerate(rows):
            place_of.setdefault(_case(each, place, whole), len(place_of))
    of_classes = [own for rows in found.values() for _, held in rows for own in held.values()]
    by_class = frozenset(
        name for name, column in units.items() if any(_number(row.get(column)) is not None for row in of_classes)
    )
    values = {
        (row.name, name, kind): np.full((len(study.seeds), len(place_of)), np.nan)
        for row in study.rows
        for name in units
        for kind in ((MEAN, *classes) if name in by_class else (MEAN,))
    }
    for each in made:
        seed = study.seeds.index(each.cell.seed)
        for place, (whole, own) in enumerate(found[each.cell.name]):
            at = place_of[_case(each, place, whole)]
            for name, column in units.items():
                held = {kind: _number(own.get(kind, {}).get(column)) for kind in classes} if name in by_class else {}
                counted_ones = [value for value in held.values() if value is not None]
                alone = _number(whole.get(column)) if name not in by_class else None
                held[MEAN] = math.fsum(counted_ones) / len(counted_ones) if counted_ones else alone
                for kind, value in held.items():
                    values[each.cell.row.name, name, kind][seed, at] = math.nan if value is None else value
    return Scores(
        [row.name for row in study.rows], study.seeds, units, classes, list(place_of), _labelled(study, data), values,
        _pooled(study, read, classes), by_class, _scored(made), _unlearned(read), data.name,
    )  # fmt: skip


def _json(made: Made, name: str) -> dict[str, Any]:
    """Return what the evaluation of a cell wrote into a file.

    Raises:
        StudyError: if it is not there, or not whole.
    """
    path = made.scores / name
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(made, path) from error
    if not isinstance(held, dict):
        raise _damaged(made, path)
    return held


def _damaged(made: Made, path: Path) -> StudyError:
    return StudyError(
        f"{shown(path)}: is damaged or not there; score the cell again: medseg evaluate {shown(made.folder)}, or "
        "remove its folder to train it anew"
    )


def _cases(made: Made) -> list[tuple[_Row, dict[str, _Row]]]:
    """Return of each case of a cell the row of the whole and those of its classes.

    Raises:
        StudyError: if they are not there, or not whole.
    """
    found: list[tuple[_Row, dict[str, _Row]]] = []
    try:
        for row in read_rows(made.per_case):
            if row["class"] == WHOLE:
                found.append((row, {}))
            else:
                found[-1][1][row["class"]] = row
    except (OSError, ValueError, LookupError) as error:
        raise _damaged(made, made.per_case) from error
    if not found:
        raise _damaged(made, made.per_case)
    return found


def _case(made: Made, place: int, whole: _Row) -> Case:
    return Case(made.cell.fold, place, whole["case"], whole.get("group") or "")


def _number(text: str | None) -> float | None:
    value = float(text) if text not in (None, "") else math.nan
    return None if math.isnan(value) else value


def _units(study: Study, made: Made, scores: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns to show, by name without unit."""
    units = scores["per_case"]["units"]
    there = set(read_rows(made.per_case)[0])
    found = {name: f"{name}_{units[name]}" if units.get(name) else name for name in study.show}
    for name, column in found.items():
        if column not in there:
            known = ", ".join(sorted(there - {"case", "group", "class"}))
            raise StudyError(f"study {study.name}: show names {name!r}, which is not scored; there are {known}")
    return found


def _scored(made: Sequence[Made]) -> dict[str, Mapping[str, Any]]:
    """Return what was scored beside overlap, by any row."""
    found: dict[str, Mapping[str, Any]] = {}
    for each in made:
        held = _json(each, EVALUATION).get("scores")
        if not isinstance(held, dict):
            raise _damaged(each, each.scores / EVALUATION)
        found |= {name: options for name, options in held.items() if options is not None}
    return found


def _entries(study: Study, data: Datalist, fold: int | None) -> int:
    if fold is not None and study.scored == "test":
        return sum(entry[study.fold_key] == fold for entry in data.training)
    if fold is None:
        return len(data.validation if study.scored == "validation" else data.test)
    return -1


def _refuse_others(study: Study, data: Datalist, made: Made, number: int) -> None:
    wanted = _entries(study, data, made.cell.fold)
    if made.record["data"] == data.fingerprint() and wanted not in (-1, number):
        raise StudyError(
            f"{made.per_case}: holds {counted(number, 'case')}, the fold has {wanted}; score it again: medseg evaluate "
            f"{made.folder}"
        )


def _labelled(study: Study, data: Datalist) -> int:
    if data.fold_keys and study.folds_of(data) != (None,):
        return len(data.training)
    return _entries(study, data, None)


def _pooled(
    study: Study, read: Sequence[tuple[Made, Mapping[str, Any]]], classes: Sequence[str]
) -> dict[tuple[str, str, str], list[float]]:
    """Return what is pooled over all pixels, by row, column and class: a mean over the seeds for each fold."""
    held: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for each, scores in read:
        of_class = {row["name"]: row for row in scores["classes"]}
        for name in (*study.show, *_OVERALL):
            values: dict[str, float | None] = {MEAN: scores.get(name)}  # of all pixels, such as their accuracy
            if name in scores["classes"][0]:
                values = {kind: of_class[kind][name] for kind in classes}
                there = [value for value in values.values() if value is not None]
                values[MEAN] = math.fsum(there) / len(there) if there else None
            for kind, value in values.items():
                if value is not None:
                    folds = held.setdefault((each.cell.row.name, name, kind), {})
                    folds.setdefault(str(each.cell.fold), []).append(value)
    return {key: [math.fsum(of) / len(of) for of in folds.values()] for key, folds in held.items()}


def _unlearned(read: Sequence[tuple[Made, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return by row what is said of those of its networks that have learned nothing."""
    found: dict[str, list[str]] = {}
    for each, scores in read:
        if (said := learned_nothing(scores)) is not None:
            found.setdefault(each.cell.row.name, []).append(f"{each.cell.name}: {said}")
    return found


# ---------------------------------------------------------------------------------------------- may it be one table?


def footnotes(
    made: Sequence[Made], mixed: bool, now: Mapping[str, Any] | None = None, called: str = "the cells to come"
) -> list[str]:
    """Return what a reader must know of cells that were not all made with the same code, data and budget.

    Args:
        made: complete cells.
        mixed: whether such cells may stand in one table.
        now: code, data and budget to compare with too (`identity`), such as those of cells that are about to be made.
        called: what these are of.

    Raises:
        StudyError: if they may not, naming what differs.
    """
    named = [(each.cell.name, each.record, each.cell.row.name) for each in made]
    if now is not None:
        named.append((called, now, ""))
    notes = []
    for what, read in _ASKED.items():
        kinds: dict[str, list[str]] = {}
        for name, record, _ in named:
            value = read(record)
            if value:
                kinds.setdefault(value, []).append(name)
        if len(kinds) > 1:
            parts = [f"{shown_value} ({few(names, 2)})" for shown_value, names in kinds.items()]
            notes.append(told(what, "; ".join(parts), mixed))
    for row in dict.fromkeys(row for _, _, row in named if row):
        if len({record["recipe"] for _, record, of in named if of == row}) > 1:
            notes.append(told("configuration files", f"those of row {row} were changed between its cells", mixed))
    if any(record["code"]["changed"] for _, record, _ in named):
        notes.append("the code had changes that were not committed, so that its commit does not name it fully")
    return notes


def told(what: str, how: str, mixed: bool) -> str:
    """Return the note of cells that differ.

    Args:
        what: differs.
        how: which of them, in what.
        mixed: whether they may stand in one table.

    Raises:
        StudyError: if they may not.
    """
    if not mixed:
        raise StudyError(
            f"cells of different {what} do not make one table: {how}; make all of them alike in another folder, or say "
            "--mixed, and the table says so"
        )
    return f"cells of different {what} stand in this table, as --mixed allowed: {how}"


def _code(record: Mapping[str, Any]) -> str:
    code = record["code"]
    commits = THEN.join(commit[:12] if _COMMIT.fullmatch(commit) else commit for commit in code["commit"].split(THEN))
    if not code["changed"]:
        return commits
    return f"{commits} with uncommitted changes {THEN.join(each[:12] for each in str(code['changed']).split(THEN))}"


def _budget(record: Mapping[str, Any]) -> str:
    held = record["budget"]
    parts = [counted(held[key], key[:-1]) for key in ("minutes", "epochs") if held.get(key) is not None]
    return " or ".join(parts) + (f" on {held['on']}" if held.get("on") else "")


_ASKED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "code": _code,
    "data": lambda record: str(record["data"])[:12],
    "budgets": _budget,
}
