"""Convolutions of several pixels whose weights get their gradient by products of matrices that a CPU does well.

On a CPU without AVX-512, oneDNN (as PyTorch 2.15 brings it) lays the pixels of all kernel positions side by side and
multiplies by as many rows as there are output channels: at half the speed of its forward pass, which makes two fifths
of a training step of a 3D U-Net, and far below that on large pictures of many channels. Here the pixels along a
kernel's last axis are laid side by side, and the gradients along its first, some planes at a time that a cache holds;
the axis between is a choice of rows, which costs nothing (``python -m benchmarks.quick_layers``). Values differ from
PyTorch's by rounding. The forward pass and the gradient of the image are PyTorch's. What is not fp32 and channels-last
on such a CPU, compiled, exported or differentiated twice goes PyTorch's way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.layers.direct_conv import DirectConv2d, DirectConv3d, is_direct, lies_for_products

__all__ = ["WindowConv2d", "WindowConv3d", "is_window"]

_CACHE = 3 * 2**20  # bytes that are laid out at a time
_SUMS = 16 * 2**20  # bytes of sums, one for each plane of those
_LEAST_CHANNELS = 16  # with fewer there is little to multiply
_LEAST_PIXELS = 32  # of a plane, or of a picture's row
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


class WindowConv2d(DirectConv2d):
    """Of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)`` to ``(B, C', H', W')``, memory layout kept.
    """

    def _quick(self, image: Tensor) -> Tensor:
        return _convolved(self, image) if _known(self, image) else super()._quick(image)


class WindowConv3d(DirectConv3d):
    """Of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)`` to ``(B, C', H', W', D')``, memory layout kept.
    """

    def _quick(self, image: Tensor) -> Tensor:
        return _convolved(self, image) if _known(self, image) else super()._quick(image)


def is_window(layer: nn.Module) -> bool:
    """Tell whether a layer is a convolution that is done here, on the processor at hand.

    Args:
        layer: any.
    """
    return (
        isinstance(layer, nn.Conv2d | nn.Conv3d)
        and is_direct(layer)
        and torch.backends.cpu.get_cpu_capability() == "AVX2"  # with more, oneDNN has a kernel of its own
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and layer.in_channels >= _LEAST_CHANNELS
        and math.prod(layer.kernel_size) > 1
    )


def _known(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and layer.weight.requires_grad
        and lies_for_products(layer, image)
        and math.prod(image.shape[3:]) >= _LEAST_PIXELS
    )


def _convolved(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> Tensor:
    result: Tensor = _Convolved.apply(image, layer.weight, layer.bias, layer.stride, layer.padding)
    return result


class _Convolved(torch.autograd.Function):
    """PyTorch's convolution with the gradient of `window_gradient`."""

    @staticmethod
    def forward(
        image: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        ones, none = [1] * len(stride), [0] * len(stride)
        return torch.convolution(image, weight, bias, stride, padding, ones, False, none, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, weight, bias, ctx.stride, ctx.padding = inputs
        ctx.features = None if bias is None else list(bias.shape)
        ctx.save_for_backward(image, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_FORMATS[image.ndim - 2])
        wanted = list(ctx.needs_input_grad[:3])
        ours = wanted[1] and not torch.is_grad_enabled()  # else for a second derivative
        asked = [wanted[0], wanted[1] and not ours, wanted[2] and not ours]
        ones, none = [1] * len(ctx.stride), [0] * len(ctx.stride)
        of_image, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, image, weight, ctx.features, ctx.stride, ctx.padding, ones, False, none, 1, asked
        )
        if ours:
            of_weight = window_gradient(image, gradient, weight.shape[2:], ctx.stride, ctx.padding)
            of_bias = gradient.sum((0, *range(2, gradient.ndim))) if wanted[2] else None
        return of_image, of_weight, of_bias, None, None


def window_gradient(
    image: Tensor, gradient: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Return the gradient of a convolution's weights.

    Args:
        image: what was convolved.
        gradient: of the result.
        kernel: edges.
        stride: an axis each.
        padding: pixels of zeros on either side, an axis each.

    Shape:
        image ``(B, C, *S)`` and gradient ``(B, C', *S')``, both channels-last, to ``(C', C, *kernel)``, likewise.
    """
    if image.ndim == 4:  # each row of a picture is a plane
        kernel, stride, padding = [kernel[0], 1, kernel[1]], [stride[0], 1, stride[1]], [padding[0], 0, padding[1]]
        return window_gradient(image.unsqueeze(3), gradient.unsqueeze(3), kernel, stride, padding).squeeze(3)
    x, of_result = image.movedim(1, -1), gradient.movedim(1, -1)  # (B, *S, C)
    planes = _planes(x.shape, of_result.shape, kernel, stride[0])
    rows = math.ceil(x.shape[2] / stride[1])
    laid = x.new_zeros(planes, stride[1], rows, of_result.shape[3], kernel[2], x.shape[4])
    # an image's plane number i is multiplied by those of the result that it takes part in, which depend on i % stride
    places = [[k for k in range(kernel[0]) if (k - padding[0]) % stride[0] == rest] for rest in range(stride[0])]
    stacks = [x.new_empty(planes // stride[0], *of_result.shape[2:4], len(each), of_result.shape[4]) for each in places]
    totals = [x.new_zeros(kernel[1], len(each), each[0, 0, 0].numel(), laid[0, 0, 0, 0].numel()) for each in stacks]
    for one, its_gradient in zip(x, of_result, strict=True):
        for first in range(0, len(one), planes):
            part = one[first : first + planes]
            _lay_out(part, laid, stride, padding[2])
            for rest, (chosen, stack, total) in enumerate(zip(places, stacks, totals, strict=True)):
                number = len(range(rest, len(part), stride[0]))
                shifts = [(first + rest + padding[0] - place) // stride[0] for place in chosen]
                if number and chosen:
                    _stack(its_gradient, stack[:number], shifts)
                    used = laid[rest : len(part) : stride[0]]
                    _add_products(total[:, :number], stack[:number], used, part.shape[1], padding[1])
    found = x.new_empty(*kernel[:2], of_result.shape[4], kernel[2], x.shape[4])
    for chosen, total in zip(places, totals, strict=True):
        found[chosen] = total.sum(1).view(kernel[1], len(chosen), *found.shape[2:]).transpose(0, 1)
    return found.permute(2, 0, 1, 3, 4).contiguous().movedim(-1, 1)


def _planes(image: Sequence[int], result: Sequence[int], kernel: Sequence[int], stride: int) -> int:
    """Return how many planes are laid out at a time, a multiple of the stride: each has sums of its own."""
    pixel, sums = 4 * kernel[2] * image[-1], 4 * math.prod(kernel) * image[-1] * result[-1]  # bytes
    most = min(_CACHE / (image[2] * result[3] * pixel), _SUMS / sums, image[1])
    return max(1, int(most) // stride) * stride


def _inside(results: int, pixels: int, stride: int, shift: int) -> tuple[int, int]:
    """Return the first and the end of those results r whose pixel ``r * stride + shift`` is one."""
    return max(0, -(shift // stride)), min(results, (pixels - 1 - shift) // stride + 1)


def _lay_out(part: Tensor, laid: Tensor, stride: Sequence[int], padding: int) -> None:
    """Write the pixels that each result needs along the last axis side by side; where there are none, zeros stay.

    Shape:
        part ``(P, H, W, C)`` to laid ``(P, stride, H / stride, W', kernel, C)``: rows by what is left of their number.
    """
    for rest in range(stride[1]):
        rows = part[:, rest :: stride[1]]
        for column in range(laid.shape[4]):
            shift = column - padding
            low, high = _inside(laid.shape[3], part.shape[2], stride[2], shift)
            if low < high:
                pixels = rows[:, :, low * stride[2] + shift :: stride[2]][:, :, : high - low]
                laid[: len(part), rest, : rows.shape[1], low:high, column] = pixels


def _stack(gradient: Tensor, stack: Tensor, shifts: Sequence[int]) -> None:
    """Write the planes of the gradient that an image's plane is multiplied by side by side, zeros where there is none.

    Shape:
        gradient ``(D', H', W', C')`` to stack ``(P, H', W', places, C')``.
    """
    for place, shift in enumerate(shifts):
        low, high = _inside(len(stack), len(gradient), 1, shift)
        stack[:low, :, :, place] = 0
        stack[max(low, high) :, :, :, place] = 0
        if low < high:
            stack[low:high, :, :, place] = gradient[low + shift : high + shift]


def _add_products(total: Tensor, stack: Tensor, laid: Tensor, rows: int, padding: int) -> None:
    """Add the products of some planes, for each place along the second axis.

    Shape:
        stack ``(P, H', W', places, C')`` and laid ``(P, stride, H / stride, W', kernel, C)`` to total
        ``(kernel, P, places C', kernel C)``.
    """
    for place, sums in enumerate(total):
        shift, rest = divmod(place - padding, laid.shape[1])  # row r needs row (r + shift) * stride + rest
        low, high = _inside(stack.shape[1], len(range(rest, rows, laid.shape[1])), 1, shift)
        if low < high:
            left = stack[:, low:high].flatten(3).flatten(1, 2).transpose(1, 2)
            sums.baddbmm_(left, laid[:, rest, low + shift : high + shift].flatten(3).flatten(1, 2))
