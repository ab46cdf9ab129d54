"""The probability of every class at every voxel, before postprocessing, beside the mask."""

from __future__ import annotations

from pathlib import Path

from medseg.prediction.maps import map_path, write_map
from medseg.prediction.sinks import PROBABILITIES, Case, Result, RunInfo

__all__ = ["Probabilities"]


class Probabilities:
    """Writes one file a case, of a volume 4D: see `medseg.prediction.maps`."""

    wants = frozenset({PROBABILITIES})

    def open(self, run: RunInfo) -> None:
        """Begin a run."""

    def files(self, case: Case) -> list[Path]:
        """Return the map's file."""
        return [map_path(case, "probabilities")]

    def has(self, case: Case) -> bool:
        """Return true: nothing is shared."""
        return True

    def write(self, case: Case, result: Result) -> None:
        """Write the probabilities."""
        assert result.probabilities is not None
        write_map(result.probabilities, result.grid, *self.files(case))

    def close(self) -> None:
        """End the run."""
