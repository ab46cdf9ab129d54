"""Sums over all processes of a distributed training, through which gradients flow."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum a tensor over all processes; in one process it is returned as it is.

    A loss made of such sums is the same in every process, and after `DistributedDataParallel` has averaged them its
    gradients are those of one process with the whole batch. Every process must call this, with the same shape.

    Args:
        x: sums of this process.

    Shape:
        any, kept.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return cast(Tensor, _SumOverProcesses.apply(x))
    return x


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
