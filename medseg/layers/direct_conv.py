"""Convolutions that go to oneDNN where no gradient is asked for, a single sample's too.

On a CPU PyTorch 2.15 takes some convolutions a way of its own: of one pixel on one thread, and of a single sample whose
channels times the first two edges are 20,480 at most. There all pixels of a kernel are laid side by side in the plain
layout, and multiplied: of one volume of 32 channels over 20 x 28 x 20 voxels that takes nine times as long as oneDNN,
and 27 times the volume's memory. Values differ from PyTorch's by rounding. What is not fp32 and channels-last on a CPU,
compiled or exported goes PyTorch's way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]

__all__ = ["DirectConv2d", "DirectConv3d", "Layer", "is_direct", "lies_for_products"]

Layer = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


class DirectConv2d(nn.Conv2d):
    """Of pictures; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W)`` to ``(B, C', H', W')``, memory layout kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            result: Tensor = self._conv_forward(input, self.weight, self.bias)
            return result
        return self._quick(input)

    def _quick(self, image: Tensor) -> Tensor:
        """Convolve where nothing looks on that has to know what is done."""
        if _known(self, image):
            return _direct(self, image)
        result: Tensor = self._conv_forward(image, self.weight, self.bias)
        return result


class DirectConv3d(nn.Conv3d):
    """Of volumes; arguments, parameters and result as PyTorch's.

    Shape:
        ``(B, C, H, W, D)`` to ``(B, C', H', W', D')``, memory layout kept.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
            result: Tensor = self._conv_forward(input, self.weight, self.bias)
            return result
        return self._quick(input)

    def _quick(self, image: Tensor) -> Tensor:
        """Convolve where nothing looks on that has to know what is done."""
        if _known(self, image):
            return _direct(self, image)
        result: Tensor = self._conv_forward(image, self.weight, self.bias)
        return result


def is_direct(layer: nn.Module) -> bool:
    """Tell whether a layer is a convolution that oneDNN takes as it is: padded with zeros, by numbers.

    Args:
        layer: any.
    """
    return (
        isinstance(layer, nn.Conv2d | nn.Conv3d)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def lies_for_products(layer: Layer, image: Tensor) -> bool:
    """Tell whether a layer's input is fp32 and channels-last on a CPU, where it is a matrix as it lies.

    Args:
        layer: a convolution.
        image: ``(B, C, *S)``.
    """
    dims = len(layer.kernel_size)
    return (
        image.device.type == "cpu"
        and image.dtype == layer.weight.dtype == torch.float32
        and image.ndim == dims + 2
        and image.shape[1] == layer.in_channels
        and image.is_contiguous(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
        and not torch.is_autocast_enabled("cpu")
    )


def _known(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and bool(torch.backends.mkldnn.enabled)
        and is_direct(layer)
        and lies_for_products(layer, image)
        and image.numel() > 0
        and _fits(layer, image)
    )


def _fits(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> bool:
    """Tell whether a padded image is as large as the kernel; PyTorch says what is wrong with one that is not."""
    for edge, width, step, kernel in zip(
        image.shape[2:], map(int, layer.padding), layer.dilation, layer.kernel_size, strict=True
    ):
        if edge + 2 * width <= step * (kernel - 1):
            return False
    return True


def _direct(layer: nn.Conv2d | nn.Conv3d, image: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.mkldnn_convolution(
        image, layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups
    )
    return found
