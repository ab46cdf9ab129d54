"""U-Net with batch normalisation, the baseline of the papers.

O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
https://arxiv.org/abs/1505.04597. Deviations: padded convolutions, so that the output has the input's size, and batch
normalisation, as LFA U-Net's comparison has it (31.04 M parameters at 1 input channel and 5 classes).
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.layers.conv_block import Named
from medseg.layers.network_options import PerAxis
from medseg.layers.unet import UNetSkeleton


class UNet(UNetSkeleton):
    """U-Net.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
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
            act=act,
            norm=norm,
            dropout=dropout,
            strides=strides,
        )
