"""The cases of an evaluation as a report needs them: one row each, with numbers, and without a name unless asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.reports.score_tables import WHOLE, heading
from medseg.reports.tables import Table

__all__ = ["CaseScores", "all_alike", "cases_of", "table_of"]

_WIDE = 4  # classes up to which each has columns of its own
_LONG = 1000  # cases that a page can hold
_LEAST = 0.002  # difference of uncertainties that three digits show


@dataclass(frozen=True)
class CaseScores:
    """One case.

    Args:
        number: from 1, in the order of ``scores_per_case.csv``.
        name: of the case, as it is there.
        dice: by class; what is in neither truth nor prediction is not there.
        volumes: true and found, by class, in ``unit``.
        unit: ``"ml"``, or ``"pixels"`` where the size of a voxel is not known.
        uncertainty: NaN where it was not computed.
        others: further scores of the case by column, means over its classes.
    """

    number: int
    name: str
    dice: Mapping[str, float]
    volumes: Mapping[str, tuple[float, float]]
    unit: str
    uncertainty: float
    others: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean Dice over the classes that count; NaN of none."""
        return math.fsum(self.dice.values()) / len(self.dice) if self.dice else math.nan


def cases_of(
    rows: Sequence[Mapping[str, str]], classes: Sequence[str], columns: Sequence[str] = ()
) -> list[CaseScores]:
    """Read the rows of a ``scores_per_case.csv``.

    Args:
        rows: by column.
        classes: names of those that count, without the background.
        columns: further scores to keep, as they are named there.
    """
    found: list[CaseScores] = []
    whole: Mapping[str, str] = {}
    dice: dict[str, float] = {}
    volumes: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row["class"] == WHOLE:
            size = _number(row.get("voxel_ml"))
            unit, factor = ("pixels", 1.0) if math.isnan(size) else ("ml", size)
            whole, dice, volumes = row, {}, {}
            others = {key: _number(row.get(key)) for key in columns}
            sure = _number(row.get("uncertainty"))
            found.append(CaseScores(len(found) + 1, row["case"], dice, volumes, unit, sure, others))
        elif found and row["class"] in classes and row["case"] == whole["case"]:
            score, sizes = _number(row.get("dice")), (_number(row.get("pixels")), _number(row.get("predicted_pixels")))
            if not math.isnan(score):
                dice[row["class"]] = score
            if not any(math.isnan(each) for each in sizes):
                volumes[row["class"]] = (sizes[0] * factor, sizes[1] * factor)
    return found


def table_of(
    cases: Sequence[CaseScores], classes: Sequence[str], names: Sequence[str], mean_dice: str = "mean Dice"
) -> Table:
    """Return a row a case, the lowest mean Dice first.

    Args:
        cases: all of them.
        classes: those that count.
        names: what each case is called, in the order of ``cases``.
        mean_dice: what the mean over these classes is called.
    """
    order = sorted(range(len(cases)), key=lambda n: (math.isnan(cases[n].mean), cases[n].mean, n))
    unit = cases[0].unit if cases else "pixels"
    wide = len(classes) <= _WIDE
    rows = []
    for place in order[:_LONG]:
        case = cases[place]
        row: dict[str, Any] = {"case": names[place], mean_dice: _cell(case.mean)}
        if wide:
            row |= {f"Dice {name}": case.dice.get(name) for name in classes}
            for name in classes:
                true, found = case.volumes.get(name, (0.0, 0.0))
                row |= {f"{name} true, {unit}": _size(true, unit), f"{name} found, {unit}": _size(found, unit)}
        else:
            lowest = min(case.dice, key=lambda name: case.dice[name], default=None)
            row |= {"lowest class": lowest or "", "its Dice": None if lowest is None else case.dice[lowest]}
        row |= {_titled(key): _cell(value) for key, value in case.others.items()}
        if not math.isnan(case.uncertainty):
            row["uncertainty"] = case.uncertainty
        rows.append(row)
    notes = [f"the {_LONG:,} lowest of {len(cases):,} cases; scores_per_case.csv has all"] if len(cases) > _LONG else []
    return Table.of(rows, notes=notes)


def all_alike(values: Sequence[float]) -> str | None:
    """Return a sentence on uncertainties that rank no case before another, as far as a table shows them.

    Args:
        values: of the cases.
    """
    low, high = min(values), max(values)
    if len(values) < 2 or high - low >= _LEAST:
        return None
    return (
        f"The uncertainty of all {len(values)} cases is {low:.3f} to {high:.3f}: it tells none from another, and so "
        "says nothing of where to look first."
    )


def _titled(column: str) -> str:
    name, _, unit = column.rpartition("_")
    return f"{heading(name)}, {unit}" if unit in ("mm", "ml", "px") and name else heading(column)


def _size(value: float, unit: str) -> int | float:
    return round(value) if unit == "pixels" else float(f"{value:.3f}")


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(text: str | None) -> float:
    return float(text) if text not in (None, "") else math.nan
