"""How unsure the model is: a map of the entropy beside each mask, and a number a case that says what to look at first.

``CASE.entropy.nii.gz`` (``.tif`` of pictures) is the entropy of the class probabilities over its largest value: 0 where
the model is certain, 1 where all classes are alike. ``uncertainty.csv`` has a row a case:

- ``uncertainty``: the mean of the entropy where there may be something, that is where the probability of the background
  is below 0.95 (everywhere, where no class is the background): a large background that is certain does not hide an
  unsure object, and an object that was nearly found counts though the mask is empty. 0 where nothing may be.
- ``disagreement``, of an ensemble: the entropy of the members' mean less the mean of their entropies (the mutual
  information of class and member, A. Malinin, M. Gales, "Predictive Uncertainty Estimation via Prior Networks",
  https://arxiv.org/abs/1802.10501), over the same place: 0 where all members say the same, however unsure they are.

Neither is calibrated; both rank the cases of one model.
"""

from __future__ import annotations

from pathlib import Path

from medseg.prediction.case_table import CaseTable
from medseg.prediction.maps import map_path, write_map
from medseg.prediction.sinks import UNCERTAINTY, Case, Result, RunInfo

__all__ = ["FILE", "Uncertainty"]

FILE = "uncertainty.csv"


class Uncertainty:
    """Writes the maps, and ``uncertainty.csv`` into the folder of the outputs."""

    wants = frozenset({UNCERTAINTY})

    def open(self, run: RunInfo) -> None:
        """Read what an earlier run wrote.

        Raises:
            MedsegError: if the file is another table.
        """
        self._table = CaseTable(run.output / FILE, ("uncertainty", "disagreement"), run.model)

    def files(self, case: Case) -> list[Path]:
        """Return the map's file."""
        return [map_path(case, "entropy")]

    def has(self, case: Case) -> bool:
        """Return whether the case's row is there."""
        return self._table.has(case.name)

    def write(self, case: Case, result: Result) -> None:
        """Write the map, then the row."""
        assert result.entropy is not None
        write_map(result.entropy, result.grid, *self.files(case))
        self._table.add(case.name, [result.numbers])

    def close(self) -> None:
        """Put the rows in order, where cases were done in another."""
        self._table.close()

    def take(self, folder: Path) -> None:
        """Add the rows of the table in another folder."""
        self._table.take(folder / FILE)
