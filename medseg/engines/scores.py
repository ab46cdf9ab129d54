"""What an engine adds to the scores of `medseg.metrics.score`: a case's loss, its name, the worst of all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from medseg.errors import MedsegError
from medseg.io.channels import standing_for
from medseg.losses.multi_output import MultiOutputLoss
from medseg.losses.processes import alone
from medseg.metrics.score import Pooled, Score, ScoredCase
from medseg.reports.names import hidden_name

LOSS = "loss"


class LossScore(Score):
    """The training's loss of each case, on the logits of an evaluation.

    In evaluation a network gives its logits alone, so of a loss over several outputs those of ``pred`` against the
    label are taken, with their weights.

    Args:
        loss_function: takes logits ``(1, classes, *S)`` and label ``(1, 1, *S)``, gives a scalar.
        class_names: by index.
        ignore_index: label value that counts for nothing.

    Raises:
        MedsegError: if the loss has no term for ``pred``.
    """

    columns = (LOSS,)
    lower_is_better = frozenset({LOSS})

    def __init__(
        self, loss_function: Callable[..., Tensor], class_names: Sequence[str], ignore_index: int | None = None
    ) -> None:
        super().__init__(class_names, ignore_index)
        self._loss: Callable[..., Tensor] | None = _of_prediction(loss_function)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.total, self.number = 0.0, 0

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case; one without a labelled pixel may have no loss and is left out."""
        if case.logits is None or self._loss is None:
            raise MedsegError(f"{case.name} has no logits, so it has no loss; leave `loss_function` out")
        with torch.no_grad(), alone():  # other processes have other cases, and perhaps fewer
            value = float(self._loss(case.logits[None].float(), case.label[None, None]))
        if math.isfinite(value):
            self.total, self.number = self.total + value, self.number + 1
            return {LOSS: value}
        return {LOSS: math.nan}

    def merge(self, everyone: Sequence[LossScore]) -> None:
        """Become what all processes have counted together."""
        self.total, self.number = sum(each.total for each in everyone), sum(each.number for each in everyone)

    def compute(self) -> Pooled:
        """Return the mean over the cases."""
        return Pooled(overall={LOSS: self.total / self.number if self.number else math.nan})

    def __getstate__(self) -> dict[str, Any]:
        """Leave the function out: other processes have it, and not every function can be sent."""
        return {**vars(self), "_loss": None}


def _of_prediction(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if not isinstance(loss, MultiOutputLoss):
        return loss
    terms = [
        {"output": "pred", "loss": term.loss, "weight": term.weight, "resize": term.resize}
        for term in loss.terms
        if (term.output, term.target) == ("pred", "label")
    ]
    if not terms:
        raise MedsegError("the loss has no term for `pred` against `label`, so an evaluation has no loss")
    return MultiOutputLoss(terms)


def case_names(entries: Sequence[Mapping[str, Any]], *, hidden: bool = False) -> list[str]:
    """Return what to call each entry of a data set: its image's file name, of several files that of one of its own.

    Where two have one name, all are called by their path from the folder that they share.

    Args:
        entries: with ``image``.
        hidden: give `hidden_name` of it instead, where names must not show.
    """
    paths = [PurePath(path) for path in standing_for(entry.get("image", "") for entry in entries)]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        shared = 0
        for parts in zip(*(path.parts[:-1] for path in paths), strict=False):
            if len(set(parts)) > 1:
                break
            shared += 1
        names = ["/".join(path.parts[shared:]) for path in paths]
    if hidden:
        names = [hidden_name(name) for name in names]
    return names


class WorstCases:
    """Keep the pictures of the cases with the lowest scores, and no more of them than asked.

    Args:
        most: how many to keep.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._heap: list[tuple[float, int, dict[str, Any]]] = []

    def reset(self) -> None:
        """Forget everything."""
        self._heap = []

    def offer(self, index: int, score: float, make: Callable[[], dict[str, Any]]) -> None:
        """Keep a case if it is among the worst so far.

        Args:
            index: of the case; of two with one score the first is kept.
            score: the lower the worse; NaN (nothing to score) is the last to be shown.
            make: gives the pictures of the case, asked only if it is kept.
        """
        rank = math.inf if math.isnan(score) else score
        item = (-rank, -index)
        if self.most > 0 and (len(self._heap) < self.most or item > self._heap[0][:2]):
            push = heapq.heappush if len(self._heap) < self.most else heapq.heapreplace
            push(self._heap, (*item, make()))

    def cases(self, complete: Callable[[int, dict[str, Any]], dict[str, Any] | None]) -> list[dict[str, Any]]:
        """Return the cases of all processes, the worst first; every process must ask.

        Args:
            complete: called with the index of a case that is among the worst of all and with what was made of it, in
                the process that has it; gives the case to return, or ``None`` to leave it out.
        """
        kept = sorted(self._heap, key=lambda item: (-item[0], -item[1]))
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if several:
            keys: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(keys, [(-rank, -index) for rank, index, _ in kept])
            chosen = set(sorted(key for each in keys for key in each)[: self.most])
            kept = [item for item in kept if (-item[0], -item[1]) in chosen]
        made = [(rank, index, complete(-index, case)) for rank, index, case in kept]
        if several:  # pictures are large: the chosen alone are sent
            everyone: list[Any] = [None] * len(keys)
            dist.all_gather_object(everyone, made)
            made = sorted((item for each in everyone for item in each), key=lambda item: (-item[0], -item[1]))
        return [case for _, _, case in made if case is not None]


def affine_of(batch: Mapping[str, Any], number: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return where image ``number`` of a batch lies: ``affine`` ``(B, 4, 4)``, where the data set gives it."""
    held = batch.get("affine")
    return None if held is None else np.asarray(torch.as_tensor(held)[number], dtype=np.float64)
