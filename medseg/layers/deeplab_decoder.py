"""The decoder of DeepLabv3+: coarse context refined by the features of stride 4.

L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
https://arxiv.org/abs/1802.02611, section 3.1, with plain convolutions as it has them on ResNets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.layers.conv_block import Named, conv_norm_act
from medseg.layers.resize import resize


def index_at_stride(reductions: Sequence[int], stride: int, encoder: str) -> int:
    """Return which of an encoder's features stand at a stride: the deepest of them.

    Args:
        reductions: stride of each feature map in pixels of the image.
        stride: the stride wanted.
        encoder: the encoder's name, for the error.

    Raises:
        ValueError: if none stands there.
    """
    found = [index for index, reduction in enumerate(reductions) if reduction == stride]
    if not found:
        raise ValueError(
            f"encoder {encoder} has features at strides {', '.join(map(str, reductions))}, and none at {stride}; "
            "choose another encoder"
        )
    return found[-1]


class DeepLabDecoder(nn.Module):
    """Low-level features by a 1x1 convolution beside the enlarged context, two 3x3 convolutions, a classifier.

    Args:
        spatial_dims: 2 or 3.
        low_channels: channels of the low-level features.
        context_channels: channels of the context.
        out_channels: classes.
        reduced_channels: channels that the low-level features are cut down to.
        channels: channels of the 3x3 convolutions.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value before the classifier.
        inner_dropout: probability of dropping a value between the 3x3 convolutions.

    Raises:
        ValueError: if `inner_dropout` is out of range.

    Shape:
        low ``(B, low_channels, *S)``, context ``(B, context_channels, *S')`` to logits ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        low_channels: int,
        context_channels: int,
        out_channels: int,
        *,
        reduced_channels: int = 48,
        channels: int = 256,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= inner_dropout < 1:
            raise ValueError(f"inner_dropout is {inner_dropout}; it must be in [0, 1)")
        self.reduce = Convolution(
            spatial_dims,
            low_channels,
            reduced_channels,
            kernel_size=1,
            adn_ordering="NA",
            act=act,
            norm=norm,
            bias=norm is None,
        )
        self.refine = nn.Sequential(
            *conv_norm_act(spatial_dims, context_channels + reduced_channels, channels, act, norm),
            *([nn.Dropout(inner_dropout)] if inner_dropout else []),
            *conv_norm_act(spatial_dims, channels, channels, act, norm),
            nn.Dropout(dropout),
        )
        self.classify = Conv[Conv.CONV, spatial_dims](channels, out_channels, 1)

    def forward(self, low: Tensor, context: Tensor) -> Tensor:
        """Return logits at the size of the low-level features."""
        context = resize(context, list(low.shape[2:]))  # stride 16 to 4
        logits: Tensor = self.classify(self.refine(torch.cat([context, self.reduce(low)], 1)))
        return logits
