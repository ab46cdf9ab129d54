"""Heads of scene parsing networks: from an encoder's last features to the features that the classifier reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.layers.conv_block import Named, conv_norm_act, norm_act


class SceneHead(nn.Module):
    """What every head has.

    Args:
        out_channels: channels of the features that it gives.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(f"channels is {out_channels}; it must be at least 1")
        self.out_channels = out_channels


class PlainHead(SceneHead):
    """The encoder's features themselves, after dropout.

    Args:
        in_channels: channels C of the encoder's last features.
        dropout: probability of dropping a channel.

    Shape:
        ``(B, C, h, w)`` to ``(B, C, h, w)``.
    """

    def __init__(self, in_channels: int, dropout: float = 0.0) -> None:
        super().__init__(in_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.dropout(x)
        return features


class LargeFOVHead(SceneHead):
    """fc6 and fc7 of DeepLab-LargeFOV: a dilated 3x3 convolution and a 1x1 convolution, each followed by dropout.

    Before them stands the 3x3 average pooling of the authors' released network (stride 1, zeros of the padding counted,
    as Caffe does). Weights start as He's, biases at zero.

    Args:
        in_channels: channels of the encoder's last features.
        channels: channels of fc6 and fc7.
        dilation: of fc6.
        dropout: probability of dropping a value.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 1024,
        dilation: int = 12,
        dropout: float = 0.5,
        act: Named = "relu",
        norm: Named | None = None,
    ) -> None:
        super().__init__(channels)
        if dilation < 1:
            raise ValueError(f"dilation is {dilation}; it must be at least 1")
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        fc6 = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=norm is None)
        fc7 = nn.Conv2d(channels, channels, 1, bias=norm is None)
        for layer in (fc6, fc7):  # without normalisation torch's own start would let the features fade
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.fc6 = nn.Sequential(fc6, *norm_act(2, channels, act, norm), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(fc7, *norm_act(2, channels, act, norm), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of fc7."""
        features: Tensor = self.fc7(self.fc6(self.pool(x)))
        return features


class PyramidPoolingHead(SceneHead):
    """Pyramid pooling: averages over grids of regions, enlarged and joined with the map; a 3x3 convolution; dropout.

    Averages are taken by 1x1 convolution to ``in_channels // len(bins)`` channels, as in the paper, or to any other
    number. In training, normalising a grid of 1x1 takes two images or more.

    Args:
        in_channels: channels of the encoder's last features.
        channels: channels of the 3x3 convolution.
        bins: regions along each axis, one entry for each grid.
        dropout: probability of dropping a channel.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        grid_channels: channels of each grid; ``None`` for ``in_channels // len(bins)``.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, h, w)`` to ``(B, channels, h, w)``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        act: Named = "relu",
        norm: Named | None = "batch",
        grid_channels: int | None = None,
    ) -> None:
        super().__init__(channels)
        if grid_channels is not None and grid_channels < 1:
            raise ValueError(f"grid_channels is {grid_channels}; it must be at least 1")
        if not 1 <= len(bins) <= in_channels or min(bins) < 1:
            raise ValueError(
                f"bins is {tuple(bins)}; give between one and {in_channels} grids (the channels are shared out among "
                "them), each of at least one region"
            )
        reduced = in_channels // len(bins) if grid_channels is None else grid_channels
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(regions),
                nn.Conv2d(in_channels, reduced, 1, bias=norm is None),
                *norm_act(2, reduced, act, norm),
            )
            for regions in bins
        )
        joined = in_channels + reduced * len(bins)
        self.fuse = nn.Sequential(*conv_norm_act(2, joined, channels, act, norm), nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features with their context."""
        maps: list[Tensor] = [x]
        for branch in self.branches:
            # a region is an area, not a point: its value belongs to its middle
            maps.append(interpolate(branch(x), size=x.shape[2:], mode="bilinear", align_corners=False))
        features: Tensor = self.fuse(torch.cat(maps, dim=1))
        return features
