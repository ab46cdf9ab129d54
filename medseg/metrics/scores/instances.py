"""Instance scores of an evaluation, where the data set has instance maps (`medseg.metrics.instances`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np

from medseg.errors import MedsegError
from medseg.metrics.instances import InstanceMatching, label_instances
from medseg.metrics.score import Pooled, Score, ScoredCase
from medseg.reports.palette import background_index


class Instances(Score):
    """Match predicted with true instances.

    The predicted foreground (all classes but the background, or the first, where none is called so) is split into
    instances and compared with the map that the entry's ``instances`` names, pixel by pixel at the label's size. What
    is ignored belongs to no instance, predicted or true. Scores are the means over IoU thresholds 0.5 to 0.95.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        method: ``"components"`` or ``"watershed"``, see `medseg.metrics.instances.label_instances`.
        min_size: smallest predicted instance in pixels.
    """

    columns = ("instance_ap", "instance_f1")
    counts = ("instances", "predicted_instances")
    needs = ("instances",)

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_index: int | None = None,
        *,
        method: Literal["components", "watershed"] = "components",
        min_size: int = 0,
    ) -> None:
        super().__init__(class_names, ignore_index)
        self.method: Literal["components", "watershed"] = method
        self.min_size = min_size
        label_instances(np.zeros((2, 2), bool), method, min_size=min_size)  # bad options are said before the first case
        self.matching = InstanceMatching()

    def reset(self) -> None:
        """Forget everything."""
        self.matching.reset()

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        classes, truth = case.prediction.cpu().numpy(), case.read("instances")
        if truth.shape != classes.shape:
            raise MedsegError(
                f"instance map of {case.name} has the size {truth.shape}, its image's prediction {classes.shape}; they "
                "must agree: prepare the data set again"
            )
        inside = classes != (background_index(self.class_names) or 0)
        if self.ignore_index is not None:
            counts = case.label.cpu().numpy() != self.ignore_index
            inside, truth = inside & counts, np.where(counts, truth, 0)
        found = label_instances(inside, self.method, min_size=self.min_size)
        own = InstanceMatching(self.matching.thresholds)
        own.update(found, truth)
        self.matching.take_turns([own])
        scores = own.compute()
        return {
            "instance_ap": scores.per_image.means["average_precision"],
            "instance_f1": scores.per_image.means["f1"],
            "instances": float(scores.true_objects),
            "predicted_instances": float(scores.predicted_objects),
        }

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        total = InstanceMatching(self.matching.thresholds)
        total.take_turns([each.matching for each in everyone])
        self.matching = total

    def compute(self) -> Pooled:
        """Return the scores over all instances."""
        found = self.matching.compute()
        return Pooled(
            overall={
                "instance_ap": found.pooled.means["average_precision"],
                "instance_f1": found.pooled.means["f1"],
            },
            details={**found.to_dict(), "method": self.method, "min_size": self.min_size},
        )
