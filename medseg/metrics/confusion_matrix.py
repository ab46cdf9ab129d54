"""Scores of a whole evaluation set from one confusion matrix.

These are pooled over all pixels. MONAI's `MeanIoU` averages over images, which is another number; some papers print the
one (LFA U-Net's class IoUs have its mean), some the other: FocusNet++'s Dice and Jaccard fit no single matrix, in which
J = D / (2 - D). `medseg.metrics.scores.overlap` gives both, and ``beside_paper`` of a bundle says which stands beside
the paper. MONAI's exact `ConfusionMatrixMetric` costs seconds an image at 150 classes, one ``bincount`` milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseg.errors import MedsegError


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; per class a list in class order, NaN where a score is not defined.

    A class is absent if it is neither in the labels nor in the predictions; means leave it out. As in scikit-learn, the
    precision of a class that is never predicted, and the recall of one that is not in the labels, are 0 / 0 and count
    as 0, so that no mean hides a miss. Mean accuracy is over the classes in the labels alone (scikit-learn's balanced
    accuracy, the papers' mean accuracy).
    """

    iou: list[float]
    dice: list[float]
    precision: list[float]
    recall: list[float]
    support: list[int]
    absent: list[int]
    mean_iou: float
    mean_dice: float
    mean_precision: float
    mean_recall: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float

    def to_dict(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return plain values for JSON: ``None`` stands for NaN.

        Args:
            class_names: names by index; ``"class 0"`` ... by default.

        Raises:
            ValueError: if there are not as many names as classes.
        """
        names = names_of_classes(class_names, len(self.iou))
        rows = [
            {
                "name": name,
                "iou": plain(self.iou[i]),
                "dice": plain(self.dice[i]),
                "precision": plain(self.precision[i]),
                "recall": plain(self.recall[i]),
                "support": self.support[i],
            }
            for i, name in enumerate(names)
        ]
        overall = ("mean_iou", "mean_dice", "mean_precision", "mean_recall", "pixel_accuracy", "mean_accuracy",
                   "frequency_weighted_iou")  # fmt: skip
        return {
            "classes": rows,
            **{name: plain(getattr(self, name)) for name in overall},
            "absent": [names[i] for i in self.absent],
        }


_AT_ONCE = 2**24  # pixels counted at once


class ConfusionMatrix:
    """Count pixels by label (rows) and prediction (columns).

    Args:
        num_classes: classes C.
        ignore_index: label value whose pixels are not counted.
        device: where to count.

    Raises:
        ValueError: if a label or a prediction is not a class.
    """

    def __init__(
        self, num_classes: int, ignore_index: int | None = None, device: torch.device | str | None = None
    ) -> None:
        if num_classes < 1:
            raise MedsegError(f"num_classes is {num_classes}; it must be at least 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Forget everything."""
        self.matrix.zero_()

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: logits ``(B, C, *S)`` in floating point, or class indices ``(B, 1, *S)`` or ``(B, *S)``.
            label: class indices ``(B, 1, *S)`` or ``(B, *S)``.
        """
        from_logits = prediction.is_floating_point()
        if from_logits:
            if prediction.ndim < 2 or prediction.shape[1] != self.num_classes:
                raise MedsegError(f"logits of shape {tuple(prediction.shape)} do not hold {self.num_classes} classes")
            prediction = prediction.max(dim=1).indices  # several times faster than argmax on a CPU
        if _without_channel(prediction, label) != _without_channel(label, prediction):
            raise MedsegError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
        pieces = (torch.split(each.reshape(-1), _AT_ONCE) for each in (label, prediction))
        total = torch.zeros_like(self.matrix)
        for truth, guess in zip(*pieces, strict=True):  # a volume's indices as 64 bits would be its largest arrays
            total += self._counts(truth, guess, check_guess=not from_logits)
        self.matrix += total  # all of a batch, or none of it

    def _counts(self, truth: Tensor, guess: Tensor, *, check_guess: bool) -> Tensor:
        truth, guess = (each.to(self.matrix.device, torch.int64) for each in (truth, guess))
        if self.ignore_index is not None:
            kept = truth != self.ignore_index
            truth, guess = truth[kept], guess[kept]
        self._check("label", truth)
        if check_guess:
            self._check("prediction", guess)
        counts = torch.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

    def _check(self, name: str, values: Tensor) -> None:
        if not values.numel():
            return
        low, high = torch.stack(values.aminmax()).tolist()  # one wait for the device
        if low < 0 or high >= self.num_classes:
            wrong = sorted(value for value in set(values.tolist()) if not 0 <= value < self.num_classes)
            raise MedsegError(
                f"{name} values {wrong[:10]} are no classes (0 to {self.num_classes - 1}); "
                "map them, or set ignore_index"
            )

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of as many classes."""
        if other.num_classes != self.num_classes:
            raise MedsegError(
                f"cannot add counts of {other.num_classes} classes to counts of {self.num_classes} classes"
            )
        self.matrix += other.matrix.to(self.matrix.device)

    def compute(self) -> Scores:
        """Return the scores."""
        matrix = self.matrix.cpu().double()
        hit, support, guessed = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        union = support + guessed - hit
        absent = [i for i in range(self.num_classes) if union[i] == 0]
        iou = (hit / union).tolist()  # 0 / 0 is NaN: absent
        precision, recall = (_counted(hit / whole, union) for whole in (guessed, support))
        total = float(matrix.sum())
        frequency = [float(s) / total * v for s, v in zip(support, iou, strict=True) if s > 0] if total else [math.nan]
        return Scores(
            iou=iou,
            dice=(2 * hit / (support + guessed)).tolist(),
            precision=precision,
            recall=recall,
            support=[int(s) for s in support],
            absent=absent,
            mean_iou=_mean(iou),
            mean_dice=_mean((2 * hit / (support + guessed)).tolist()),
            mean_precision=_mean(precision),
            mean_recall=_mean(recall),
            pixel_accuracy=float(hit.sum()) / total if total else math.nan,
            mean_accuracy=_mean((hit / support).tolist()),
            frequency_weighted_iou=sum(frequency),
        )


def _without_channel(x: Tensor, other: Tensor) -> tuple[int, ...]:
    """Return the shape ``(B, *S)``, also where ``x`` has an axis of one channel that ``other`` lacks."""
    shape = tuple(x.shape)
    return (shape[0], *shape[2:]) if x.ndim == other.ndim + 1 and shape[1] == 1 else shape


def _counted(share: Tensor, union: Tensor) -> list[float]:
    """Return shares in which 0 / 0 is 0 of a class that is there at all."""
    found: list[float] = torch.where(union > 0, share.nan_to_num(0.0), math.nan).tolist()
    return found


def _mean(values: Sequence[float]) -> float:
    there = [v for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan


def names_of_classes(class_names: Sequence[str] | None, count: int) -> list[str]:
    """Return the names of classes, ``"class 0"`` ... where none are given.

    Args:
        class_names: by index.
        count: of classes.

    Raises:
        ValueError: if there are not as many names as classes.
    """
    names = list(class_names) if class_names is not None else [f"class {index}" for index in range(count)]
    if len(names) != count:
        raise MedsegError(f"{len(names)} class names for {count} classes: {names}")
    return names


def plain(value: float) -> float | None:
    """Return a score as JSON has it: ``None`` stands for NaN."""
    return None if math.isnan(value) else value
