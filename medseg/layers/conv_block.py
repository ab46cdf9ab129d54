"""Two convolutions with normalisation and activation: the block of the U-Net family."""

from __future__ import annotations

from typing import Any

from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """``(3x3 convolution, normalisation, activation)`` twice.

    Convolutions before a normalisation have no bias: the normalisation would take it away.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        act: str | tuple[str, dict[str, Any]] = "relu",
        norm: str | tuple[str, dict[str, Any]] | None = "batch",
    ) -> None:
        if act == "relu":  # saves a feature map: neither the normalisation nor the convolution before needs it back
            act = ("relu", {"inplace": True})
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(Conv[Conv.CONV, spatial_dims](channels, out_channels, 3, padding=1, bias=norm is None))
            if norm is not None:
                layers.append(get_norm_layer(norm, spatial_dims, out_channels))
            layers.append(get_act_layer(act))
        super().__init__(*layers)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad at the end of each spatial axis to a multiple, by repeating the border.

    Args:
        x: ``(B, C, *S)``.
        multiple: of pixels.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S')`` with every S' a multiple.
    """
    padding: list[int] = []
    for axis in range(x.dim() - 1, 1, -1):
        padding += [0, (-x.size(axis)) % multiple]
    return nn.functional.pad(x, padding, mode="replicate") if sum(padding) > 0 else x


def crop_to(x: Tensor, size: list[int]) -> Tensor:
    """Take back what `pad_to_multiple` added.

    Args:
        x: ``(B, C, *S')``.
        size: S.

    Shape:
        ``(B, C, *S')`` to ``(B, C, *S)``.
    """
    for axis, length in enumerate(size):
        x = x.narrow(axis + 2, 0, length)
    return x
