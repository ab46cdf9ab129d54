"""One table of several evaluations of the same images."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import SPLITS, Datalist
from medseg.errors import MedsegError
from medseg.metrics.intervals import LEAST_GROUPS, RESAMPLES
from medseg.metrics.paired_tests import compare
from medseg.reports.palette import is_background
from medseg.reports.score_tables import WHOLE
from medseg.reports.tables import Table

_GAIN = "AP above the first"
_NOTE = (
    f"{_GAIN}: image by image; 95 % interval: BCa bootstrap, {RESAMPLES:,} draws of groups (of images where none is "
    f"known), none of fewer than {LEAST_GROUPS}"
)
_LEFT_OUT = "images that one lacks"
_SAME = ("fingerprint", "split", "fold_key", "fold")  # what makes two evaluations comparable


class ComparisonError(MedsegError):
    """Evaluations that cannot stand in one table."""


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        name: of the method.
        scores: as in ``scores.json``.
        data: record of what was scored.
        record: of the weights that it was scored with.
        groups: of each image, ``""`` where it is not known; empty where none is.
    """

    name: str
    scores: Mapping[str, Any]
    data: Mapping[str, Any]
    record: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[str] = ()


def load_method(folder: Path) -> Method:
    """Read the evaluation in a folder, or in its folder ``test``; the row is named after the folder.

    Raises:
        ComparisonError: if there is none.
    """
    for place in (folder, folder / "test"):
        if (place / "scores.json").is_file() and (place / "data.json").is_file():
            scores = json.loads((place / "scores.json").read_text(encoding="utf-8"))
            data = json.loads((place / "data.json").read_text(encoding="utf-8"))
            record = place / "evaluation.json"
            held = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
            return Method(folder.resolve().name, scores, data, held, _groups(place / "scores_per_case.csv"))
    raise ComparisonError(
        f"{folder} holds no evaluation (scores.json and data.json, there or in its folder test); score the run "
        "first: medseg evaluate RUN"
    )


def _groups(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row.get("group") or "" for row in csv.DictReader(file) if row.get("class") == WHOLE]


def check_same_data(methods: Sequence[Method]) -> None:
    """Raise unless all rows were scored on the same images, and boundaries within the same tolerance.

    Raises:
        ComparisonError: naming the two that differ, and in what.
    """
    first = methods[0]
    for other in methods[1:]:
        for key in _SAME:
            if first.data.get(key) != other.data.get(key):
                raise ComparisonError(
                    f"{first.name} and {other.name} were scored on different data: {key} is "
                    f"{first.data.get(key)!r} and {other.data.get(key)!r}; evaluate both on one split"
                )
    bounded = [method for method in methods if "boundary" in method.scores]
    for other in bounded[1:]:
        one, two = (method.scores["boundary"]["tolerance"] for method in (bounded[0], other))
        if one != two:
            raise ComparisonError(
                f"{bounded[0].name} and {other.name} have boundary F-scores of different tolerance, {one} and {two} of "
                "the diagonal; evaluate both with one"
            )


def otsu_method(methods: Sequence[Method], datalist: Path, foreground: str = "minority") -> Method:
    """Score Otsu's threshold on the images of the other rows.

    Args:
        methods: the other rows, which say which images they were scored on.
        datalist: the JSON file that they were scored on.
        foreground: side of the threshold.

    Raises:
        ComparisonError: if the datalist is not the one of the other rows.
        DatalistError: if it cannot be read, or has not two classes.
    """
    from medseg.studies.baseline import score_otsu

    data, held = Datalist.load(datalist), methods[0].data
    if data.fingerprint() != held.get("fingerprint"):
        raise ComparisonError(
            f"{datalist} is not the data that {methods[0].name} was scored on (the fingerprints differ); give that one"
        )
    parts = data.split(held["fold"], fold_key=held["fold_key"], validation_fold=held["validation_fold"])
    entries = dict(zip(SPLITS, parts, strict=True))[held["split"]]
    scored = methods[0].scores.get("instances")
    wanted = {} if scored is None else {"instances": {"method": scored["method"], "min_size": scored["min_size"]}}
    scores = score_otsu(data, entries, foreground=foreground, scores=wanted)  # type: ignore[arg-type]
    groups = [str(row["group"]) for row in scores.rows if row["class"] == WHOLE]
    return Method(f"Otsu's threshold ({foreground})", scores.scores, dict(held), groups=groups)


