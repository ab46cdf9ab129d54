"""How unsure probabilities are, voxel by voxel: what an evaluation and a prediction make one number a case of.

The uncertainty of a case is the mean entropy over its largest value (0 certain, 1 all classes alike) where there may be
something: where the probability of the background is below 0.95, everywhere where no class is the background. It ranks
the cases of one model and is no probability.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["entropy_of", "may_hold_something", "probabilities_of"]

_LIKELY = 0.05  # of anything but the background, from which there may be something


def probabilities_of(logits: Tensor, dim: int) -> Tensor:
    """Return the probabilities of classes as float32; of one channel those of both its classes.

    Args:
        logits: with the classes along ``dim``, or one channel of two classes.
        dim: axis of the classes.
    """
    logits = logits.float()
    if logits.shape[dim] > 1:
        return logits.softmax(dim=dim)
    front = logits.sigmoid()
    return torch.cat([1 - front, front], dim=dim)


def entropy_of(probabilities: Tensor, dim: int) -> Tensor:
    """Return the entropy over its largest value, from 0 to 1, without the axis of the classes.

    Args:
        probabilities: of two classes or more.
        dim: axis of the classes.
    """
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=dim)
    return entropy / math.log(probabilities.shape[dim])


def may_hold_something(probabilities: Tensor, background: int | None, dim: int) -> Tensor:
    """Return where there may be something else than background, without the axis of the classes.

    Args:
        probabilities: of the classes.
        background: index of the class that is around the objects; ``None`` for none.
        dim: axis of the classes.
    """
    if background is None or background >= probabilities.shape[dim]:
        return torch.ones_like(probabilities.select(dim, 0), dtype=torch.bool)
    return probabilities.select(dim, background) < 1 - _LIKELY
