"""LFA U-Net: encoder-decoder attention inside local windows takes the place of concatenation.

R. Furukawa, K. Hotta, "Localized Feature Aggregation Module for Semantic Segmentation", SMC 2021,
https://arxiv.org/abs/2112.01702. The paper contradicts itself on which map asks: eq. 1-2, section III-A and table 4
say the encoder, section III-B the decoder; the first is the default. Deviations, or choices where it is silent:

- Section III-B puts the module at feature maps "of 1024, 512, 256 and 64 channels". A level's map is enlarged first, by
  the U-Net's transposed convolution, which also gives it the channels of the skip, as a sum and an inner product need:
  the modules see 512, 256, 128 and 64 channels, one at each of the decoder's four levels.
- Padded keys are masked (the paper does not say).
- q, k and v have biases (28.95 M parameters at 1 input channel and 5 classes).

Training, of which the bundles' READMEs say more: eq. 3, a cosine, is given for the COVID-19 slices; the rate of the
Drosophila sections stays (their overlay ``cosine`` follows it too). The last batch of an epoch is dropped where it is
not full.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.layers.conv_block import Named
from medseg.layers.network_options import PerAxis
from medseg.layers.unet import UNetSkeleton
from medseg.layers.windowed_attention import WindowedAttention, received_in

_QUERIES = ("encoder", "decoder")
_RESIDUALS = ("encoder", "decoder", "none")


class LocalFeatureAggregation(nn.Module):
    """Attention from one feature map to another inside non-overlapping windows (paper, eq. 1-2).

    Args:
        channels: channels C of both inputs.
        window_size: edge m of a window in pixels; ``None`` attends to the whole map.
        query: the map that asks; the other one gives keys and values.
        residual: what is added to the result: ``"encoder"``, ``"decoder"`` or ``"none"`` (paper, table 4).
        scale: factor before the softmax; eq. 1 has none (1.0). ``None`` for 1 / sqrt(C).

    Raises:
        ValueError: if an option is unknown, or the two maps differ in shape.

    Shape:
        encoder, decoder ``(B, C, *S)`` to ``(B, C, *S)``.
    """

    def __init__(
        self,
        channels: int,
        window_size: int | None = 7,
        query: str = "encoder",
        residual: str = "encoder",
        scale: float | None = 1.0,
    ) -> None:
        super().__init__()
        if query not in _QUERIES:
            raise ValueError(f"query is {query!r}; choose one of {', '.join(_QUERIES)}")
        if residual not in _RESIDUALS:
            raise ValueError(f"residual is {residual!r}; choose one of {', '.join(_RESIDUALS)}")
        self.encoder_asks = query == "encoder"
        self.residual = residual
        self.attention = WindowedAttention(channels, window_size, scale)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Aggregate the features of one map for the pixels of the other."""
        result: Tensor = self.attention(encoder, decoder) if self.encoder_asks else self.attention(decoder, encoder)
        if self.residual == "encoder":
            result = result + encoder
        elif self.residual == "decoder":
            result = result + decoder
        return result


class LFAUNet(UNetSkeleton):
    """U-Net whose skip connections are local feature aggregation (paper, fig. 2).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        window_size: edge m of a window in pixels (paper, table 3); ``None`` attends to the whole map.
        query: ``"encoder"`` or ``"decoder"``.
        residual: ``"encoder"``, ``"decoder"`` or ``"none"`` (paper, table 4).
        scale: factor before the softmax; 1.0 as in eq. 1, ``None`` for 1 / sqrt(C).
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.
        strides: of the pooling between levels, from the finest, one number or one an axis; ``None`` for 2.

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
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        window_size: int | None = 7,
        query: str = "encoder",
        residual: str = "encoder",
        scale: float | None = 1.0,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
        strides: Sequence[PerAxis] | None = None,
    ) -> None:
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            merge=lambda fine: LocalFeatureAggregation(fine, window_size, query, residual, scale),
            merged=lambda fine: fine,
            act=act,
            norm=norm,
            dropout=dropout,
            strides=strides,
        )

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return how much attention each pixel receives inside its window, at each level of the decoder.

        The network runs in the mode it is in: call ``eval()`` first for what evaluation uses.

        Args:
            x: image ``(B, in_channels, *S)``.

        Returns:
            ``window_<i>`` for level i, 0 the finest, ``(B, 1, *S_i)`` at the level's size: 1 where a pixel receives as
            much as every other pixel of its window, and 1 on average over each. It is the decoder's map that receives,
            or the encoder's if ``query`` is ``"decoder"``.
        """
        merges = [module for module in self.decoder.modules() if isinstance(module, LocalFeatureAggregation)]
        levels = range(len(merges) - 1, -1, -1)  # the decoder begins with the coarsest
        layers = {f"window_{level}": merge.attention for level, merge in zip(levels, merges, strict=True)}
        return received_in(layers, lambda: self(x))
