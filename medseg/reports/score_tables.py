"""The scores of an evaluation as tables: pooled over all pixels, as means over the cases, and of instances.

The scores are those of ``scores.json``, as `medseg.metrics.score_board.ScoreBoard.table` gives them:

- ``classes``: a list of ``name`` and the pooled scores of a class; ``mean_<score>`` and other overall scores beside it;
- ``absent``: names of classes that are in no truth and no prediction; ``notes``: what else a reader of the pooled
  scores must know, a sentence each;
- ``per_case``: ``cases``, ``rule``, ``classes`` (means, under ``n`` in how many cases each was counted, under
  ``interval`` the 95 % intervals, ``missed`` and ``invented`` cases) and ``mean_<score>`` over the classes, with
  ``mean_interval``; ``columns`` and ``notes`` by score, ``units`` by column; ``bootstrap`` says how the intervals were
  made; ``whole`` holds what is one value a case; ``signed`` columns have no mean over the classes;
- ``without_background``, of the pooled scores and in ``per_case``: the same ``mean_<score>`` over the other classes,
  where one is called background. Those beside it are over all classes, the background among them;
- further ``boundary`` and ``instances``, each with what belongs to it;
- ``beside_paper``: ``"pooled"`` or ``"per_case"``, where it is known which of the two the paper prints.

What is undefined is ``None``: an absent class is written ``absent``, a single undefined score ``-``; neither is ever 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medseg.errors import counted
from medseg.reports.palette import is_background
from medseg.reports.tables import UNDEFINED, Cell, Table

ABSENT = "absent"
WHOLE = "(all)"
"""What stands for the class in the row of a whole case."""
HEADINGS = {
    "iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall", "boundary_f": "boundary F",
    "accuracy": "accuracy", "loss": "loss", "instance_ap": "instance AP", "instance_f1": "instance F1",
    "hd95": "HD95", "assd": "ASSD", "nsd": "NSD", "volume_difference": "volume error",
    "absolute_volume_difference": "absolute error", "relative_volume_difference": "relative error",
    "lesion_f1": "lesion F1", "lesion_precision": "lesion precision", "lesion_recall": "lesion recall",
}  # fmt: skip
_OVERALL = {"accuracy": "pixel accuracy", "frequency_weighted_iou": "frequency-weighted IoU", "loss": "loss"}
_UNDER = {"accuracy": "recall", "frequency_weighted_iou": "iou"}  # the recall over all pixels, and a mean of IoU
_SHOWN = (0.5, 0.75, 0.9)
_MEANT = {
    "overlap": "IoU: what truth and prediction have in common, divided by what either has. Dice: twice what they have "
    "in common, divided by the sum of both sizes. Precision: the share of what was found that is right. Recall: the "
    "share of the truth that was found. n: cases that count.",
    "distances": "HD95: a distance that 95 % of either outline are within of the other; of the two sides the larger. "
    "ASSD: the mean distance of the outlines. NSD: the share of the outlines that are close enough to each other.",
    "pooled": "Pooled: as if all cases were one large one. Support: how much of each class the truth has. "
    "Frequency-weighted: each class counts by that.",
}


def score_tables(scores: Mapping[str, Any], *, digits: int = 3) -> list[Table]:
    """Return the tables of an evaluation.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    tables = [pooled_table(scores, digits=digits)]
    if "per_case" in scores:
        tables += per_case_tables(scores, digits=digits)
    if "instances" in scores:
        tables.append(instance_table(scores["instances"], digits=digits))
    return tables


def meanings(scores: Mapping[str, Any]) -> list[str]:
    """Return what the usual headings of these tables mean, for somebody who does not know them.

    Args:
        scores: see the module.
    """
    there = [name for name, columns in scores.get("per_case", {}).get("columns", {}).items() if columns]
    return [_MEANT[name] for name in (*there, "pooled") if name in _MEANT]


