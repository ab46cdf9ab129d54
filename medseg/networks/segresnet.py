"""SegResNet: an asymmetric encoder and decoder of residual blocks, MONAI's.

A. Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", BrainLes 2018,
https://arxiv.org/abs/1810.11654. Deviations: MONAI's network, without the paper's variational autoencoder; images of
any size, which are padded with zeros and cut again; the first level has 8 features as MONAI's default, the paper's 32.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.segresnet import SegResNet as MonaisSegResNet
from torch import Tensor, nn

from medseg.layers.conv_block import Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import check_network_options
from medseg.layers.pad import pad_to_multiple


class SegResNet(nn.Module):
    """SegResNet.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest; each level has twice those of the one above.
        blocks: residual blocks of each level of the encoder; by default 1, then 2 a level, and 4 at the bottom.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments.
        dropout: probability of dropping a channel of the first features.

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
        channels: Sequence[int] = (8, 16, 32, 64),
        blocks: Sequence[int] | None = None,
        act: Named = ("relu", {"inplace": True}),
        norm: Named | None = ("group", {"num_groups": 8}),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if norm is None:
            raise ValueError("norm is None; give a normalisation, such as instance")
        levels = len(channels)
        if levels < 2 or list(channels) != [channels[0] * 2**level for level in range(levels)]:
            raise ValueError(f"channels is {list(channels)}; give at least two levels, each of twice the one before")
        down = list(blocks) if blocks is not None else [1, *[2] * (levels - 2), 4]
        if len(down) != levels or min(down) < 1:
            raise ValueError(f"blocks is {down}; give a number of at least 1 for each of the {levels} levels")
        self.multiples = [2 ** (levels - 1)] * spatial_dims
        self.network = MonaisSegResNet(
            spatial_dims=spatial_dims,
            init_filters=channels[0],
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=dropout or None,
            act=act,
            norm=norm,
            blocks_down=down,
            blocks_up=[1] * (levels - 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        size = x.shape[2:]
        return crop_end(self.network(pad_to_multiple(x, self.multiples)), list(size), 2)
