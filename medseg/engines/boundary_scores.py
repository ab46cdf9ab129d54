"""Boundary F-scores beside the class scores of an evaluation."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events

from medseg.engines.evaluator import Evaluator
from medseg.metrics.boundary import TOLERANCE, BoundaryFScore


class BoundaryCounter:
    """Compare predicted with true boundaries while an evaluator runs, pixel by pixel at the label's size.

    Classes and ignore label are the evaluator's.

    Args:
        evaluator: over the images to score.
        tolerance: distance that still counts as found, as a share of the image's diagonal.

    Raises:
        ValueError: if the tolerance is out of range.
    """

    def __init__(self, evaluator: Evaluator, tolerance: float = TOLERANCE) -> None:
        self.metric = self._empty(evaluator, tolerance)
        self._evaluator = evaluator
        evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self.metric.reset())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self._count())

    @staticmethod
    def _empty(evaluator: Evaluator, tolerance: float) -> BoundaryFScore:
        classes, ignore_index = len(evaluator.class_names), evaluator.matrix.ignore_index
        return BoundaryFScore(classes, ignore_index, tolerance, device=evaluator.state.device)

    def _count(self) -> None:
        output = self._evaluator.state.output
        self.metric.update(output["pred"].max(dim=1, keepdim=True).indices, output["label"])

    def scores(self) -> dict[str, Any]:
        """Return the scores over all processes, as `BoundaryScores.to_dict` has them; every process must ask."""
        total = self._empty(self._evaluator, self.metric.tolerance)
        total.merge(self.metric)
        total.all_reduce()
        return total.compute().to_dict(self._evaluator.class_names)
