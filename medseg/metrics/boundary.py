"""Boundary F-scores of a whole evaluation set: how near predicted boundaries run to the true ones.

G. Csurka, D. Larlus, F. Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013,
https://doi.org/10.5244/C.27.32: for each class the share of predicted boundary pixels that have a true one within a
tolerance (precision), the reverse (recall), and their harmonic mean; the tolerance is 0.75 % of the image's diagonal.
What is ours:

- a boundary pixel belongs to its class and has a face neighbour (of 4, or of 6 in 3D) of another one; the border of
  the image is no boundary;
- distances are Euclidean, from pixel centre to pixel centre, and count up to and including the tolerance, which is not
  rounded (the DAVIS benchmark, https://github.com/fperazzi/davis, rounds it up and dilates by a disk);
- scores of classes are over the whole set, as those of the confusion matrix; the mean over images, which the paper
  argues for, comes with them;
- ignored pixels belong to no class, in the label and in the prediction alike, whatever is predicted there. The edge of
  an ignored region is then a boundary of both: in PASCAL VOC, where a band of ignored pixels runs round every object,
  there would be no boundary at all otherwise. Where regions are ignored for other reasons their edges count as found.

For distances in mm see MONAI's ``SurfaceDiceMetric``, which has no ignore label and mixes precision with recall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from medseg.errors import MedsegError
from medseg.metrics.confusion_matrix import names_of_classes, plain

TOLERANCE = 0.0075
"""The paper's share of the diagonal."""

_NO_CLASS = -1