def pooled_table(scores: Mapping[str, Any], *, digits: int = 3) -> Table:
    """Return the scores over all pixels.

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
    summary: list[list[Cell]] = []
    for label, means, counted_in in _means(scores, scores, [row for row in rows if row[0] not in absent]):
        total = sum(row["support"] for row in scores["classes"] if counted_in(row["name"]))
        summary.append([label, *(means.get(f"mean_{key}") for key in columns), total])
    for key, name in _OVERALL.items():
        if key in scores:
            under = _UNDER.get(key, columns[0])
            summary.append([name, *(scores[key] if column == under else "" for column in columns), ""])
    headings = ["class", *(heading(column) for column in columns), "support"]
    title = scores.get("averaging", "pooled over all pixels") + _paper(scores, "pooled")
    notes = (*_boundary_note(scores), *scores.get("notes", ()))
    return Table(headings, [*rows, *summary], notes, title, len(summary), digits)


def per_case_tables(scores: Mapping[str, Any], *, digits: int = 3) -> list[Table]:
    """Return the means over the cases with their intervals: a table a score, the first with what all have.

    Args:
        scores: see the module.
        digits: after the decimal point.
    """
    held = scores["per_case"]
    tables: list[Table] = []
    for name, columns in held["columns"].items():
        if not columns:
            continue
        first = not tables
        rows = [_class_row(row, columns, held, digits) for row in held["classes"]]
        last = _mean_rows(scores, columns, digits)
        rows += last
        whole = held["whole"] if first else {}
        for key, value in whole.items():
            mean = _with_interval(value["mean"], value["interval"], digits)
            under = _UNDER.get(key) if _UNDER.get(key) in columns else columns[0]
            cells = [mean if column == under else "" for column in columns]
            rows.append([f"{heading(key)} of a case", *cells, value["n"], *[""] * len(_alone(held))])
        headings = ["class", *(_with_unit(column, held["units"]) for column in columns), "n", *_alone(held)]
        notes = [*held["notes"].get(name, ())]
        notes += [held["rule"], held["bootstrap"]["note"]] if first else []
        title = held["averaging"] + (_paper(scores, "per_case") if first else "")
        tables.append(Table(headings, rows, notes, title, len(last) + len(whole), digits))
    return tables


def _mean_rows(scores: Mapping[str, Any], columns: Sequence[str], digits: int) -> list[list[Cell]]:
    """Return the rows of the means over the classes of a table of means over the cases."""
    held = scores["per_case"]
    there = [[row["name"]] for row in held["classes"] if any(row["n"][key] for key in columns)]
    rows: list[list[Cell]] = []
    for label, means, counted_in in _means(scores, held, there):
        within = means["mean_interval"]
        cells = [
            "" if key in held.get("signed", ()) else _with_interval(means[f"mean_{key}"], within[key], digits)
            for key in columns
        ]
        alone = (sum(row[key] for row in held["classes"] if counted_in(row["name"])) for key in _alone(held))
        rows.append([label, *cells, held["cases"], *alone])
    return rows


def _class_row(row: Mapping[str, Any], columns: Sequence[str], held: Mapping[str, Any], digits: int) -> list[Cell]:
    number = max((row["n"][key] for key in columns), default=0)
    absent = ABSENT if not any(row["n"].values()) else UNDEFINED  # undefined: the score leaves the class out
    cells = [
        _with_interval(row[key], row["interval"][key], digits) if row["n"][key] else UNDEFINED if number else absent
        for key in columns
    ]
    return [row["name"], *cells, number, *(row[key] for key in _alone(held))]


def _alone(held: Mapping[str, Any]) -> list[str]:
    """Return the columns that count the cases in which a class is in only one of truth and prediction, if any is."""
    keys = ("missed", "invented")
    return [*keys] if any(row.get(key) for row in held["classes"] for key in keys) else []


def _with_interval(mean: float | None, interval: Sequence[float] | None, digits: int) -> Cell:
    return mean if mean is None or interval is None else mean_text(mean, interval, digits)


def mean_text(mean: float, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Return a mean as text, with its interval where there is one.

    Args:
        mean: of the score.
        interval: its ends.
        digits: after the decimal point.
    """
    ends = "" if interval is None else f" [{', '.join(f'{end:.{digits}f}' for end in interval)}]"
    return f"{mean:.{digits}f}{ends}"


def _with_unit(column: str, units: Mapping[str, str]) -> str:
    return f"{heading(column)} ({units[column]})" if units.get(column) else heading(column)


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
    note = (
        f"{scores['true_objects']:,} true and {scores['predicted_objects']:,} predicted instances in "
        f"{counted(scores['images'], 'image')}; an image without any scores 1"
    )
    return Table(headings, rows, [note], digits=digits)


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
            values = {key: value for key, value in row.items() if key not in ("name", "n", "interval")}
            more = _ends(row.get("interval", {}))
            rows.append({"averaging": label, "class": row["name"], **values, **more, **number})
        means = {key: value for key, value in held.items() if _is_score(key, value)}
        if objects := held.get("without_background"):
            columns = {key.removeprefix("mean_"): value for key, value in objects.items() if _is_score(key, value)}
            more = _ends(objects.get("mean_interval", {}))
            rows.append({"averaging": label, "class": "(mean without background)", **columns, **more})
        if means:  # the mean of a column stands under it; mean accuracy, of which there is none, under its own name
            below = {f"mean_{key}" for row in held["classes"] for key in row}
            columns = {key.removeprefix("mean_") if key in below else key: value for key, value in means.items()}
            more = _ends(held.get("mean_interval", {}))
            rows.append({"averaging": label, "class": "(mean or overall)", **columns, **more})
    units = per_case.get("units", {})
    return Table.of([{f"{k}_{units[k]}" if units.get(k) else k: v for k, v in row.items()} for row in rows])


def _ends(intervals: Mapping[str, Sequence[float] | None]) -> dict[str, Cell]:
    """Return the ends of the intervals by column: ``dice_low`` and ``dice_high``."""
    return {
        f"{key}_{end}": None if ends is None else ends[place]
        for key, ends in intervals.items()
        for place, end in enumerate(("low", "high"))
    }


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


def _means(
    scores: Mapping[str, Any], held: Mapping[str, Any], there: Sequence[Sequence[Cell]]
) -> list[tuple[str, Mapping[str, Any], Callable[[str], bool]]]:
    """Return the means over classes: what they are called, where they stand, and which classes count.

    The one without the background is the first, unless the scores stand beside a paper's that are pooled: those count
    it, as of PASCAL VOC. Where the background has no score there is no other.

    Args:
        scores: see the module.
        held: these, or ``per_case`` in them.
        there: rows of the classes that are counted.
    """
    names = [str(row[0]) for row in there]
    objects = [name for name in names if not is_background(name)]
    if not any(is_background(row["name"]) for row in held["classes"]) or "without_background" not in held:
        return [(f"mean of {counted(len(names), 'class', 'classes')}", held, lambda name: True)]
    without = (
        f"mean of {counted(len(objects), 'class', 'classes')}, without background", held["without_background"],
        lambda name: not is_background(name),
    )  # fmt: skip
    if len(objects) == len(names):
        return [without]
    among = (f"mean of {counted(len(names), 'class', 'classes')}, background included", held, lambda name: True)
    return [among, without] if scores.get("beside_paper") == "pooled" else [without, among]


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
