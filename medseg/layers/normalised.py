"""Normalisation of channels-last maps on a CPU, whose means and deviations keep their digits.

PyTorch 2.15 adds up a channel of such maps value after value in single precision: at 17 million of them, one thread is
3 % off in the variance, and their end is not counted at all. For its group normalisation it takes the difference of
two such sums, of squares and of values, and loses the result where the mean is far above the deviation: by 0.006 at
100 deviations, by all of it at 1000 (``tests/layers/test_norms.py``). Here each place along a map's last axis has sums
of its own, around its own mean, and these are merged in double precision (T. F. Chan et al., "Updating formulae and a
pairwise algorithm for computing sample variances", 1979). They are taken by the kernels of PyTorch's batch
normalisation, which run over such a map as it lies, and are as fast as before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import group_norm

__all__ = ["lies_channels_last", "normalised"]

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Normalised(NamedTuple):
    """What `normalised` returns."""

    result: Tensor
    """As the image, laid out as it is."""
    mean: Tensor
    """``(B, groups)``, or ``(1, groups)`` where samples are joined; double precision, without a gradient."""
    variance: Tensor
    """Of the same shape, biased."""


def lies_channels_last(image: Tensor) -> bool:
    """Tell whether `normalised` takes a map: channels-last pictures or volumes in single precision on a CPU.

    Args:
        image: any tensor.
    """
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and image.ndim in _FORMATS
        and image.is_contiguous(memory_format=_FORMATS[image.ndim])
        and image.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def normalised(
    image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int, *, joined: bool = False
) -> Normalised:
    """Bring groups of channels to mean 0 and variance 1, then scale and shift each channel.

    Args:
        image: ``(B, C, *S)`` as `lies_channels_last` wants it.
        weight: ``(C,)``; ``None`` for 1.
        bias: ``(C,)``; ``None`` for 0.
        eps: added to the variance.
        groups: of neighbouring channels that have one mean: C for instance and batch normalisation.
        joined: all samples have one mean, as in batch normalisation.
    """
    way = _Normalised.apply if torch.is_grad_enabled() else _forward
    return Normalised(*way(image, weight, bias, eps, groups, joined))


def _forward(
    image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int, joined: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows = _rows(image, joined)
    mean, variance = _statistics(rows, groups)
    scale, centre = (variance + eps).rsqrt(), mean
    if groups < rows.shape[-1]:
        each = rows.shape[-1] // groups
        scale, centre = scale.repeat_interleave(each, 1), centre.repeat_interleave(each, 1)  # (P, C)
    if weight is not None:
        scale = scale * weight
    shift = -centre * scale if bias is None else torch.addcmul(bias.to(scale), centre, scale, value=-1)
    result = torch.empty_like(image)
    _linear(_rows(result, joined), rows, scale, shift)
    return result, mean, variance


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int, joined: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _forward(image, weight, bias, eps, groups, joined)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        image, weight, bias, ctx.eps, ctx.groups, ctx.joined = inputs
        _, mean, variance = output
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(image, weight, bias, mean, variance)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        image, weight, bias, mean, variance = ctx.saved_tensors
        if gradients[0] is None:
            return None, None, None, None, None, None
        if torch.is_grad_enabled():  # to be differentiated again
            return *_by_pytorch(ctx, image, weight, bias, gradients[0]), None, None, None
        gradient = _rows(gradients[0].contiguous(memory_format=_FORMATS[image.ndim]), ctx.joined)
        rows = _rows(image, ctx.joined)
        parts, channels = len(rows), rows.shape[-1]
        each = channels // ctx.groups
        inverse = (variance + ctx.eps).rsqrt()
        of_weight, of_bias = _sums(rows, gradient, *(one.repeat_interleave(each, 1) for one in (mean, inverse)))
        of_image = None
        if ctx.needs_input_grad[0]:
            factor = torch.ones_like(of_bias) if weight is None else weight.to(of_bias).expand(parts, -1)
            number = rows[0].numel() // ctx.groups
            of_mean = (factor * of_bias).view(parts, ctx.groups, each).sum(-1) / number
            of_deviation = (factor * of_weight).view(parts, ctx.groups, each).sum(-1) / number
            slope = -inverse.square() * of_deviation
            shift = -inverse * of_mean - slope * mean
            of_image = torch.empty_like(image)
            target = _rows(of_image, ctx.joined)
            _linear(target, rows, *(one.repeat_interleave(each, 1) for one in (slope, shift)))
            wide = _wide(inverse.repeat_interleave(each, 1) * factor, rows)
            for result, coming, by in zip(target.flatten(2), gradient.flatten(2), wide, strict=True):
                result.addcmul_(coming, by)
        return (
            of_image,
            of_weight.sum(0).to(weight) if ctx.needs_input_grad[1] else None,
            of_bias.sum(0).to(bias) if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _by_pytorch(
    ctx: Any, image: Tensor, weight: Tensor | None, bias: Tensor | None, gradient: Tensor
) -> list[Tensor | None]:
    if ctx.joined:
        result = torch.batch_norm(image.contiguous(), weight, bias, None, None, True, 0.0, ctx.eps, False)
    else:
        result = group_norm(image.contiguous(), ctx.groups, weight, bias, ctx.eps)
    asked = zip((image, weight, bias), ctx.needs_input_grad, strict=False)
    wanted = [one for one, needed in asked if needed and one is not None]
    found = iter(torch.autograd.grad(result, wanted, gradient, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _rows(image: Tensor, joined: bool) -> Tensor:
    """Return a view ``(P, rows, W, C)``, W the last spatial axis: a part P is a sample, or the batch."""
    return image.movedim(1, -1).view(1 if joined else len(image), -1, image.shape[-1], image.shape[1])


def _wide(values: Tensor, rows: Tensor) -> Tensor:
    """Return what belongs to channels ``(P, C)`` for a whole row ``(P, W C)``."""
    wide = values.to(rows.dtype)[:, None].expand(-1, rows.shape[2], -1)  # eight times faster than `repeat`
    return wide.flatten(1).contiguous()  # of one channel it would be a view of one value


def _linear(result: Tensor, rows: Tensor, scale: Tensor, shift: Tensor) -> None:
    slope, start = _wide(scale, rows)[:, None], _wide(shift, rows)[:, None]
    torch.addcmul(start, rows.flatten(2), slope, out=result.flatten(2))


def _statistics(rows: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance ``(P, groups)``, in double precision."""
    found = [torch.batch_norm_update_stats(part.flatten(1), None, None, 0.0) for part in rows]
    means, variances = (
        torch.stack(each).double().view(len(rows), rows.shape[2], groups, -1) for each in zip(*found, strict=True)
    )
    mean = means.mean((1, 3))  # by hand, what is faster than `torch.var_mean`
    apart = means - mean[:, None, :, None]
    return mean, apart.square_().add_(variances).mean((1, 3))


def _sums(rows: Tensor, gradient: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias from each part ``(P, C)``, in double precision."""
    found = []
    for part, coming, *kept in zip(
        rows.flatten(2), gradient.flatten(2), _wide(mean, rows), _wide(inverse, rows), strict=True
    ):
        wanted = [False, True, True]
        found.append(
            torch.ops.aten.native_batch_norm_backward(coming, part, None, None, None, *kept, True, 0.0, wanted)[1:]
        )
    of_weight, of_bias = (
        torch.stack(each).double().view(len(rows), *rows.shape[2:]).sum(1) for each in zip(*found, strict=True)
    )
    return of_weight + (mean.to(rows.dtype) - mean) * inverse * of_bias, of_bias  # which it was rounded by