@dataclass(frozen=True)
class BoundaryScores:
    """Boundary scores; per class a list in class order, NaN where a score is not defined.

    A class is absent if it has a boundary neither in the labels nor in the predictions, so also if it fills every image
    that it is in; means leave it out. ``support`` counts true boundary pixels. ``mean_image_f_score`` is the mean over
    images of the mean over the classes that have a boundary there. ``tolerance`` is the share of the diagonal,
    ``tolerance_pixels`` what it came to in the smallest and in the largest image, ``None`` before any was counted.
    """

    f_score: list[float]
    precision: list[float]
    recall: list[float]
    support: list[int]
    absent: list[int]
    mean_f_score: float
    mean_image_f_score: float
    tolerance: float
    tolerance_pixels: tuple[float, float] | None

    def to_dict(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return plain values for JSON: ``None`` stands for NaN.

        Args:
            class_names: names by index; ``"class 0"`` ... by default.

        Raises:
            ValueError: if there are not as many names as classes.
        """
        names = names_of_classes(class_names, len(self.f_score))
        rows = [
            {
                "name": name,
                "f_score": plain(self.f_score[i]),
                "precision": plain(self.precision[i]),
                "recall": plain(self.recall[i]),
                "support": self.support[i],
            }
            for i, name in enumerate(names)
        ]
        return {
            "classes": rows,
            "mean_f_score": plain(self.mean_f_score),
            "mean_image_f_score": plain(self.mean_image_f_score),
            "absent": [names[i] for i in self.absent],
            "tolerance": self.tolerance,
            "tolerance_pixels": None if self.tolerance_pixels is None else list(self.tolerance_pixels),
        }


class BoundaryFScore:
    """Count boundary pixels of labels and predictions, and those that are near one of the other.

    Args:
        num_classes: classes C.
        ignore_index: label value whose pixels belong to no class.
        tolerance: distance that still counts as found, as a share of the image's diagonal.
        device: where the counts are kept; they are made on the CPU.

    Raises:
        ValueError: if an option is out of range, or a label or a prediction is not a class.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = None,
        tolerance: float = TOLERANCE,
        device: torch.device | str | None = None,
    ) -> None:
        if num_classes < 1:
            raise MedsegError(f"num_classes is {num_classes}; it must be at least 1")
        if not 0 <= tolerance < 1:
            raise MedsegError(f"tolerance is {tolerance}; it is a share of the image's diagonal, in [0, 1)")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.tolerance = tolerance
        # predicted boundary pixels that are near, all predicted, true ones that are near, all true
        self.counts = torch.zeros(num_classes, 4, dtype=torch.int64, device=device)
        self.images = torch.zeros(2, dtype=torch.float64, device=device)  # sum of scores, number of images
        # tolerance in pixels, minus the least and the most: a maximum gives both
        self.reaches = torch.full((2,), -math.inf, dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Forget everything."""
        self.counts.zero_()
        self.images.zero_()
        self.reaches.fill_(-math.inf)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: logits ``(B, C, *S)`` in floating point, or class indices ``(B, 1, *S)`` or ``(B, *S)``.
            label: class indices ``(B, 1, *S)`` or ``(B, *S)``.
        """
        if prediction.is_floating_point():
            if prediction.ndim < 2 or prediction.shape[1] != self.num_classes:
                raise MedsegError(f"logits of shape {tuple(prediction.shape)} do not hold {self.num_classes} classes")
            prediction = prediction.max(dim=1, keepdim=True).indices
        guess, truth = _without_channel(prediction, label.ndim), _without_channel(label, prediction.ndim)
        if guess.shape != truth.shape:
            raise MedsegError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
        guesses, truths = (each.detach().cpu().numpy().astype(np.int64) for each in (guess, truth))
        if self.ignore_index is not None:
            ignored = truths == self.ignore_index
            truths[ignored] = guesses[ignored] = _NO_CLASS
        else:
            ignored = np.zeros(truths.shape, bool)
        self._check("label", truths, ignored)
        self._check("prediction", guesses, ignored)
        for guess_map, truth_map in zip(guesses, truths, strict=True):
            self._count(guess_map, truth_map)

    def _check(self, name: str, values: NDArray[np.int64], ignored: NDArray[np.bool_]) -> None:
        outside = ((values < 0) | (values >= self.num_classes)) & ~ignored
        if outside.any():
            wrong = np.unique(values[outside]).tolist()
            raise MedsegError(
                f"{name} values {wrong[:10]} are no classes (0 to {self.num_classes - 1}); "
                "map them, or set ignore_index"
            )

    def _count(self, guess: NDArray[np.int64], truth: NDArray[np.int64]) -> None:
        reach = self.tolerance * math.dist([0.0] * truth.ndim, truth.shape)
        self._widen(torch.tensor([-reach, reach], dtype=torch.float64))
        found, wanted = _boundary_points(guess), _boundary_points(truth)
        nothing = np.empty((0, truth.ndim), np.int64)
        scores = []
        for index in sorted(found.keys() | wanted.keys()):
            ours, theirs = found.get(index, nothing), wanted.get(index, nothing)
            counts = [_near(ours, theirs, reach), len(ours), _near(theirs, ours, reach), len(theirs)]
            self.counts[index] += torch.tensor(counts, device=self.counts.device)
            scores.append(_f_score(*counts))
        if scores:
            image = torch.tensor([sum(scores) / len(scores), 1.0], dtype=torch.float64)
            self.images += image.to(self.images.device)

    def _widen(self, reaches: Tensor) -> None:
        self.reaches = torch.maximum(self.reaches, reaches.to(self.reaches.device))

    def merge(self, other: BoundaryFScore) -> None:
        """Add the counts of another accumulator of as many classes and the same tolerance."""
        if (other.num_classes, other.tolerance) != (self.num_classes, self.tolerance):
            raise MedsegError(
                f"cannot add counts of {other.num_classes} classes within {other.tolerance} to counts of "
                f"{self.num_classes} classes within {self.tolerance}"
            )
        self.counts += other.counts.to(self.counts.device)
        self.images += other.images.to(self.images.device)
        self._widen(other.reaches)

    def compute(self) -> BoundaryScores:
        """Return the scores."""
        rows = self.counts.tolist()
        total, images = self.images.tolist()
        least, most = self.reaches.tolist()
        scores = [_f_score(*row) for row in rows]
        there = [score for score in scores if not math.isnan(score)]
        return BoundaryScores(
            f_score=scores,
            precision=[_share(near, predicted) for near, predicted, _, _ in rows],
            recall=[_share(near, true) for _, _, near, true in rows],
            support=[true for _, _, _, true in rows],
            absent=[index for index, score in enumerate(scores) if math.isnan(score)],
            mean_f_score=sum(there) / len(there) if there else math.nan,
            mean_image_f_score=total / images if images else math.nan,
            tolerance=self.tolerance,
            tolerance_pixels=(-least, most) if math.isfinite(most) else None,
        )


def _boundary_points(classes: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Return the boundary pixels ``(n, dimensions)`` of each class that has any."""
    edge = np.zeros(classes.shape, bool)
    for axis in range(classes.ndim):
        values, marks = np.moveaxis(classes, axis, 0), np.moveaxis(edge, axis, 0)
        differs = values[1:] != values[:-1]
        marks[1:] |= differs
        marks[:-1] |= differs
    points, owners = np.argwhere(edge), classes[edge]
    return {int(index): points[owners == index] for index in np.unique(owners) if index != _NO_CLASS}


def _near(points: NDArray[np.int64], others: NDArray[np.int64], reach: float) -> int:
    """Return how many points have another within reach."""
    if not len(points) or not len(others):
        return 0
    distances, _ = KDTree(others).query(points, distance_upper_bound=reach + 1)
    return int((distances <= reach).sum())


def _f_score(near_predicted: int, predicted: int, near_true: int, true: int) -> float:
    if not predicted and not true:
        return math.nan
    if not near_predicted or not near_true:
        return 0.0
    precision, recall = near_predicted / predicted, near_true / true
    return 2 * precision * recall / (precision + recall)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _without_channel(x: Tensor, other_dimensions: int) -> Tensor:
    """Return ``(B, *S)``: an axis of one channel goes, whether the other tensor has one or not."""
    return x[:, 0] if x.ndim >= max(other_dimensions, 3) and x.shape[1] == 1 else x
