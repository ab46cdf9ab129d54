"""Exponential moving average of a network's weights and statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medseg.errors import MedsegError

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an averaged copy of ``network``; call ``update_parameters(network)`` after each optimiser step.

    The decay rises as ``min(decay, (1 + n) / (10 + n))`` over the first n steps, so that a short training is not held
    back by its random start.

    Args:
        network: the network to follow.
        decay: weight of the past, in [0, 1).

    Raises:
        ValueError: if ``decay`` is out of range.
    """
    if not 0 <= decay < 1:
        raise MedsegError(f"ema_decay is {decay}; it must be in [0, 1), or null for none")

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        n = int(steps)
        share = 1 - min(decay, (1 + n) / (10 + n))
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, share)
        else:  # counters
            for target, source in zip(averaged, current, strict=True):
                target.copy_(source)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.requires_grad_(False)
    return average
