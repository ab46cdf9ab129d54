"""What a comparison of networks found, to be shown, written and used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medseg.bundle.workflow import CALIBRATION
from medseg.data.datalist import Datalist
from medseg.errors import counted
from medseg.reports.tables import Table, tables_to_json
from medseg.runs.privacy import scrub
from medseg.runs.provenance import collect
from medseg.studies.network_ranking import Place, places, ranking, verdict
from medseg.studies.network_record import Asked, Record
from medseg.studies.study import Cell
from medseg.studies.study_cell import Places
from medseg.studies.study_table import StudyTable

__all__ = ["MODEL", "RESULTS", "VALIDATION", "Compared"]

MODEL = "model"
"""Folder of the ensemble that is exported."""
RESULTS = "results.json"
"""What came out, in numbers."""
VALIDATION = "validation"
"""Folder of the study that cross-validates."""


@dataclass(frozen=True)
class Compared:
    """What came out.

    Args:
        folder: of the comparison.
        data: that were compared on.
        asked: what was asked.
        record: what was done.
        table: of the cross-validation.
        rungs: tables of the rungs.
    """

    folder: Path
    data: Datalist
    asked: Asked
    record: Record
    table: StudyTable
    rungs: Sequence[StudyTable]

    @cached_property
    def places(self) -> list[Place]:
        """The networks that were cross-validated, from the first to the last."""
        return places(self.table)

    @property
    def winner(self) -> str:
        """The first network's name."""
        return self.places[0].network

    @property
    def verdict(self) -> str:
        """What is to be said of the first and the second."""
        return verdict(self.table, self.places)

    @property
    def model(self) -> Path:
        """Folder of the winner, as `medseg predict` takes it."""
        return self.folder / MODEL

    def cells(self, network: str) -> dict[int, Path]:
        """Return the folder of each run of a network in the cross-validation, by its fold."""
        study, at = self.table.study, Places(self.folder / VALIDATION)
        row = next(row for row in study.rows if row.name == network)
        return {fold: at.cell(Cell(row, fold, study.seeds[0]).name) for fold in self.record.folds}

    def temperatures(self) -> list[Table]:
        """Return of the winner's runs that have one what the temperature of their probabilities was fitted to."""
        rows = []
        for fold, run in self.cells(self.winner).items():
            if (run / CALIBRATION).is_file():
                held = json.loads((run / CALIBRATION).read_text(encoding="utf-8"))
                part, other = f"{held['cases']} {held['fitted_on']}", held["other_half"] or {}
                row = {"fold": fold, "fitted to cases": part, "temperature": held["temperature"]}
                row |= {"calibration error before": held["before"]["calibration_error"]}
                rows.append({**row, "of one half by the other": other.get("calibration_error")})
        return [Table.of(rows, title="temperatures", notes=["no mask is changed"])] if rows else []

    @cached_property
    def out(self) -> list[tuple[list[Place], str]]:
        """Who went out in each rung, the last rung first, and what the rung was."""
        found = []
        for number, (table, stage) in enumerate(zip(self.rungs, self.record.stages, strict=False), 1):
            gone = [each for each in places(table) if each.network not in stage["kept"]]
            if gone:
                found.append((gone, f"rung {number}: {counted(stage['minutes'], 'minute')}, fold {stage['folds'][0]}"))
        return found[::-1]

    def unranked(self) -> list[tuple[str, str]]:
        """Return the networks that are not ranked, and why."""
        ranked = {place.network for place in self.places} | {each.network for held, _ in self.out for each in held}
        return [(name, scrub(why)) for name, why in self.record.failed.items() if name not in ranked]

    def ranking(self) -> Table:
        """Return the ranking of all networks."""
        last = self.record.stages[-1]
        trained = f"{counted(len(last['folds']), 'fold')}, {counted(last['minutes'], 'minute')} each"
        return ranking(self.places, self.out, self.unranked(), trained)

    def results(self) -> dict[str, Any]:
        """Return what came out as plain values: no name of a case, no folder."""
        keys = ("networks", "folds", "minutes", "final", "took", "kept", "scores")
        return {
            "asked": {key: value for key, value in self.record.asked.items() if key != "where"},
            "workers": self.asked.workers,
            "data": {"name": self.data.name, "cases": len(self.table.scores.cases)},
            "environment": collect(),
            "memory_gib": self.record.memory / 2**30,
            "minutes": self.record.took,
            "plans": self.record.plans,
            "out": dict(self.unranked()),
            "stages": [{key: stage[key] for key in keys if key in stage} for stage in self.record.stages],
            "ranking": [asdict(place) for place in self.places],
            "verdict": self.verdict,
            "table": json.loads(tables_to_json([self.table.long(), self.table.long_tests()])),
        }
