"""What an evaluation found, as files of a run: scores, tables, confusion matrix, overlays."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.reports.palette import Named
from medseg.runs.run_folder import RunFolder

PER_CASE = "scores_per_case.csv"
COMPARED = "compared.json"
"""Tables of a run beside what needs no network, for its report."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``scores_per_case.csv``.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Result:
    """Outcome of one evaluation.

    Args:
        table: scores per class and overall, as plain values, see `medseg.reports.score_tables`.
        class_names: by index.
        cases: the worst cases for pictures, as `medseg.reports.overlays.overlay_sheet` takes them; none, no sheet.
        rows: scores of each case, by column.
        ignore_index: label value that counted for nothing.
    """

    table: Mapping[str, Any]
    class_names: Sequence[str]
    cases: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]] = ()
    ignore_index: int | None = None
    best: Sequence[Mapping[str, Any]] = ()

    def with_scores(self, more: Mapping[str, Any]) -> Result:
        """Return the result with further entries in its table."""
        return replace(self, table={**self.table, **more})


def write_report(folder: RunFolder, result: Result, where: str, *, title: str, colours: Named | None = None) -> str:
    """Write what an evaluation found: scores of the set and of each case, tables, confusion matrix, overlays.

    Args:
        folder: of the run.
        result: of the evaluation.
        where: subfolder.
        title: heading of the pictures.
        colours: that classes name, by index.

    Returns:
        The tables as text.
    """
    from medseg.reports.confusion import save_confusion
    from medseg.reports.overlays import overlay_sheet
    from medseg.reports.palette import background_index, mean_dice_name
    from medseg.reports.score_tables import long_table, score_tables
    from medseg.reports.slices import FILE as SLICES
    from medseg.reports.slices import make_slices, save_slices
    from medseg.reports.tables import Table

    target = folder.path / where
    target.mkdir(parents=True, exist_ok=True)
    table, names = dict(result.table), list(result.class_names)
    folder.write_json(f"{where}/scores.json", {**table, "title": title, "ignore_index": result.ignore_index})
    tables = score_tables(table)
    folder.write_text(f"{where}/table.md", "\n".join(each.to_markdown() for each in tables))
    folder.write_text(f"{where}/table.csv", long_table(table).to_csv())
    folder.write_text(f"{where}/{PER_CASE}", Table.of(result.rows).to_csv())
    matrix = np.asarray(table["overlap"]["confusion_matrix"])
    save_confusion(matrix, names, target / "confusion_matrix.png", title=title)
    if result.cases:
        sheet = overlay_sheet(
            list(result.cases), names, colours=colours, ignore_index=result.ignore_index, title=title,
            score_name=mean_dice_name(names),
        )  # fmt: skip
        sheet.save(target / "overlays.png")
    shown = {str(case["name"]): case for case in [*result.cases, *result.best]}
    if shown:
        save_slices([make_slices(case, background=background_index(names)) for case in shown.values()], target / SLICES)
    return "\n\n".join([title, *(each.to_text() for each in tables)])