def rows_of(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Return one mapping a method: network and parameters, IoU of each class, means, for two classes those of class 1.

    Scores are pooled over all pixels unless their column says that they are means over the cases. With instance scores,
    rows after the first say by how much their average precision of an image is above the first one's, with the 95 %
    interval that a study has too, see `medseg.metrics.paired_tests.compare`, and how many images only one of the two
    has an average precision of, where there are some.

    Raises:
        ComparisonError: if two methods have scores of other numbers of images.
    """
    rows = []
    for method in methods:
        scores, classes = method.scores, method.scores["classes"]
        network = method.record.get("network", {})
        row: dict[str, Any] = {"method": method.name}
        if any("network" in other.record for other in methods):
            row |= {"network": network.get("name"), "parameters": network.get("parameters")}
        row |= {f"IoU {entry['name']}": entry["iou"] for entry in classes}
        row |= {"mean IoU": scores["mean_iou"]}
        if len(classes) == 2:
            row |= {name: classes[1][name.lower()] for name in ("Dice", "precision", "recall")}
        row |= {"accuracy": scores["accuracy"], "mean accuracy": scores["mean_accuracy"]}
        row |= _per_case(scores)
        if "boundary" in scores:
            row |= {"boundary F": scores["boundary"]["mean_f_score"]}
        if "instances" in scores:
            row |= _instances(method, methods[0])
        rows.append(row)
    return rows


def _per_case(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means over the cases: of class 1 where there are two, else over the classes."""
    if "per_case" not in scores:
        return {}
    held = scores["per_case"]
    two = held["classes"][1] if len(held["classes"]) == 2 else None
    iou, dice = (two[key] if two else held[f"mean_{key}"] for key in ("iou", "dice"))
    return {"IoU per case": iou, "Dice per case": dice}


def _instances(method: Method, first: Method) -> dict[str, Any]:
    found = method.scores["instances"]
    half = next(entry for entry in found["thresholds"] if entry["threshold"] == 0.5)
    row = {"AP 0.5": half["per_image"]["average_precision"], "F1 0.5": half["per_image"]["f1"]}
    row |= {"AP 0.5-0.95": found["per_image"]["average_precision"]}
    base = first.scores.get("instances", {}).get("image_average_precision")
    if method is not first and base:
        row |= _gain(method, first.name, base, found["image_average_precision"])
    return row


def _gain(method: Method, first: str, base: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    groups = method.groups or [""] * len(values)
    if not len(base) == len(values) == len(groups):
        raise ComparisonError(
            f"{first} and {method.name} have average precisions of {len(base)} and {len(values)} images and groups of "
            f"{len(groups)}, which cannot be paired; evaluate both anew"
        )
    pair = compare(np.asarray(base, np.float64), np.asarray(values, np.float64), groups)
    low, high = pair.interval or (None, None)
    found = {_GAIN: pair.difference, "at least (95 %)": low, "at most (95 %)": high}
    return found | ({_LEFT_OUT: pair.left_out} if pair.left_out else {})


def table_of(rows: Sequence[Mapping[str, Any]], *, digits: int = 3) -> Table:
    """Return the table of the rows of `rows_of`, whatever else was added to them.

    Args:
        rows: one mapping a method.
        digits: after the decimal point.
    """
    notes = [*_counted(rows), *([_NOTE] if any(_GAIN in row for row in rows) else [])]
    return Table.of(rows, digits=digits, notes=notes)


def _counted(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which classes the scores without a class's name are of, where one is the background."""
    keys = {key: None for row in rows for key in row}  # in order
    classes = [key.removeprefix("IoU ") for key in keys if key.startswith("IoU ") and key != "IoU per case"]
    around = next(filter(is_background, classes), None)
    if around is None:
        return []
    means = f"means over classes count {around}"
    return [f"{means}; Dice, precision, recall and scores per case are of {classes[1]}" if len(classes) == 2 else means]
