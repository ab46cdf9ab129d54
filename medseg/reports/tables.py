"""Scores as tables: for the terminal, Markdown, CSV and JSON.

The scores are a plain mapping: ``classes`` (a list of ``name``, ``iou``, ``dice``, ``precision``, ``recall`` and
``support``), ``mean_iou``, ``mean_dice``, ``pixel_accuracy``, ``mean_accuracy``, ``frequency_weighted_iou`` and
``absent`` (names of classes that occur neither in labels nor in predictions). Where they hold ``boundary``
(`medseg.metrics.boundary.BoundaryScores`), it is one more column, and a row names the tolerance. What is undefined is
``None``: an absent class is written ``absent``, a single undefined score ``-``; neither is ever 0 or 1.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

COLUMNS = ("iou", "dice", "precision", "recall")
_HEADINGS = ("class", "IoU", "Dice", "precision", "recall", "support")
ABSENT, UNDEFINED = "absent", "-"


def to_text(scores: Mapping[str, Any], *, digits: int = 3) -> str:
    """Lay the table out for the terminal.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    classes, summary = _cells(scores, digits)
    rows = [_headings(scores), *classes, *summary]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(_aligned(cell, width, index) for index, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    lines.insert(1, rule)
    lines.insert(2 + len(classes), rule)
    return "\n".join(line.rstrip() for line in lines)


def to_markdown(scores: Mapping[str, Any], *, digits: int = 3) -> str:
    """Write the table in Markdown.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    classes, summary = _cells(scores, digits)
    headings = _headings(scores)
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    rows += [[cell.replace("|", "\\|") for cell in row] for row in classes]
    rows += [[f"**{cell}**" if cell else "" for cell in row] for row in summary]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def to_csv(scores: Mapping[str, Any]) -> str:
    """Write the table as CSV with all digits."""
    classes, summary = _cells(scores, None)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    boundary = ["boundary_f"] if "boundary" in scores else []
    writer.writerows([["class", *COLUMNS, *boundary, "support"], *classes, *summary])
    return file.getvalue()


def to_json(scores: Mapping[str, Any]) -> str:
    """Write the scores as JSON; what is undefined is ``null``."""
    return json.dumps(_no_nan(dict(scores)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _headings(scores: Mapping[str, Any]) -> list[str]:
    *first, last = _HEADINGS
    return [*first, *(["boundary F"] if "boundary" in scores else []), last]


def _cells(scores: Mapping[str, Any], digits: int | None) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of the classes and those of the summary as text.

    Mean accuracy is the mean of the recalls and pixel accuracy the recall over all pixels, so both stand under recall;
    the mean has a row by its name too.
    """
    absent = set(scores["absent"])
    classes = []
    for row in scores["classes"]:
        blank = ABSENT if row["name"] in absent else UNDEFINED
        values = [blank if row["name"] in absent else _number(row[key], digits, blank) for key in COLUMNS]
        classes.append([str(row["name"]), *values, _count(row["support"], digits)])
    total = sum(row["support"] for row in scores["classes"])
    scored = len(scores["classes"]) - len(absent)
    mean = "mean" if not absent or digits is None else f"mean of {scored} classes"

    def value(key: str) -> str:
        return _number(scores[key], digits, UNDEFINED)

    summary = [
        [mean, value("mean_iou"), value("mean_dice"), "", value("mean_accuracy"), _count(total, digits)],
        ["pixel accuracy", "", "", "", value("pixel_accuracy"), ""],
        ["mean accuracy", "", "", "", value("mean_accuracy"), ""],
        ["frequency-weighted IoU", value("frequency_weighted_iou"), "", "", "", ""],
    ]
    if "boundary" in scores:
        _add_boundary(classes, summary, scores["boundary"], digits)
    return classes, summary


def _add_boundary(
    classes: list[list[str]], summary: list[list[str]], boundary: Mapping[str, Any], digits: int | None
) -> None:
    """Put boundary F-scores before the support, in place, and their mean into a row of its own."""
    for row, entry in zip(classes, boundary["classes"], strict=True):
        row.insert(-1, ABSENT if entry["name"] in boundary["absent"] else _number(entry["f_score"], digits, UNDEFINED))
    for row in summary:
        row.insert(-1, "")
    blanks = [""] * len(COLUMNS)
    summary.append([_within(boundary), *blanks, _number(boundary["mean_f_score"], digits, UNDEFINED), ""])


def _within(boundary: Mapping[str, Any]) -> str:
    """Name the tolerance of boundary F-scores; it grows with the image."""
    if boundary["tolerance_pixels"] is None:
        return "boundary F"
    least, most = (f"{pixels:.1f}" for pixels in boundary["tolerance_pixels"])
    return f"boundary F within {least if least == most else f'{least} to {most}'} px"


def _number(value: float | None, digits: int | None, blank: str) -> str:
    if value is None or math.isnan(value):
        return blank
    return repr(float(value)) if digits is None else f"{value:.{digits}f}"


def _count(value: int, digits: int | None) -> str:
    return str(int(value)) if digits is None else f"{int(value):,}"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _no_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _no_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
