"""What an evaluation found, as files of a run: scores, tables, confusion matrix, overlays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from medseg.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Outcome of one evaluation.

    Args:
        table: scores per class and overall, as plain values.
        matrix: confusion matrix ``(classes, classes)``, truth by prediction.
        class_names: by index.
        cases: some cases for pictures, as `medseg.reports.overlays.overlay_sheet` takes them.
        ignore_index: label value that counted for nothing.
    """

    table: Mapping[str, Any]
    matrix: npt.NDArray[Any]
    class_names: Sequence[str]
    cases: Sequence[Mapping[str, Any]]
    ignore_index: int | None = None


def write_report(folder: RunFolder, result: Result, where: str, *, title: str) -> None:
    """Write what an evaluation found: scores and tables, the confusion matrix, a sheet of overlays.

    Args:
        folder: of the run.
        result: of the evaluation.
        where: subfolder.
        title: heading of the pictures.
    """
    from medseg.reports.confusion import save_confusion
    from medseg.reports.instances import instances_to_text
    from medseg.reports.overlays import overlay_sheet
    from medseg.reports.tables import to_csv, to_markdown, to_text

    target = folder.path / where
    target.mkdir(parents=True, exist_ok=True)
    table, names = dict(result.table), list(result.class_names)
    folder.write_json(f"{where}/scores.json", {**table, "confusion_matrix": result.matrix.tolist(), "title": title})
    folder.write_text(f"{where}/table.md", to_markdown(table))
    folder.write_text(f"{where}/table.csv", to_csv(table))
    save_confusion(result.matrix, names, target / "confusion_matrix.png", title=title)
    sheet = overlay_sheet(list(result.cases), names, ignore_index=result.ignore_index, title=title)
    sheet.save(target / "overlays.png")
    logger.info("%s\n%s", title, to_text(table))
    if "instances" in table:
        logger.info("%s", instances_to_text(table["instances"]))
