"""Sums over all processes of a distributed training, through which gradients flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

_alone: list[None] = []  # blocks of `alone` that are open


def several() -> bool:
    """Return whether a batch lies in several processes: there are some, and this one is not computing by itself."""
    return not _alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let sums inside the block be those of this process: of a case that it has for itself, as in an evaluation."""
    _alone.append(None)
    try:
        yield
    finally:
        _alone.pop()


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum a tensor over all processes; in one process, or inside `alone`, it is returned as it is.

    A loss made of such sums is the same in every process, and after `DistributedDataParallel` has averaged them its
    gradients are those of one process with the whole batch. Every process must call this, with the same shape.

    Args:
        x: sums of this process.

    Shape:
        any, kept.
    """
    return cast(Tensor, _SumOverProcesses.apply(x)) if several() else x


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; the gradient is summed too, which DistributedDataParallel's mean then brings to scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
