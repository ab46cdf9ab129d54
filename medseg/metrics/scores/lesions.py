"""How many lesions (connected parts of a class) were found: F1, precision and recall of each case.

Voxels of one part touch, be it at corners (26 neighbours in 3D, 8 in 2D). A true and a predicted part match if their
IoU is at least ``iou``, 0.1 by default, as nnDetection counts detections (https://arxiv.org/abs/2106.00817); each part
matches one other at most, and of all assignments one with most matches is taken (`medseg.metrics.instances`). Recall is
the share of the true parts that match, precision that of the predicted.

Of a case, a class with parts in neither truth nor prediction is not counted; with parts in only one of the two it
scores 0 in all three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.metrics.instances import InstanceMatching, label_instances
from medseg.metrics.physical import Unit, chosen_classes, cut_masks
from medseg.metrics.score import Pooled, Score, ScoredCase

_CORNERS = {"faces": 1, "corners": None}


class Lesions(Score):
    """F1, precision and recall of connected parts.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        iou: from which two parts match, above 0.
        connectivity: ``"corners"`` joins voxels that share a corner, ``"faces"`` those that share a face alone.
        min_size: smallest part that counts, in truth and in prediction, in cubic mm (without spacing: in pixels).
        classes: names of the classes that count; all but the background (else the first) by default.

    Raises:
        MedsegError: if an option is out of range.
    """

    columns = ("lesion_f1", "lesion_precision", "lesion_recall")
    counts = ("lesions", "predicted_lesions", "matched_lesions")

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_index: int | None = None,
        *,
        iou: float = 0.1,
        connectivity: str = "corners",
        min_size: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(class_names, ignore_index)
        self.matching = InstanceMatching((iou,))  # refuses what is no share
        if connectivity not in _CORNERS:
            raise MedsegError(f"`scores: lesions: connectivity` is {connectivity!r}; choose faces or corners")
        if not 0 <= min_size < math.inf:
            raise MedsegError(f"`scores: lesions: min_size` is {min_size!r}; give a volume of 0 or more in cubic mm")
        self.iou, self.connectivity, self.min_size = float(iou), connectivity, float(min_size)
        self.classes = chosen_classes(self.class_names, classes, "lesions")
        self.reset()

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the means must know."""
        least = f", parts from {self.min_size:g} {self._size_unit}" if self.min_size else ""
        return [f"Lesions are parts joined at {self.connectivity}{least}; two match from IoU {self.iou:g}."]

    @property
    def _size_unit(self) -> str:
        return "mm3" if self.unit.in_mm else "pixels"

    def reset(self) -> None:
        """Forget everything."""
        self.unit = Unit()
        self.total: NDArray[np.int64] = np.zeros((len(self.class_names), 3), np.int64)

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        least = math.ceil(self.min_size / self.unit.size(case) - 1e-9)
        counts = np.zeros((len(self.class_names), 3), np.int64)
        for index, *masks in cut_masks(case, self.classes, self.ignore_index):
            if masks[0].size:
                guess, truth = (self._parts(mask, least) for mask in masks)
                self.matching.reset()
                self.matching.update(guess, truth)
                found = self.matching.compute()
                counts[index] = found.true_objects, found.predicted_objects, found.true_positives[0]
        self.total += counts
        scores = np.array([_scores(*row) for row in counts.tolist()])
        values = {name: scores[:, place].tolist() for place, name in enumerate(self.columns)}
        return {**values, **{name: counts[:, place].tolist() for place, name in enumerate(self.counts)}}

    def _parts(self, mask: NDArray[np.bool_], least: int) -> NDArray[np.int32]:
        return label_instances(mask, connectivity=_CORNERS[self.connectivity] or mask.ndim, min_size=least)

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        self.unit.merge([each.unit for each in everyone])
        self.total = np.sum([each.total for each in everyone], axis=0)

    def compute(self) -> Pooled:
        """Return the scores over all lesions of the set."""
        classes: list[dict[str, Any]] = []
        for index in self.classes:
            row = self.total[index].tolist()
            scores = dict(zip(("f1", "precision", "recall"), map(_plain, _scores(*row)), strict=True))
            counts = dict(zip(("lesions", "predicted", "matched"), row, strict=True))
            classes.append({"name": self.class_names[index], **counts, **scores})
        rule = {"iou": self.iou, "connectivity": self.connectivity, "min_size": self.min_size, "unit": self._size_unit}
        return Pooled(details={"classes": classes, **rule})


def _scores(true: int, predicted: int, matched: int) -> tuple[float, float, float]:
    """Return F1, precision and recall."""
    if not true + predicted:
        return math.nan, math.nan, math.nan
    share = (matched / count if count else 0.0 for count in (predicted, true))
    return (2 * matched / (true + predicted), *share)  # type: ignore[return-value]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
