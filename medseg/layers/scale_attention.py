"""Attention over the scales of an image: how much each counts at each pixel, and how far each class is trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.layers.conv_block import Named, conv_norm_act, norm_act


class ScaleAttention(nn.Module):
    """From the features of each scale to a weight for each scale and pixel, and a recalibration for each class.

    S. Yang, G. Peng, https://arxiv.org/abs/1807.02917, section 2; without recalibration and convolutions of their own
    for the scales it is that of L.-C. Chen et al., https://arxiv.org/abs/1511.03339.

    Args:
        in_channels: channels C of each scale's features.
        out_channels: classes.
        dilations: of each scale's own 3x3 convolution; ``None``, one for each scale, for no such convolutions.
        location: whether to weight scales by a softmax, which takes two or more; else all weigh the same.
        recalibration: whether to recalibrate classes by a sigmoid.
        scale_channels: channels of each scale's own convolution.
        channels: channels between the two convolutions of a head.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if an option is out of range, or there is one scale to weight.

    Shape:
        a list of S tensors ``(B, C, h, w)`` to ``scale_weights`` ``(B, S, h, w)`` and, with recalibration,
        ``recalibration`` ``(B, out_channels, h, w)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int | None],
        *,
        location: bool = True,
        recalibration: bool = True,
        scale_channels: int = 256,
        channels: int = 512,
        act: Named = "relu",
        norm: Named | None = None,
    ) -> None:
        super().__init__()
        self.scales = len(dilations)
        if location and self.scales < 2:
            raise ValueError(f"scales has {self.scales} entry; weights are for two or more scales")
        if channels < 1 or scale_channels < 1:
            raise ValueError(f"channels is {channels}, scale_channels is {scale_channels}; both must be at least 1")
        self.own = nn.ModuleList()
        joined = 0
        for dilation in dilations:
            if dilation is None:
                self.own.append(nn.Identity())
                joined += in_channels
                continue
            if dilation < 1:
                raise ValueError(f"dilations has {dilation}; each must be at least 1")
            convolution = nn.Conv2d(
                in_channels, scale_channels, 3, padding=dilation, dilation=dilation, bias=norm is None
            )
            self.own.append(nn.Sequential(convolution, *norm_act(2, scale_channels, act, norm)))
            joined += scale_channels

        def head(outputs: int) -> nn.Sequential:
            return nn.Sequential(*conv_norm_act(2, joined, channels, act, norm), nn.Conv2d(channels, outputs, 1))

        self.location = head(self.scales) if location else None
        self.recalibration = head(out_channels) if recalibration else None

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return the maps by name."""
        own: list[Tensor] = []
        for scale, layer in enumerate(self.own):
            own.append(layer(features[scale]))
        joined = torch.cat(own, dim=1)
        maps: dict[str, Tensor] = {}
        if self.location is not None:
            maps["scale_weights"] = self.location(joined).softmax(dim=1)
        else:
            shape = [joined.shape[0], self.scales, joined.shape[2], joined.shape[3]]
            maps["scale_weights"] = joined.new_full(shape, 1 / self.scales)
        if self.recalibration is not None:
            maps["recalibration"] = self.recalibration(joined).sigmoid()
        return maps
