"""The scores of an evaluation as tables: pooled over all pixels, as means over the cases, and of instances.

The scores are those of ``scores.json``, as `medseg.metrics.score_board.ScoreBoard.table` gives them:

- ``classes``: a list of ``name`` and the pooled scores of a class; ``mean_<score>`` and other overall scores beside it;
- ``absent``: names of classes that are in no truth and no prediction;
- ``per_case``: ``cases``, ``rule``, ``classes`` (means, and under ``n`` in how many cases each was counted) and
  ``mean_<score>`` over the classes; ``whole`` holds what is one value a case;
- further ``boundary`` and ``instances``, each with what belongs to it;
- ``beside_paper``: ``"pooled"`` or ``"per_case"``, where it is known which of the two the paper prints.

What is undefined is ``None``: an absent class is written ``absent``, a single undefined score ``-``; neither is ever 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.reports.tables import Cell, Table

ABSENT = "absent"
HEADINGS = {
    "iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall", "boundary_f": "boundary F",
    "accuracy": "accuracy", "loss": "loss", "instance_ap": "instance AP", "instance_f1": "instance F1",
}  # fmt: skip
_OVERALL = {"accuracy": "pixel accuracy", "frequency_weighted_iou": "frequency-weighted IoU", "loss": "loss"}
_UNDER = {"accuracy": "recall", "frequency_weighted_iou": "iou"}  # the recall over all pixels, and a mean of IoU
_SHOWN = (0.5, 0.75, 0.9)


def score_tables(scores: Mapping[str, Any], *, digits: int = 3) -> list[Table]:
    """Return the tables of an evaluation.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    tables = [pooled_table(scores, digits=digits)]
    if "per_case" in scores:
        tables.append(per_case_table(scores, digits=digits))
    if "instances" in scores:
        tables.append(instance_table(scores["instances"], digits=digits))
    return tables


def pooled_table(scores: Mapping[str, Any], *, digits: int = 3) -> Table:
    """Return the scores over all pixels; mean accuracy is the mean of the recalls and stands under them.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    columns = [key for key in scores["classes"][0] if key not in ("name", "support")]
    absent = set(scores["absent"])
    rows: list[list[Cell]] = []
    for row in scores["classes"]:
        gone = row["name"] in absent
        rows.append([row["name"], *(ABSENT if gone else _absent_or(row[key], scores, key, row) for key in columns)])
        rows[-1].append(row["support"])
    total = sum(row["support"] for row in scores["classes"])
    summary: list[list[Cell]] = [
        [_mean_of(scores), *(_overall(scores, f"mean_{key}") for key in columns), total],
    ]
    for key, name in _OVERALL.items():
        if key in scores:
            under = _UNDER.get(key, columns[0])
            summary.append([name, *(scores[key] if column == under else "" for column in columns), ""])
    headings = ["class", *(heading(column) for column in columns), "support"]
    title = scores.get("averaging", "pooled over all pixels") + _paper(scores, "pooled")
    return Table(headings, [*rows, *summary], _boundary_note(scores), title, len(summary), digits)


def per_case_table(scores: Mapping[str, Any], *, digits: int = 3) -> Table:
    """Return the means over the cases, each class with the number of cases that it was counted in.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    held = scores["per_case"]
    columns = [key for key in held["classes"][0] if key not in ("name", "n")]
    rows: list[list[Cell]] = []
    for row in held["classes"]:
        number = max(row["n"].values(), default=0)
        cells = [row[key] if number else ABSENT for key in columns]
        rows.append([row["name"], *cells, number])
    rows.append([_mean_of(scores), *(held.get(f"mean_{key}") for key in columns), held["cases"]])
    for key, value in held["whole"].items():
        rows.append([f"{heading(key)} of a case", value["mean"], *[""] * (len(columns) - 1), value["n"]])
    headings = ["class", *(heading(column) for column in columns), "n"]
    title = held["averaging"] + _paper(scores, "per_case")
    return Table(headings, rows, [held["rule"]], title, 1 + len(held["whole"]), digits)


