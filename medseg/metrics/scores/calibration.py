"""Whether a model is as sure as it is right, and how unsure it is of each case; from its probabilities, block by block.

Reliability (A. Niculescu-Mizil, R. Caruana, 2005; the error C. Guo et al., "On Calibration of Modern Neural Networks",
https://arxiv.org/abs/1706.04599): pixels are put into bins by the probability of the class that the network found
there. In each bin the mean probability is compared with the share that is right. The expected calibration error is the
mean of the difference, weighted by the pixels; of a class, over the pixels where it was found (C. Gupta, A. Ramdas,
"Top-label calibration", https://arxiv.org/abs/2107.08353): a large background hides nothing of a small object.

Class-wise (M. Kull et al., "Beyond temperature scaling", https://arxiv.org/abs/1910.12656): the same for the
probability of each class in every pixel, whichever class was found there, against the share of pixels that are of the
class: it also sees what a network nearly found. The class-wise error is the mean over the classes.

``uncertainty`` of a case is that of `medseg.metrics.uncertainty`; 0 where nothing may be.

Both are of the network's own classes, before postprocessing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from medseg.errors import MedsegError
from medseg.metrics.score import Pooled, Score, ScoredCase
from medseg.metrics.uncertainty import entropy_of, may_hold_something, probabilities_of
from medseg.reports.palette import background_index


class Calibration(Score):
    """Reliability over the set, and one uncertainty a case.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        bins: of equal width, of the probabilities from 0 to 1.

    Raises:
        MedsegError: if there are fewer than two bins.
    """

    columns = ()
    counts = ("uncertainty",)
    lower_is_better = frozenset({"calibration_error", "classwise_calibration_error"})

    def __init__(self, class_names: Sequence[str], ignore_index: int | None = None, *, bins: int = 10) -> None:
        super().__init__(class_names, ignore_index)
        if bins < 2:
            raise MedsegError(f"`bins` of the score calibration is {bins}; it must be at least 2")
        self.bins = bins
        self._background = background_index(self.class_names)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums = torch.zeros(3, len(self.class_names), self.bins, dtype=torch.float64)  # number, probability, right
        self.of_all = torch.zeros_like(self.sums)  # the same of each class over every pixel, whatever was found there
        self._case = torch.zeros(2, dtype=torch.float64)  # entropy, and pixels where there may be something
        self._seen = False

    def see(self, logits: Tensor, label: Tensor) -> None:
        """Count a block of a case.

        Args:
            logits: ``(classes, *S)``, or ``(1, *S)`` of two classes.
            label: ``(*S)``.
        """
        probable = probabilities_of(logits, dim=0)
        highest, found = probable.max(dim=0)
        there = torch.ones_like(label, dtype=torch.bool) if self.ignore_index is None else label != self.ignore_index
        confidence, guess, truth = highest[there].double(), found[there], label[there]
        self.sums += self._binned(confidence, guess == truth, guess)
        self.of_all += self._in_every_pixel(
            probable.flatten(1) if self.ignore_index is None else probable[:, there], truth
        )
        inside = probable[:, there & may_hold_something(probable, self._background, dim=0)]
        entropy = entropy_of(inside, dim=0)
        self._case += torch.tensor([float(entropy.sum()), len(entropy)], dtype=torch.float64)
        self._seen = True

    def _in_every_pixel(self, probable: Tensor, truth: Tensor) -> Tensor:
        """Return as `_binned` what each class ``(classes, pixels)`` has; most are in the first bin."""
        beyond = probable > 1 / self.bins
        kinds, pixels = beyond.nonzero(as_tuple=True)
        found = self._binned(probable[beyond].double(), truth[pixels] == kinds, kinds)
        number = torch.full((len(probable),), float(truth.numel()), dtype=torch.float64)
        right = torch.bincount(truth.long(), minlength=len(probable))[: len(probable)]
        whole = torch.stack([each.double().cpu() for each in (number, probable.sum(1, dtype=torch.float64), right)])
        found[:, :, 0] += whole - found.sum(2)
        return found

    def _binned(self, probable: Tensor, right: Tensor, kinds: Tensor) -> Tensor:
        """Return number, sum of probabilities and number of the right ones by class and bin ``(3, classes, bins)``."""
        place = (probable * self.bins).ceil().long().clamp(1, self.bins) - 1 + kinds * self.bins
        counted = [
            torch.bincount(place, weights=weights, minlength=self.sums[0].numel())
            for weights in (None, probable, right.double())
        ]
        return torch.stack([each.double().cpu() for each in counted]).view_as(self.sums)

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Return the uncertainty of the case that was seen; NaN of one without logits, as of a threshold's."""
        entropy, pixels = self._case.tolist()
        found = entropy / max(1.0, pixels) if self._seen else math.nan
        self._case.zero_()
        self._seen = False
        return {"uncertainty": found}

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        self.sums, self.of_all = (
            torch.stack([getattr(each, name) for each in everyone]).sum(0) for name in ("sums", "of_all")
        )

    def compute(self) -> Pooled:
        """Return the bins and errors; nothing where no case had logits."""
        if not self.sums[0].sum():
            return Pooled(overall={"calibration_error": math.nan, "classwise_calibration_error": math.nan})
        classes = [
            {"name": name, **_reliability(self.sums[:, index]), "classwise": _reliability(self.of_all[:, index])}
            for index, name in enumerate(self.class_names)
        ]
        error = float(_error(self.sums.sum(1)) or 0.0)
        classwise = math.fsum(row["classwise"]["error"] for row in classes) / len(classes)
        details = {"bins": self.bins, "error": error, "classwise_error": classwise, "classes": classes}
        return Pooled(overall={"calibration_error": error, "classwise_calibration_error": classwise}, details=details)


def _reliability(sums: Tensor) -> dict[str, Any]:
    """Return bins ``(3, bins)`` and their error, as plain values."""
    number, probability, right = sums
    return {
        "error": _error(sums), "pixels": [int(value) for value in number],
        "probability": _ratio(probability, number), "right": _ratio(right, number),
    }  # fmt: skip


def _error(sums: Tensor) -> float | None:
    """Return the expected calibration error of bins ``(3, bins)``; ``None`` of no pixel."""
    number, probability, right = sums
    total = float(number.sum())
    return float((probability - right).abs().sum()) / total if total else None


def _ratio(part: Tensor, whole: Tensor) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part, whole, strict=True)]
