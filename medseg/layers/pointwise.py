"""Convolutions that look at one pixel at a time, as products of matrices, where the memory lies for it.

A kernel of one pixel maps the channels of each pixel by one matrix; a transposed kernel that is as large as its stride
maps them to the channels of the pixels that it becomes. A channels-last map is the other matrix as it lies. PyTorch
takes such maps on one thread of a CPU to the plain layout and back, forward and backward: a twelfth of a training step
of a 3D U-Net for its last layer alone (``python -m benchmarks.quick_layers``). With a stride, the backward pass of
PyTorch 2.15 on channels-last maps of few channels writes where it may not, which ends the process or worse. Values
differ from PyTorch's by rounding. What is not fp32 and channels-last on a CPU, compiled or exported goes PyTorch's way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import conv_transpose2d, conv_transpose3d, linear

from medseg.layers.direct_conv import DirectConv2d, DirectConv3d, Layer, lies_for_products

__all__ = ["PointConv2d", "PointConv3d", "SplitConv2d", "SplitConv3d", "is_pointwise"]

_NoneOrSizes = list[int] | None


class PointConv2d(DirectConv2d):
    """A kernel of one pixel, of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)`` to ``(B, C', H, W)``, memory layout kept.
    """

    def _quick(self, image: Tensor) -> Tensor:
        return _product(self, image) if _learns(self, image) else super()._quick(image)


class PointConv3d(DirectConv3d):
    """A kernel of one voxel, of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)`` to ``(B, C', H, W, D)``, memory layout kept.
    """

    def _quick(self, image: Tensor) -> Tensor:
        return _product(self, image) if _learns(self, image) else super()._quick(image)


class SplitConv2d(nn.ConvTranspose2d):
    """A transposed kernel as large as its stride, of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)`` to ``(B, C', s H, s W)``, memory layout kept.
    """

    def forward(self, input: Tensor, output_size: _NoneOrSizes = None) -> Tensor:
        """Convolve."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            return conv_transpose2d(input, self.weight, self.bias, self.stride)
        if output_size is None and _known(self, input):
            return _split(self, input)
        return super().forward(input, output_size)


class SplitConv3d(nn.ConvTranspose3d):
    """A transposed kernel as large as its stride, of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)`` to ``(B, C', s H, s W, s D)``, memory layout kept.
    """

    def forward(self, input: Tensor, output_size: _NoneOrSizes = None) -> Tensor:
        """Convolve."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            return conv_transpose3d(input, self.weight, self.bias, self.stride)
        if output_size is None and _known(self, input):
            return _split(self, input)
        return super().forward(input, output_size)


def is_pointwise(layer: Layer) -> bool:
    """Tell whether each pixel of a convolution's result depends on one pixel alone, and each pixel on one at most.

    Args:
        layer: any convolution.
    """
    if layer.groups != 1 or set(layer.dilation) != {1}:
        return False
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return layer.kernel_size == layer.stride and not any(layer.padding) and not any(layer.output_padding)
    return set(layer.kernel_size) == {1} and (isinstance(layer.padding, str) or not any(layer.padding))


def _learns(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> bool:
    return torch.is_grad_enabled() and lies_for_products(layer, image)


def _known(layer: nn.ConvTranspose2d | nn.ConvTranspose3d, image: Tensor) -> bool:
    # forwards alone PyTorch's way is as fast, but for volumes on one thread, and for a single one
    return lies_for_products(layer, image) and (
        torch.is_grad_enabled() or (image.ndim == 5 and (torch.get_num_threads() == 1 or len(image) == 1))
    )


def _product(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> Tensor:
    matrix = layer.weight.movedim(1, -1).flatten(1)  # (C', C); its gradient lies as a channels-last kernel does
    if any(step > 1 for step in layer.stride):
        image = image[tuple(slice(None, None, step) for step in (1, 1, *layer.stride))]
    return linear(image.movedim(1, -1), matrix, layer.bias).movedim(-1, 1)


def _split(layer: nn.ConvTranspose2d | nn.ConvTranspose3d, image: Tensor) -> Tensor:
    edges, dims = layer.kernel_size, len(layer.kernel_size)
    matrix = layer.weight.movedim(1, -1).flatten(1)  # (C, edges, C'), as a channels-last kernel lies
    bias = None if layer.bias is None else layer.bias.repeat(math.prod(edges))
    batch, _, *size = image.shape
    parts = linear(image.movedim(1, -1), matrix.T, bias).view(batch, *size, *edges, layer.out_channels)
    # to (B, S_1, edge_1, S_2, edge_2, ..., C')
    parts = parts.permute(0, *_interleaved(dims), 2 * dims + 1)
    larger = [length * edge for length, edge in zip(size, edges, strict=True)]
    result: Tensor = parts.reshape(batch, *larger, layer.out_channels).movedim(-1, 1)
    return result


def _interleaved(dims: int) -> list[int]:
    return [axis for pair in zip(range(1, dims + 1), range(dims + 1, 2 * dims + 1), strict=True) for axis in pair]