def instance_table(scores: Mapping[str, Any], *, digits: int = 3) -> Table:
    """Return scores of instances, pooled over the set and as means over the images.

    Args:
        scores: as `medseg.metrics.instances.InstanceScores.to_dict` gives them.
        digits: after the decimal point.
    """
    headings = ["instances at IoU", "AP", "F1", "precision", "recall", "AP per image", "F1 per image"]
    rows: list[list[Cell]] = [
        [f"{row['threshold']:.2f}", *_instance_cells(row)] for row in scores["thresholds"] if row["threshold"] in _SHOWN
    ]
    rows.append(["mean 0.50 to 0.95", *_instance_cells(scores)])
    counted = (
        f"{scores['true_objects']:,} true and {scores['predicted_objects']:,} predicted instances in "
        f"{scores['images']} images; an image without any scores 1"
    )
    return Table(headings, rows, [counted], digits=digits)


def long_table(scores: Mapping[str, Any]) -> Table:
    """Return one table of all class scores, for a CSV: a row for each averaging and class.

    Args:
        scores: see the module.
    """
    rows: list[dict[str, Cell]] = []
    per_case = scores.get("per_case", {})
    for held, label in ((scores, scores.get("averaging", "pooled over all pixels")), (per_case, "mean over cases")):
        for row in held.get("classes", ()):
            number = {"n": max(row["n"].values(), default=0)} if isinstance(row.get("n"), Mapping) else {}
            values = {key: value for key, value in row.items() if key not in ("name", "n")}
            rows.append({"averaging": label, "class": row["name"], **values, **number})
        means = {key: value for key, value in held.items() if _is_score(key, value)}
        if means:  # the mean of a column stands under it; mean accuracy, of which there is none, under its own name
            below = {f"mean_{key}" for row in held["classes"] for key in row}
            columns = {key.removeprefix("mean_") if key in below else key: value for key, value in means.items()}
            rows.append({"averaging": label, "class": "(mean or overall)", **columns})
    return Table.of(rows)


def heading(column: str) -> str:
    """Return a score's name as tables have it.

    Args:
        column: its name in records.
    """
    return HEADINGS.get(column, column.replace("_", " "))


def _is_score(key: str, value: object) -> bool:
    return (key.startswith("mean_") or key in _OVERALL) and (value is None or isinstance(value, float))


def _absent_or(value: Cell, scores: Mapping[str, Any], key: str, row: Mapping[str, Any]) -> Cell:
    """Return a pooled score, or that the class has no boundary anywhere."""
    return ABSENT if key == "boundary_f" and row["name"] in scores["boundary"]["absent"] else value


def _overall(scores: Mapping[str, Any], key: str) -> Cell:
    value: Cell = scores.get(key)
    return value


def _mean_of(scores: Mapping[str, Any]) -> str:
    absent = len(scores["absent"])
    return f"mean of {len(scores['classes']) - absent} classes" if absent else "mean"


def _paper(scores: Mapping[str, Any], kind: str) -> str:
    return ", as the paper's figures are" if scores.get("beside_paper") == kind else ""


def _boundary_note(scores: Mapping[str, Any]) -> Sequence[str]:
    """Name the tolerance of boundary F-scores; it grows with the image."""
    reach = scores.get("boundary", {}).get("tolerance_pixels")
    if reach is None:
        return ()
    least, most = (f"{pixels:.1f}" for pixels in reach)
    return (f"boundary F within {least if least == most else f'{least} to {most}'} px",)


def _instance_cells(row: Mapping[str, Any]) -> list[Cell]:
    pooled, each = row["pooled"], row["per_image"]
    values = [pooled[name] for name in ("average_precision", "f1", "precision", "recall")]
    return [*values, each["average_precision"], each["f1"]]
