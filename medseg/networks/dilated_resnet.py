"""ResNet-34-dilated-8: a ResNet whose last two stages are dilated instead of strided, and a linear classifier.

F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016,
https://arxiv.org/abs/1511.07122, applied to K. He et al., https://arxiv.org/abs/1512.03385; the baseline on ADE20K of
S. Yang, G. Peng, https://arxiv.org/abs/1807.02917 (table 3), which does not say what follows the encoder. Deviations:

- One 1x1 convolution to the classes follows, the plainest choice, and bilinear enlargement; no context module.
"""

from __future__ import annotations

from pathlib import Path

from medseg.encoders import create_encoder
from medseg.layers.scene_base import OUTPUT_STRIDE, SceneBase, check_scene_options
from medseg.layers.scene_heads import PlainHead


class DilatedResNet(SceneBase):
    """A dilated ResNet with a 1x1 convolution to the classes.

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, which must be able to have output stride 8.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        dropout: probability of dropping a channel before the classifier.
        freeze_batch_norm: freeze every batch normalisation of the encoder.

    Raises:
        ValueError: if an option is out of range, or the encoder cannot have output stride 8.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str = "resnet34",
        weights: str | Path | None = None,
        dropout: float = 0.0,
        freeze_batch_norm: bool = False,
    ) -> None:
        check_scene_options("DilatedResNet", spatial_dims, in_channels, out_channels, dropout=dropout)
        body = create_encoder(
            encoder, in_channels, output_stride=OUTPUT_STRIDE, weights=weights, freeze_batch_norm=freeze_batch_norm
        )
        super().__init__(body, PlainHead(body.channels[-1], dropout), out_channels)
