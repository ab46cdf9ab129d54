"""One table of several evaluations of the same images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import SPLITS, Datalist
from medseg.errors import MedsegError
from medseg.studies.baseline import score_otsu

_SAME = ("fingerprint", "split", "fold_key", "fold")  # what makes two evaluations comparable


class ComparisonError(MedsegError):
    """Evaluations that cannot stand in one table."""


@dataclass(frozen=True)
class Method:
    """One row: its name, its scores as in ``scores.json``, and the record of what was scored."""

    name: str
    scores: Mapping[str, Any]
    data: Mapping[str, Any]


def load_method(folder: Path) -> Method:
    """Read the evaluation in a folder, or in its folder ``test``; the row is named after the folder.

    Raises:
        ComparisonError: if there is none.
    """
    for place in (folder, folder / "test"):
        if (place / "scores.json").is_file() and (place / "data.json").is_file():
            scores = json.loads((place / "scores.json").read_text())
            return Method(folder.resolve().name, scores, json.loads((place / "data.json").read_text()))
    raise ComparisonError(
        f"{folder} holds no evaluation (scores.json and data.json, there or in its folder test); score weights with "
        "evaluate.yaml first"
    )


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
    data, held = Datalist.load(datalist), methods[0].data
    if data.fingerprint() != held.get("fingerprint"):
        raise ComparisonError(
            f"{datalist} is not the data that {methods[0].name} was scored on (the fingerprints differ); give that one"
        )
    parts = data.split(held["fold"], fold_key=held["fold_key"], validation_fold=held["validation_fold"])
    entries = dict(zip(SPLITS, parts, strict=True))[held["split"]]
    scored = methods[0].scores.get("instances")
    instances = None if scored is None else {"method": scored["method"], "min_size": scored["min_size"]}
    scores = score_otsu(data, entries, foreground=foreground, instances=instances)  # type: ignore[arg-type]
    return Method(f"Otsu's threshold ({foreground})", scores, dict(held))


def paired_interval(
    first: Sequence[float], other: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return how much better the other scores are on average, and the 95 % interval of that by a paired bootstrap.

    Images are drawn anew with replacement, both scores of an image together (B. Efron, R. J. Tibshirani, "An
    Introduction to the Bootstrap", 1993, percentile interval). It says how far the images at hand decide; not how far
    another training would differ.

    Args:
        first: score of each image by the first method.
        other: of the same images, in the same order, by the other.
        resamples: of the images.
        seed: of the draws.

    Raises:
        ValueError: if there is no image, or their numbers differ.
    """
    gains = np.asarray(other, dtype=float) - np.asarray(first, dtype=float) if len(first) == len(other) else np.empty(0)
    if not len(gains):
        raise MedsegError(f"{len(first)} and {len(other)} images cannot be paired; score both methods on the same ones")
    drawn = np.random.default_rng(seed).integers(0, len(gains), (resamples, len(gains)))
    low, high = np.quantile(gains[drawn].mean(1), (0.025, 0.975))
    return float(gains.mean()), float(low), float(high)


def rows_of(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Return one mapping a method: ``method``, IoU of each class, means, for two classes those of class 1.

    With instance scores, rows after the first say by how much their average precision of an image is above the first
    one's, with the 95 % interval of `paired_interval`.
    """
    rows = []
    for method in methods:
        classes = method.scores["classes"]
        row: dict[str, Any] = {"method": method.name}
        row |= {f"IoU {entry['name']}": entry["iou"] for entry in classes}
        row |= {"mean IoU": method.scores["mean_iou"]}
        if len(classes) == 2:
            row |= {name: classes[1][name.lower()] for name in ("Dice", "precision", "recall")}
        row |= {"pixel accuracy": method.scores["pixel_accuracy"], "mean accuracy": method.scores["mean_accuracy"]}
        if "boundary" in method.scores:
            row |= {"boundary F": method.scores["boundary"]["mean_f_score"]}
        if "instances" in method.scores:
            found = method.scores["instances"]
            half = next(entry for entry in found["thresholds"] if entry["threshold"] == 0.5)
            row |= {"AP 0.5": half["per_image"]["average_precision"], "F1 0.5": half["per_image"]["f1"]}
            row |= {"AP 0.5-0.95": found["per_image"]["average_precision"]}
            base = methods[0].scores.get("instances", {}).get("image_average_precision")
            if method is not methods[0] and base:
                gain, low, high = paired_interval(base, found["image_average_precision"])
                row |= {"AP above the first (95 %)": f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"}
        rows.append(row)
    return rows


def to_text(rows: Sequence[Mapping[str, Any]], *, digits: int = 3) -> str:
    """Lay the table out for the terminal."""
    cells = _cells(rows, digits)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    )


def to_markdown(rows: Sequence[Mapping[str, Any]], *, digits: int = 3) -> str:
    """Write the table in Markdown."""
    head, *body = _cells(rows, digits)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table as CSV with all digits."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(_cells(rows, None))
    return file.getvalue()


def _cells(rows: Sequence[Mapping[str, Any]], digits: int | None) -> list[list[str]]:
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        if isinstance(value, float):
            return repr(value) if digits is None else f"{value:.{digits}f}"
        return str(value)

    return [names, *([cell(row.get(name)) for name in names] for row in rows)]
