"""The contracting path of the U-Net family."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from medseg.layers.conv_block import BlockFactory, ConvBlock, Named
from medseg.layers.network_options import PerAxis, per_level


class UNetEncoder(nn.Module):
    """Blocks of convolutions with max-pooling between them.

    Pooling rounds sizes up: at an odd edge it takes the maximum of the pixels that are there, so that no padding is
    needed for any size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: features of each level, from the finest.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        block: makes the block of each level.
        bottom: makes the block of the coarsest level; ``None`` for ``block``.
        strides: of each pooling, from the finest, one number or one an axis; ``None`` for 2.

    Shape:
        ``(B, in_channels, *S)`` to a list of ``(B, channels[i], *ceil(S / 2^i))``, finest first; with strides
        S divided by those up to level i, rounded up each time.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int],
        act: Named = "relu",
        norm: Named | None = "batch",
        block: BlockFactory = ConvBlock,
        bottom: BlockFactory | None = None,
        strides: Sequence[PerAxis] | None = None,
    ) -> None:
        super().__init__()
        factories = [block] * (len(channels) - 1) + [bottom or block]
        self.blocks = nn.ModuleList(
            factory(spatial_dims, before, after, act, norm)
            for factory, before, after in zip(factories, (in_channels, *channels[:-1]), channels, strict=True)
        )
        steps = per_level("strides", strides, 2, len(channels) - 1, spatial_dims)
        pools = [Pool[Pool.MAX, spatial_dims](stride, ceil_mode=True) for stride in steps]
        self.pools = nn.ModuleList([nn.Identity(), *pools])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level, finest first."""
        features: list[Tensor] = []
        for pool, block in zip(self.pools, self.blocks):  # noqa: B905  TorchScript knows no strict
            x = block(pool(x))
            features.append(x)
        return features
