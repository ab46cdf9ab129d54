"""Difference of predicted and true volumes, in millilitres with the image's own spacing (pictures: in pixels).

- ``volume_difference``: predicted less true volume, with its sign: the mean is the bias, in which errors cancel;
- ``absolute_volume_difference``: without its sign;
- ``relative_volume_difference``: the signed difference as a share of the true volume.

Of a case, a class in neither truth nor prediction is not counted. One that is missed counts with all of its volume (the
relative difference is -1), an invented one with all that was predicted; its relative difference has no value and is not
counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from medseg.metrics.physical import Unit, chosen_classes
from medseg.metrics.score import Pooled, Score, ScoredCase

_CUBIC_MM = 1000.0  # in a millilitre


class Volumes(Score):
    """Volume differences of each case.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        classes: names of the classes that count; all but the background (else the first) by default.
    """

    columns = ("volume_difference", "absolute_volume_difference", "relative_volume_difference")
    counts = ("volume", "predicted_volume")
    lower_is_better = frozenset({"absolute_volume_difference"})
    signed = frozenset({"volume_difference", "relative_volume_difference"})

    def __init__(
        self, class_names: Sequence[str], ignore_index: int | None = None, *, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__(class_names, ignore_index)
        self.classes = chosen_classes(self.class_names, classes, "volumes")
        self.unit = Unit()

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the columns."""
        held = ("volume_difference", "absolute_volume_difference", *self.counts)
        return dict.fromkeys(held, self.unit.volume)

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the means must know."""
        return [
            "Predicted less true; relative to the true volume, which an invented class has not. Errors with a sign "
            "have no mean over the classes, in which they would cancel."
        ]

    def reset(self) -> None:
        """Forget everything."""
        self.unit = Unit()

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        size = self.unit.size(case) / (1.0 if case.affine is None else _CUBIC_MM)
        label, guess = (each.cpu().numpy().ravel() for each in (case.label, case.prediction))
        if self.ignore_index is not None:
            kept = label != self.ignore_index
            label, guess = label[kept], guess[kept]
        number = len(self.class_names)
        true, predicted = (np.bincount(each, minlength=number)[:number] * size for each in (label, guess))
        counted = np.zeros(number, bool)
        counted[self.classes] = True
        counted &= (true > 0) | (predicted > 0)
        difference = np.where(counted, predicted - true, math.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(true > 0, difference / true, math.nan)
        return {
            "volume_difference": difference.tolist(),
            "absolute_volume_difference": np.abs(difference).tolist(),
            "relative_volume_difference": relative.tolist(),
            "volume": true.tolist(),
            "predicted_volume": predicted.tolist(),
        }

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        self.unit.merge([each.unit for each in everyone])

    def compute(self) -> Pooled:
        """Return what the values mean; they are of single cases."""
        return Pooled(details={"unit": self.unit.volume, "classes": [self.class_names[i] for i in self.classes]})
