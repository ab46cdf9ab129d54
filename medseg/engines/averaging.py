"""Exponential moving average of a network's weights and statistics."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medseg.errors import MedsegError

__all__ = ["MovingAverage"]


class MovingAverage(AveragedModel):
    """An averaged copy of a network; call ``update_parameters(network)`` after each optimiser step.

    The decay rises as ``min(decay, (1 + n) / (10 + n))`` over the first n steps, so that a short training is not held
    back by its random start. PyTorch's own update asks the device for the number of steps, which keeps a GPU waiting
    once a step, and goes through all modules each time.

    Args:
        network: the network to follow; the tensors of its parameters and buffers must stay the same.
        decay: weight of the past, in [0, 1).

    Raises:
        MedsegError: if ``decay`` is out of range.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise MedsegError(f"ema_decay is {decay}; it must be in [0, 1), or null for none")
        super().__init__(network, use_buffers=True)
        self.requires_grad_(False)
        self.decay = decay
        self._pairs: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a step of the network into the average; the first one is the average."""
        if not self._pairs:
            self._pair(model)
        steps = int(self.n_averaged)  # it lies on the CPU
        share = 1 - min(self.decay, (1 + steps) / (10 + steps)) if steps else 1.0
        for averaged, current in self._pairs.values():
            if steps and averaged[0].is_floating_point():
                torch._foreach_lerp_(averaged, current, share)
            else:  # a counter is taken over
                torch._foreach_copy_(averaged, current)
        self.n_averaged += 1

    def _pair(self, model: nn.Module) -> None:
        """Put our tensors beside the network's, those of one kind together."""
        ours, theirs = (itertools.chain(each.parameters(), each.buffers()) for each in (self.module, model))
        found: dict[Any, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for mine, current in zip(ours, theirs, strict=True):
            pair = found[mine.device, mine.dtype]
            pair[0].append(mine.detach())
            pair[1].append(current.detach())
        self._pairs = dict(found)
