"""Batch normalisation by the statistics of all processes, on a CPU too.

S. Ioffe, C. Szegedy, "Batch Normalization", https://arxiv.org/abs/1502.03167. PyTorch's `SyncBatchNorm` takes maps on a
GPU alone. Here each process gives the mean, the summed squares around it and the number of its values a channel, which
are merged (T. F. Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979), so
that no digits are lost and parts of a batch may differ in size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.errors import MedsegError
from medseg.layers import norms
from medseg.losses.processes import several

__all__ = ["SharedBatchNorm", "SharedBatchNormAct", "share_batch_norm"]


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation whose batch is that of all processes; in one process, and in evaluation, PyTorch's.

    Every process must train it at the same time. After `DistributedDataParallel` has averaged gradients they are those
    of one process with the whole batch.

    Shape:
        ``(B, C, *S)``, kept; B and S may differ between processes.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch normalisation needs a batch and channels, not {input.ndim} axes")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if not (self.training and several()):
            return super().forward(input)
        self._check_input_dim(input)
        result, mean, variance, number = cast(
            tuple[Tensor, Tensor, Tensor, Tensor], _Normalised.apply(input, self.weight, self.bias, self.eps)
        )
        if self.track_running_stats and self.running_mean is not None:
            self._follow(mean, variance * (number / (number - 1)))
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class SharedBatchNormAct(SharedBatchNorm):
    """The same for timm's layer that drops and activates after it."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, drop and activate."""
        result: Tensor = self.act(self.drop(super().forward(input)))
        return result


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SharedBatchNorm,
    nn.BatchNorm2d: SharedBatchNorm,
    nn.BatchNorm3d: SharedBatchNorm,
    BatchNormAct2d: SharedBatchNormAct,
    norms.BatchNorm2d: SharedBatchNorm,  # what a CPU's layout has made of them
    norms.BatchNorm3d: SharedBatchNorm,
    norms.BatchNormAct: SharedBatchNormAct,
}
_DONE = (SharedBatchNorm, nn.SyncBatchNorm)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch normalisations share their statistics between processes.

    Parameters, buffers and their names stay. On a GPU they become PyTorch's `SyncBatchNorm`.

    Args:
        network: changed in place.
        device: where it lies.

    Raises:
        MedsegError: if it has a batch normalisation that does more than PyTorch's, and would no longer.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm) and type(layer) not in _SHARED and not isinstance(layer, _DONE):
            raise MedsegError(
                f"{name} of {type(network).__name__} is a {type(layer).__name__}, whose statistics cannot be shared "
                "between processes; train in one process, or with another norm"
            )
    if device.type == "cuda":
        return cast(nn.Module, convert_sync_batchnorm(network))
    for layer in network.modules():
        kind = _SHARED.get(type(layer))
        if kind is not None:
            layer.__class__ = kind
    return network


class _Normalised(torch.autograd.Function):
    """Return the normalised maps, mean and (biased) variance of all processes, and the number of values a channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = _full(x)
        axes = [0, *range(2, x.ndim)]
        mean, variance, number = _merged(values, axes)
        if number < 2:
            raise MedsegError(
                f"batch normalisation got one value a channel, {tuple(x.shape)} in all processes together; train with "
                "more images a step or larger ones"
            )
        inverse = (variance + eps).rsqrt()
        view = [1, -1, *[1] * (x.ndim - 2)]
        result = (values - mean.view(view)).mul_(inverse.view(view))
        if weight is not None:
            result.mul_(weight.view(view))
        if bias is not None:
            result.add_(bias.view(view))
        ctx.save_for_backward(x, weight, mean, inverse, number)
        ctx.mark_non_differentiable(mean, variance, number)
        ctx.set_materialize_grads(False)
        return result.to(x.dtype), mean, variance, number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, number = ctx.saved_tensors
        view = [1, -1, *[1] * (x.ndim - 2)]
        axes = [0, *range(2, x.ndim)]
        gradient = _full(gradients[0])
        standard = (_full(x) - mean.view(view)).mul_(inverse.view(view))
        of_bias, of_weight = gradient.sum(axes), (gradient * standard).sum(axes)
        of_input = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_bias, of_weight])
            dist.all_reduce(sums)
            means = sums / number
            scale = inverse if weight is None else inverse * weight
            of_input = gradient - means[0].view(view) - standard.mul_(means[1].view(view))
            of_input = of_input.mul_(scale.view(view)).to(x.dtype)
        # of this process's part: DistributedDataParallel brings the parts together
        wanted = ctx.needs_input_grad
        return of_input, of_weight if wanted[1] else None, of_bias if wanted[2] else None, None


def _full(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _merged(values: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance a channel over all processes, and the number of values that each is of."""
    number = values.numel() // values.shape[1]
    variance, mean = torch.var_mean(values, axes, correction=0)
    own = torch.cat([mean, variance, mean.new_tensor([number])])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    parts = torch.stack(everyone)  # (W, 2 C + 1)
    means, variances, numbers = parts[:, : len(mean)], parts[:, len(mean) : -1], parts[:, -1:]
    total = numbers.sum()
    mean = (numbers * means).sum(0) / total
    variance = (numbers * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total
