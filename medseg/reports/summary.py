"""What a run's folder holds, in a few lines for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, shown
from medseg.reports.score_tables import score_tables

HTML = "report.html"
"""Name of the report that `medseg report` writes into a folder."""


class SummaryError(MedsegError):
    """A folder that holds no run."""


def scored_folder(folder: Path) -> Path:
    """Return where a run's scores are: of the test set if it was evaluated, else of the validation set.

    Args:
        folder: of a run or of an evaluation.

    Raises:
        SummaryError: if it holds no scores.
    """
    places = [folder / "test", folder, folder / "report"]
    found = next((p for p in places if (p / "scores.json").is_file()), None)
    if found is None:
        raise SummaryError(
            f"{folder} holds no scores.json, nor do its folders test and report; train into it, or score the run: "
            "medseg evaluate RUN"
        )
    return found


def summarise(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a run's scores and places, and the scores themselves.

    The scores are those of the test set if it was evaluated, else of the validation set.

    Args:
        folder: of a run or of an evaluation.

    Raises:
        SummaryError: if it holds no scores.
    """
    found = scored_folder(folder)
    scores = json.loads((found / "scores.json").read_text(encoding="utf-8"))
    lines = [shown(scores.get("title", "")), ""]
    for table in score_tables(scores):
        lines += [table.to_text(), ""]
    files = ("picture", "overlays.png"), ("confusion", "confusion_matrix.png"), ("table", "table.md")
    for what, name in (*files, ("cases", "scores_per_case.csv")):
        if (found / name).is_file():
            lines.append(f"{what:<10} {shown(found / name)}")
    if (folder / "curves.png").is_file():
        lines.append(f"{'curves':<10} {shown(folder / 'curves.png')}")
    if (folder / HTML).is_file():
        lines.append(f"{'report':<10} {shown(folder / HTML)}")
    record = folder / "mlflow_run.json"
    if record.is_file():
        held = json.loads(record.read_text(encoding="utf-8"))
        lines.append(f"{'MLflow':<10} {shown(held.get('look', held['tracking_uri']))}  (run {shown(held['run_name'])})")
    return "\n".join(lines), scores
