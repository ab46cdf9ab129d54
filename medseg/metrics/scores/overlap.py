"""IoU, Dice, precision, recall and accuracy, from one confusion matrix over the set and one for each case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from medseg.metrics.confusion_matrix import ConfusionMatrix
from medseg.metrics.score import Pooled, Score, ScoredCase


class Overlap(Score):
    """Overlap of predicted with true pixels.

    Of a case, a class that is neither in the truth nor in the prediction is not counted; one that is in one of them
    alone scores 0 in all of them, precision and recall included.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
    """

    columns = ("iou", "dice", "precision", "recall", "accuracy")
    counts = ("pixels", "predicted_pixels", "voxel_ml")

    def __init__(self, class_names: Sequence[str], ignore_index: int | None = None) -> None:
        super().__init__(class_names, ignore_index)
        self.matrix = self._empty(None)

    def _empty(self, device: torch.device | None) -> ConfusionMatrix:
        return ConfusionMatrix(len(self.class_names), ignore_index=self.ignore_index, device=device)

    def reset(self) -> None:
        """Forget everything."""
        self.matrix = self._empty(None)

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        own = self._empty(case.prediction.device)
        own.update(case.prediction[None], case.label[None])
        own.matrix = own.matrix.cpu()
        self.matrix.merge(own)
        matrix = own.matrix.double()
        hit, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        counted = true + predicted > 0
        total = float(matrix.sum())
        return {
            "iou": _share(hit, true + predicted - hit, counted),
            "dice": _share(2 * hit, true + predicted, counted),
            "precision": _share(hit, predicted, counted),
            "recall": _share(hit, true, counted),
            "accuracy": float(hit.sum()) / total if total else math.nan,
            "pixels": true.tolist(),
            "predicted_pixels": predicted.tolist(),
            "voxel_ml": math.nan if case.voxel_volume is None else case.voxel_volume / 1000,  # of mm^3
        }

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        total = self._empty(None)
        for each in everyone:
            total.merge(each.matrix)
        self.matrix = total

    def compute(self) -> Pooled:
        """Return the scores over all pixels."""
        found = self.matrix.compute()
        return Pooled(
            classes={
                "iou": found.iou,
                "dice": found.dice,
                "precision": found.precision,
                "recall": found.recall,
                "support": found.support,
            },
            overall={
                "mean_iou": found.mean_iou,
                "mean_dice": found.mean_dice,
                "mean_precision": found.mean_precision,
                "mean_recall": found.mean_recall,
                "accuracy": found.pixel_accuracy,
                "mean_accuracy": found.mean_accuracy,
                "frequency_weighted_iou": found.frequency_weighted_iou,
            },
            details={"confusion_matrix": self.matrix.matrix.tolist()},
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        """Name the classes whose precision or recall is 0 / 0, which counts as 0."""
        true, found = (self.matrix.matrix.sum(axis).gt(0).tolist() for axis in (1, 0))
        notes = []
        for alone, other, said in (
            (true, found, "never predicted (precision 0)"),
            (found, true, "predicted but in no truth (recall 0; mean accuracy leaves it out)"),
        ):
            pairs = zip(self.class_names, alone, other, strict=True)
            names = [name for name, here, there in pairs if here and not there]
            notes += [f"{', '.join(names)}: {said}"] if names else []
        return notes


def _share(part: Tensor, whole: Tensor, counted: Tensor) -> list[float]:
    """Return part / whole, 0 where the whole is nothing, NaN where nothing counts."""
    share = torch.where(whole > 0, part / whole.clamp_min(1), 0.0)
    return [float(value) for value in torch.where(counted, share, math.nan)]
