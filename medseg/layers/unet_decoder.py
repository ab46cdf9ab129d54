"""One level of the expanding path of the U-Net family."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.layers.conv_block import BlockFactory, ConvBlock, Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import PerAxis


class Concatenation(nn.Module):
    """Join the maps of encoder and decoder channel-wise: twice ``(B, C, *S)`` to ``(B, 2 C, *S)``."""

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return both maps."""
        return torch.cat([encoder, decoder], dim=1)


class DecoderLevel(nn.Module):
    """Enlarge by a transposed convolution, merge with the encoder's features, then a block.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the level below.
        fine: channels of this level.
        merge: takes ``(encoder, decoder)`` maps of ``fine`` channels each and gives one map.
        merged: channels that ``merge`` gives.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        block: makes the block.
        up: enlarges a map of ``coarse`` channels by the stride and gives ``fine``; ``None`` for a transposed
            convolution.
        stride: between the levels, an axis each.

    Shape:
        encoder ``(B, fine, *S)``, decoder ``(B, coarse, *ceil(S / stride))`` to ``(B, fine, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        coarse: int,
        fine: int,
        merge: nn.Module,
        merged: int,
        act: Named = "relu",
        norm: Named | None = "batch",
        block: BlockFactory = ConvBlock,
        up: nn.Module | None = None,
        stride: PerAxis = 2,
    ) -> None:
        super().__init__()
        self.up = Conv[Conv.CONVTRANS, spatial_dims](coarse, fine, stride, stride=stride) if up is None else up
        self.merge = merge
        self.block = block(spatial_dims, merged, fine, act, norm)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return this level's features."""
        enlarged = crop_end(self.up(decoder), list(encoder.shape[2:]), 2)
        result: Tensor = self.block(self.merge(encoder, enlarged))
        return result
