"""The U-Net family's skeleton: encoder, decoder, head, with the merge of skip and decoder features left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv, Dropout
from torch import Tensor, nn

from medseg.layers.conv_block import Named
from medseg.layers.unet_decoder import DecoderLevel
from medseg.layers.unet_encoder import UNetEncoder


class UNetSkeleton(nn.Module):
    """U-Net with max-pooling and transposed convolutions; what joins skip and decoder is an argument.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        merge: called with the channels of a level, returns a module that takes ``(encoder, decoder)`` maps of that
            many channels each and gives one map.
        merged: called with the channels of a level, returns the channels that its merge gives.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.

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
        merge: Callable[[int], nn.Module],
        merged: Callable[[int], int],
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims!r}; choose 2 or 3")
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"in_channels is {in_channels}, out_channels is {out_channels}; both must be at least 1")
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"channels is {tuple(channels)}; give two or more levels, each of at least one channel")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        self.encoder = UNetEncoder(spatial_dims, in_channels, channels, act, norm)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout) if dropout else nn.Identity()
        self.decoder = nn.ModuleList(
            DecoderLevel(spatial_dims, coarse, fine, merge(fine), merged(fine), act, norm)
            for fine, coarse in reversed(list(pairwise(channels)))
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
