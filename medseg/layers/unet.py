"""Encoder and decoder of the U-Net family, with the merge of skip and decoder features left open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.networks.layers.factories import Conv, Dropout, Pool
from torch import Tensor, nn

from medseg.layers.conv_block import ConvBlock, crop_to, pad_to_multiple

Named = str | tuple[str, dict[str, Any]]


class UNetSkeleton(nn.Module):
    """U-Net with max-pooling and transposed convolutions; what joins skip and decoder is an argument.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        merge: called with the channels of a level, returns a module that takes ``(encoder, decoder)`` maps of that
            many channels each and gives one map.
        merged_channels: called with the channels of a level, returns the channels that ``merge`` gives.
        act: activation.
        norm: normalisation.
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
        merged_channels: Callable[[int], int],
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
        if len(channels) < 2 or min(*channels, in_channels, out_channels) < 1:
            raise ValueError(
                f"channels {tuple(channels)}, in_channels {in_channels}, out_channels {out_channels}: two or more "
                "levels are needed, of at least one channel each"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        self.stride = 2 ** (len(channels) - 1)
        pairs = list(zip(channels, channels[1:], strict=False))
        self.encoder = nn.ModuleList(
            ConvBlock(spatial_dims, below, above, act, norm)
            for below, above in zip((in_channels, *channels), channels, strict=False)
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout) if dropout else nn.Identity()
        self.up = nn.ModuleList(
            Conv[Conv.CONVTRANS, spatial_dims](coarse, fine, 2, stride=2) for fine, coarse in reversed(pairs)
        )
        self.merge = nn.ModuleList(merge(fine) for fine, _ in reversed(pairs))
        self.decoder = nn.ModuleList(
            ConvBlock(spatial_dims, merged_channels(fine), fine, act, norm) for fine, _ in reversed(pairs)
        )
        self.head = Conv[Conv.CONV, spatial_dims](channels[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        size: list[int] = list(x.shape[2:])
        x = pad_to_multiple(x, self.stride)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level > 0:
                skips.append(x)
                x = self.pool(x)
            x = block(x)
        x = self.dropout(x)
        for step, (up, merge, block) in enumerate(zip(self.up, self.merge, self.decoder)):  # noqa: B905 - TorchScript
            x = block(merge(skips[-1 - step], up(x)))
        return crop_to(self.head(x), size)
