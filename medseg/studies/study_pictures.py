"""The pictures of a study: boxes, differences and training curves, beside its table and in its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.atomic import atomic_write
from medseg.metrics.paired_tests import Pair
from medseg.reports.page import Picture, Text
from medseg.reports.study_drawings import Difference, Values, boxes, differences, learning
from medseg.runs.run_folder import RunFolder
from medseg.studies.study_cell import Made
from medseg.studies.study_scores import MEAN, Scores

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PICTURES", "Curves", "curves_of", "items", "pictures", "write"]

PICTURES = ("boxes.png", "differences.png", "curves.png")
"""Files of the pictures; there are no differences of one row, and no curves where nothing was recorded."""

Curves = Mapping[str, Mapping[str, Sequence[tuple[Values, Values]]]]

_COLUMNS = 3  # that are drawn beside each other: those that the study shows first
_PAIRS = 15  # of rows
_LOSS, _SCORE = "loss", "val_mean_iou"
_ALT = {
    "boxes.png": "Each row's scores of the cases: median and quartiles, whiskers to the last case within 1.5 times "
    "their range, the mean as a diamond.",
    "differences.png": "What the second row has more than the first, case by case; the diamond is the mean{bar}. "
    "Filled diamonds are differences that hold after correction.",
    "curves.png": "Trainings over their epochs: a thin line each, thick the mean of a row as far as all of its "
    "trainings went.",
}


def curves_of(made: Sequence[Made]) -> Curves:
    """Return the recorded loss and validation score of trainings, by heading and row; what no row has is left out.

    Args:
        made: complete cells.
    """
    found: dict[str, dict[str, list[tuple[Values, Values]]]] = {}
    read = [(each.cell.row.name, RunFolder(each.folder).read_metrics()) for each in made]
    for key, label in ((_LOSS, "training loss"), (_SCORE, "validation: mean IoU of what picks the weights")):
        held: dict[str, list[tuple[Values, Values]]] = {name: [] for name, _ in read}
        for name, rows in read:
            points = [(row["epoch"], row[key]) for row in rows if np.isfinite(row.get(key, np.nan))]
            if points:
                epochs, values = np.array(points, dtype=np.float64).T
                held[name].append((epochs, values))
        if any(held.values()):
            found[label] = held
    return found


def pictures(
    scores: Scores, pairs: Mapping[tuple[str, str, str, str], Pair], headings: Mapping[str, str], curves: Curves
) -> dict[str, Image]:
    """Draw a study; returns the pictures by file name.

    Args:
        scores: of its cells.
        pairs: the tests, by first row, second row, column and class.
        headings: of the columns' means; what has none is not drawn.
        curves: of the trainings.
    """
    columns = list(headings)[:_COLUMNS]
    panels = {headings[name]: {row: scores.of_cases(row, name, MEAN) for row in scores.rows} for name in columns}
    found = {"boxes.png": boxes(panels)} if panels else {}
    apart: dict[str, list[Difference]] = {}
    for (first, second, column, kind), pair in pairs.items():
        if kind != MEAN or column not in columns:
            continue
        into = apart.setdefault(f"difference in {headings[column]}", [])
        if len(into) < _PAIRS:
            values = scores.of_cases(second, column, kind) - scores.of_cases(first, column, kind)
            into.append((f"{second} less {first}", values, pair.interval, pair.holds))
    if apart:
        found["differences.png"] = differences(apart)
    if curves:
        found["curves.png"] = learning(curves)
    return found


def items(drawn: Mapping[str, Image], pairs: Mapping[tuple[str, str, str, str], Pair]) -> list[Text | Picture]:
    """Return the pictures as a page has them, each with what it shows.

    Args:
        drawn: see `pictures`.
        pairs: likewise.
    """
    with_bars = any(pair.interval is not None for (*_, kind), pair in pairs.items() if kind == MEAN)
    bar = ", the bar its 95 % interval" if with_bars else "; there are too few groups for an interval"
    said = {name: _ALT[name].format(bar=bar) for name in drawn}
    return [item for name, picture in drawn.items() for item in (Text(said[name]), Picture(picture, said[name]))]


def write(drawn: Mapping[str, Image], folder: Path) -> None:
    """Write the pictures, and remove those of an earlier table that this one has not.

    Args:
        drawn: see `pictures`.
        folder: of the study.
    """
    for name in PICTURES:
        if name not in drawn:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_write(folder / name) as temporary:
            drawn[name].save(temporary, format="PNG")
