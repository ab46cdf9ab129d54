"""The page of `benchmarks.equal_steps`: what settings of a plan do at an equal number of steps."""

import json
from pathlib import Path
from typing import Any

from medseg.reports.score_tables import mean_text

SAID = {
    "base": "a third of the patches on a class, images drawn alike",
    "kinds_balanced": "kinds of images drawn as square roots (`balance_kinds=0.5`)",
    "zscore": "scaled by mean and deviation in place of percentiles (`zscore`)",
    "rgb": "in colour (`colour: rgb`)",
    "rgb_balanced": "both: in colour, kinds as square roots",
    "turned": "images with a high median turned into negatives (`polarity: bright`)",
    "more_classes": "two thirds of the patches on a class (`foreground=0.67`)",
    "dice": "soft Dice in the place of soft IoU (MONAI's `DiceCELoss`, over the batch)",
    "larger_patch": "patch 256 x 224, one a step: as many pixels",
    "wide": "12 to 384 channels, patch 192 x 160",
}


def settings(results: Path) -> str:
    """Return a table for each data set and fold; nothing where it was not measured."""
    path = results / "plan_steps_cpu.json"
    if not path.is_file():
        return ""
    rows = json.loads(path.read_text())["rows"]
    parts = []
    for data, fold in dict.fromkeys((row["data"], row["fold"]) for row in rows):
        held = [row for row in rows if (row["data"], row["fold"]) == (data, fold)]
        parts.append(f"{data}, fold {fold}, {held[0]['cases']} images:\n\n" + "\n".join(_table(held)))
    return "\n\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    classes, kinds = list(rows[0]["dice"]), rows[0]["kinds"] if len(rows[0]["dice"]) == 1 else []
    heads = ["what", "steps", *(f"Dice, {name}" for name in classes), *(f"{k['kind']} ({k['images']})" for k in kinds)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        cells = [SAID[row["side"]], str(row["steps"])]
        cells += [mean_text(each["mean"], each["interval"]) for each in row["dice"].values()]
        cells += [f"{each['dice']:.3f}" for each in row["kinds"]] if kinds else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines
