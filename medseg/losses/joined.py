"""Any loss over the batch of all processes.

`DistributedDataParallel` averages the gradients of the processes' losses. Of a loss that is no mean over equally many
images (a Dice over the batch, a cross-entropy with class weights) that is not the gradient of one process with the
whole batch. The losses here sum over processes by themselves; every other one gets the joined batch in each process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medseg.errors import MedsegError
from medseg.losses.all_hl import ALLHLLoss
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.focal_iou import FocalIoULoss
from medseg.losses.multi_output import MultiOutputLoss
from medseg.losses.processes import several
from medseg.losses.reconstruction import ReconstructionLoss

__all__ = ["JoinedLoss", "over_processes"]

_SUMMING = (ALLHLLoss, CrossEntropyLoss, FocalIoULoss, ReconstructionLoss)


def over_processes(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that is, in every process, that of the batch of all; in one process it is returned as it is.

    Args:
        loss: takes what the network gives and the targets, tensors or flat dicts of tensors with the batch first.
    """
    if not several() or isinstance(loss, (*_SUMMING, JoinedLoss)):
        return loss
    if isinstance(loss, MultiOutputLoss):
        joined = copy.copy(loss)
        joined.terms = [replace(term, loss=over_processes(term.loss)) for term in loss.terms]
        return joined
    return JoinedLoss(loss)


class JoinedLoss(nn.Module):
    """A loss of the batches of all processes, put together in the order in which one process would have them.

    Every process computes all of it, and must call it with tensors of the same size.

    Args:
        loss: takes what the network gives and the targets.

    Raises:
        MedsegError: if tensors differ in size between processes.

    Shape:
        tensors ``(B, ...)``, or flat dicts of them, to a scalar.
    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Mapping[str, Tensor], targets: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the loss."""
        return self.loss(_joined(outputs), _joined(targets)) if several() else self.loss(outputs, targets)


def _joined(tensors: Any) -> Any:
    if isinstance(tensors, Mapping):
        return {name: _joined(value) for name, value in tensors.items()}
    return _Join.apply(tensors)


class _Join(torch.autograd.Function):
    """Interleave the batches of all processes: with W of them, process r has every W-th image from the r-th on.

    All processes compute the same loss of the same images, so the sum of their gradients, which
    DistributedDataParallel divides by W, is W times one's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        _refuse_different(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        # as bytes: no backend knows all types of numbers
        dist.all_gather([_bytes(part) for part in parts], _bytes(x.contiguous()))
        joined = torch.stack(parts, 1).flatten(0, 1)  # (B, W, ...) to (B W, ...)
        if not x.is_floating_point():
            ctx.mark_non_differentiable(joined)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        processes = dist.get_world_size()
        return gradients[0][dist.get_rank() :: processes] * processes


def _bytes(x: Tensor) -> Tensor:
    return x.view(-1).view(torch.uint8)


def _refuse_different(x: Tensor) -> None:
    own = torch.tensor([x.ndim, *x.shape, *[0] * (7 - x.ndim)], device=x.device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    sizes = [each.tolist() for each in found]
    if any(size != sizes[0] for size in sizes):
        listed = ", ".join("x".join(map(str, size[1 : 1 + size[0]])) for size in sizes)
        raise MedsegError(
            f"the batches of {len(sizes)} processes differ in size ({listed}), so there is no joined one whose loss "
            "could be taken; train on patches (patch), or in one process"
        )
