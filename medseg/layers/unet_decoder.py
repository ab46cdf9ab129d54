"""One level of the expanding path of the U-Net family."""

from __future__ import annotations

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.layers.conv_block import ConvBlock, Named
from medseg.layers.crop import crop_end


class DecoderLevel(nn.Module):
    """Enlarge by a transposed convolution, merge with the encoder's features, two convolutions.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the level below.
        fine: channels of this level.
        merge: takes ``(encoder, decoder)`` maps of ``fine`` channels each and gives one map.
        merged: channels that ``merge`` gives.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        encoder ``(B, fine, *S)``, decoder ``(B, coarse, *ceil(S / 2))`` to ``(B, fine, *S)``.
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
    ) -> None:
        super().__init__()
        self.up = Conv[Conv.CONVTRANS, spatial_dims](coarse, fine, 2, stride=2)
        self.merge = merge
        self.block = ConvBlock(spatial_dims, merged, fine, act, norm)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return this level's features."""
        enlarged = crop_end(self.up(decoder), list(encoder.shape[2:]), 2)
        result: Tensor = self.block(self.merge(encoder, enlarged))
        return result
