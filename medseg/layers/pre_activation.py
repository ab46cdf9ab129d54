"""Normalisation and activation ahead of the convolution: the unit of pre-activation residual networks."""

from __future__ import annotations

from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from medseg.layers.activation import activation
from medseg.layers.conv_block import Named


class PreActivation(nn.Sequential):
    """Normalisation, activation, convolution (K. He et al., https://arxiv.org/abs/1603.05027, fig. 4e).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: edge of the kernel in pixels, odd.
        stride: step of the kernel in pixels.
        groups: parts of the channels that the convolution keeps apart.
        bias: whether the convolution has one; leave it out where a normalisation follows.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if MONAI knows no layer of that name.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *ceil(S / stride))``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__(
            nn.Identity() if norm is None else get_norm_layer(norm, spatial_dims, in_channels),
            activation(act, overwrite=norm is not None),  # else it is the caller's map
            Conv[Conv.CONV, spatial_dims](
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias=bias,
            ),
        )
