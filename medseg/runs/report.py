"""What an evaluation found, as files of a run: scores, tables, confusion matrix, overlays."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.atomic import atomic_write
from medseg.errors import MedsegError, shown
from medseg.io.parts import file_hash
from medseg.reports.palette import Named
from medseg.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from medseg.reports.tables import Table

PER_CASE = "scores_per_case.csv"
COMPARED = "compared.json"
"""Tables of a run beside what needs no network, for its report, see `write_compared`."""


def write_compared(run: Path, scored: Path, tables: Sequence[Table], warning: str | None) -> None:
    """Keep a run beside what needs no network, for the report of that evaluation alone.

    Args:
        run: its folder.
        scored: folder of the evaluation that was compared.
        tables: what came out.
        warning: what a reader must know first, if there is such a thing.
    """
    held = {"of": _cases_hash(scored), "warning": warning, "tables": [json.loads(table.to_json()) for table in tables]}
    with atomic_write(run / COMPARED) as temporary:
        temporary.write_text(json.dumps(held, indent=2), encoding="utf-8")


def read_compared(run: Path, scored: Path) -> tuple[list[Table], str | None]:
    """Return what `write_compared` kept; nothing where it is of other images, or of other scores of the same.

    Args:
        run: its folder.
        scored: folder of the evaluation that is told of.

    Raises:
        MedsegError: if the file is broken.
    """
    from medseg.reports.tables import tables_of_json

    path = run / COMPARED
    if not path.is_file():
        return [], None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        of, warning, tables = held["of"], held["warning"], json.dumps(held["tables"])
    except (ValueError, KeyError, TypeError) as error:
        raise MedsegError(
            f"{shown(path)}: broken, or of a medseg that did not keep of which scores it is ({type(error).__name__}); "
            "delete it, and the report is without that table"
        ) from error
    return (tables_of_json(tables), warning) if of == _cases_hash(scored) else ([], None)


def _cases_hash(scored: Path) -> str | None:
    """Return a hash of an evaluation's scores of each case, by which it is known."""
    path = scored / PER_CASE
    return file_hash(path) if path.is_file() else None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``scores_per_case.csv``, classes and cases by their names.

    Raises:
        OSError: if it cannot be read.
    """
    from medseg.reports.tables import csv_text

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: csv_text(cell) if isinstance(cell, str) else cell for key, cell in row.items()} for row in rows]


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
