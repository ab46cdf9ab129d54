"""Boundary F-scores of an evaluation; what they are stands in `medseg.metrics.boundary`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from medseg.metrics.boundary import TOLERANCE, BoundaryFScore
from medseg.metrics.score import Pooled, Score, ScoredCase


class Boundary(Score):
    """How near predicted boundaries run to the true ones, at the label's size.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        tolerance: distance that still counts as found, as a share of the image's diagonal.

    Raises:
        MedsegError: if the tolerance is out of range.
    """

    columns = ("boundary_f",)

    def __init__(
        self, class_names: Sequence[str], ignore_index: int | None = None, *, tolerance: float = TOLERANCE
    ) -> None:
        super().__init__(class_names, ignore_index)
        self.tolerance = tolerance
        self.metric = self._empty()

    def _empty(self) -> BoundaryFScore:
        return BoundaryFScore(len(self.class_names), self.ignore_index, self.tolerance)

    def reset(self) -> None:
        """Forget everything."""
        self.metric = self._empty()

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        own = self._empty()
        own.update(case.prediction[None], case.label[None])
        self.metric.merge(own)
        return {"boundary_f": own.compute().f_score}

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        total = self._empty()
        for each in everyone:
            total.merge(each.metric)
        self.metric = total

    def compute(self) -> Pooled:
        """Return the scores over all boundary pixels."""
        found = self.metric.compute()
        return Pooled(
            classes={"boundary_f": found.f_score},
            overall={"mean_boundary_f": found.mean_f_score},
            details=found.to_dict(self.class_names),
        )
