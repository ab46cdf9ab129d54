"""The U-Net family's skeleton: encoder, decoder, head; blocks, merges and enlargement can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv, Dropout
from torch import Tensor, nn

from medseg.layers.conv_block import BlockFactory, ConvBlock, Named
from medseg.layers.network_options import PerAxis, check_network_options, per_level
from medseg.layers.unet_decoder import Concatenation, DecoderLevel
from medseg.layers.unet_encoder import UNetEncoder


class UNetSkeleton(nn.Module):
    """U-Net with max-pooling and transposed convolutions; what a network changes of it is an argument.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        merge: called with the channels of a level, returns a module that takes ``(encoder, decoder)`` maps of that
            many channels each and gives one map; concatenates by default.
        merged: called with the channels of a level, returns the channels that its merge gives.
        block: makes the block of each level of encoder and decoder.
        bottom: makes the block of the coarsest level; ``None`` for ``block``.
        up: called with the channels of a level and of the next finer one, returns a module that doubles the size of
            a map and gives the finer level's channels; ``None`` for a transposed convolution.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.
        strides: between the levels, from the finest, one number or one an axis; ``None`` for 2.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, any S.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int],
        merge: Callable[[int], nn.Module] = lambda _: Concatenation(),
        merged: Callable[[int], int] = lambda fine: 2 * fine,
        block: BlockFactory = ConvBlock,
        bottom: BlockFactory | None = None,
        up: Callable[[int, int], nn.Module] | None = None,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
        strides: Sequence[PerAxis] | None = None,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels is {tuple(channels)}; give two or more levels, each of at least one channel")
        self.encoder = UNetEncoder(spatial_dims, in_channels, channels, act, norm, block, bottom, strides)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout) if dropout else nn.Identity()
        steps = per_level("strides", strides, 2, len(channels) - 1, spatial_dims)
        self.decoder = nn.ModuleList(
            DecoderLevel(
                spatial_dims, coarse, fine, merge(fine), merged(fine), act, norm, block, up and up(coarse, fine), step
            )
            for (fine, coarse), step in reversed(list(zip(pairwise(channels), steps, strict=True)))
        )
        self.head = Conv[Conv.CONV, spatial_dims](channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        features: list[Tensor] = self.encoder(x)
        x = self.dropout(features.pop())
        for level in self.decoder:
            x = level(features.pop(), x)
        logits: Tensor = self.head(x)
        return logits
