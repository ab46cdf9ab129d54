"""Scores by kind of image (`medseg.data.kinds`): a mean over all of them may hide that one kind fails."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.metrics.intervals import ClusterBootstrap, Interval
from medseg.reports.score_tables import WHOLE, mean_text
from medseg.reports.tables import Table

__all__ = ["groups_of_cases", "kinds_table", "mean_over_cases", "means_of_cases"]


def kinds_table(
    kinds: Sequence[str],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    classes: Sequence[str],
    column: str = "dice",
) -> Table | None:
    """Return a row a kind: images, and each method's mean with its interval; ``None`` where there is one kind alone.

    Args:
        kinds: of each case, in the order in which cases are scored.
        rows: rows of cases as in ``scores_per_case.csv``, by the method's name.
        classes: whose scores are averaged.
        column: the score.

    Raises:
        MedsegError: if a method has not as many cases as there are kinds.
    """
    if len(set(kinds)) < 2:
        return None
    values = {name: means_of_cases(each, classes, column) for name, each in rows.items()}
    for name, each in values.items():
        if len(each) != len(kinds):
            raise MedsegError(f"{name}: {len(each)} cases are scored, {len(kinds)} are known; score all of them")
    groups = np.array(groups_of_cases(next(iter(rows.values()))))
    lines: list[dict[str, str | int]] = []
    for kind, number in Counter(kinds).most_common():
        inside = np.array([each == kind for each in kinds])
        found = {name: with_interval(each[inside], groups[inside]) for name, each in values.items()}
        lines.append({"kind of image": kind, "images": number, **found})
    return Table.of(lines, notes=[f"{column} of {', '.join(classes)}: mean over the images of a kind [95 % interval]"])


def with_interval(values: NDArray[np.float64], groups: Sequence[str] | NDArray[np.str_]) -> str:
    """Return the mean over cases as text, with its interval where there are enough of them; see `mean_over_cases`."""
    mean, interval = mean_over_cases(values, groups)
    return "none" if mean is None else mean_text(mean, interval)


def mean_over_cases(
    values: NDArray[np.float64], groups: Sequence[str] | NDArray[np.str_]
) -> tuple[float | None, Interval | None]:
    """Return the mean over cases and its interval; ``None`` where none counts, or too few for an interval.

    Args:
        values: of each case; NaN is not counted.
        groups: of each case; ``""`` where it is not known.
    """
    there = ~np.isnan(values)
    if not there.any():
        return None, None
    return float(values[there].mean()), ClusterBootstrap([str(each) for each in groups]).intervals(values[:, None])[1]


def groups_of_cases(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the group of each case; ``""`` where it is not known.

    Args:
        rows: as in ``scores_per_case.csv``.
    """
    return [str(row.get("group") or "") for row in rows if row["class"] == WHOLE]


def means_of_cases(
    rows: Sequence[Mapping[str, Any]], classes: Sequence[str], column: str = "dice"
) -> NDArray[np.float64]:
    """Return the mean over the classes of each case; NaN where none of them counts in it.

    Args:
        rows: as in ``scores_per_case.csv``.
        classes: whose scores are averaged.
        column: the score.
    """
    held: list[list[float]] = []
    for row in rows:
        if row["class"] == WHOLE:
            held.append([])
        elif row["class"] in classes and row.get(column) not in (None, ""):
            held[-1].append(float(row[column]))
    there = [[value for value in each if not math.isnan(value)] for each in held]
    return np.array([np.mean(each) if each else math.nan for each in there])
