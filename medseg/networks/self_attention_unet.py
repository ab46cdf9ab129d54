"""U-Net with self-attention at the bottom, a baseline of the LFA paper.

R. Furukawa, K. Hotta, "Localized Feature Aggregation Module for Semantic Segmentation", SMC 2021,
https://arxiv.org/abs/2112.01702, tables 1 and 2: "U-net + self-attention". The paper says where the attention is, not
what it looks like. Deviations, or choices in its place: one head over the whole map through the layer of LFA U-Net,
without a scale as in the paper's eq. 1, added to its input, after the bottom's two convolutions; no positional
encoding. 34.19 M parameters at 1 input channel and 5 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.layers.conv_block import ConvBlock, Named
from medseg.layers.unet import UNetSkeleton
from medseg.layers.windowed_attention import WindowedAttention, received_in


class SelfAttention(nn.Module):
    """One-head attention of a map to itself, added to the map.

    Args:
        channels: channels C.
        scale: factor before the softmax; ``None`` for 1 / sqrt(C).

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S)``.
    """

    def __init__(self, channels: int, scale: float | None = 1.0) -> None:
        super().__init__()
        self.attention = WindowedAttention(channels, window_size=None, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with what each pixel attends to."""
        result: Tensor = x + self.attention(x, x)
        return result


class SelfAttentionUNet(UNetSkeleton):
    """U-Net with self-attention after the bottom's convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        scale: factor before the softmax; 1.0 as in eq. 1, ``None`` for 1 / sqrt(C).
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, any S. Memory grows with the square of the bottom's
        pixels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        scale: float | None = 1.0,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        def bottom(dims: int, before: int, after: int, act: Named, norm: Named | None) -> nn.Module:
            return nn.Sequential(ConvBlock(dims, before, after, act, norm), SelfAttention(after, scale))

        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            bottom=bottom,
            act=act,
            norm=norm,
            dropout=dropout,
        )

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return how much attention each pixel of the bottom receives from all others.

        The network runs in the mode it is in: call ``eval()`` first for what evaluation uses.

        Args:
            x: image ``(B, in_channels, *S)``.

        Returns:
            ``bottom``, ``(B, 1, *S')`` at the bottom's size: 1 where a pixel receives as much as every other, and 1 on
            average.
        """
        (layer,) = (module for module in self.encoder.modules() if isinstance(module, WindowedAttention))
        return received_in({"bottom": layer}, lambda: self.encoder(x))
