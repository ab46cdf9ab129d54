"""Instance scores as a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = (0.5, 0.75, 0.9)


def instances_to_text(scores: Mapping[str, Any], *, digits: int = 3) -> str:
    """Lay instance scores out for the terminal, pooled over the set and as the mean over the images.

    Args:
        scores: as `medseg.metrics.instances.InstanceScores.to_dict` gives them.
        digits: after the decimal point.
    """
    rows = [["instances at IoU", "AP", "F1", "precision", "recall", "AP per image", "F1 per image"]]
    for row in scores["thresholds"]:
        if row["threshold"] in SHOWN:
            rows.append([f"{row['threshold']:.2f}", *_cells(row, digits)])
    rows.append(["mean 0.50 to 0.95", *_cells(scores, digits)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not n else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    counted = f"{scores['true_objects']:,} true and {scores['predicted_objects']:,} predicted instances in "
    return "\n".join([*lines, f"{counted}{scores['images']} images"])


def _cells(row: Mapping[str, Any], digits: int) -> list[str]:
    pooled, each = row["pooled"], row["per_image"]
    values = [pooled[name] for name in ("average_precision", "f1", "precision", "recall")]
    values += [each["average_precision"], each["f1"]]
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]
