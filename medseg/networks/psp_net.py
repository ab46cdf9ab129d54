"""PSPNet: pyramid pooling on the features of a dilated ResNet.

H. Zhao, J. Shi, X. Qi, X. Wang, J. Jia, "Pyramid Scene Parsing Network", CVPR 2017, https://arxiv.org/abs/1612.01105.
Deviations:

- ResNet-34, without the auxiliary loss, as S. Yang, G. Peng, https://arxiv.org/abs/1807.02917 (table 3) compare with
  it; the paper has ResNet-50 and deeper ones with another first layer, and the loss.
- Between the joined maps and the classifier stands a 3x3 convolution to 512 channels with dropout of 0.1, which the
  paper does not mention; it is in what its authors released.
- The grids' maps are enlarged by their regions' borders (``align_corners=False``), scores by the centres of their
  corner pixels, as in all scene networks here.
- Of the paper's variants only the best is here: average pooling, with fewer channels of each grid (table 1): those of
  the encoder's last features shared out among the grids. CSAILVision/semantic-segmentation-pytorch, which that
  comparison seems to have used (see `multi_scale`), has 512 for each: ``grid_channels=512``. Its first layers, three
  3x3 convolutions in place of one 7x7, are not here: no weights of a ResNet-34 with them are published by timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.encoders import create_encoder
from medseg.layers.conv_block import Named
from medseg.layers.scene_base import OUTPUT_STRIDE, SceneBase, check_scene_options
from medseg.layers.scene_heads import PyramidPoolingHead


class PSPNet(SceneBase):
    """PSPNet (paper, fig. 3).

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, which must be able to have output stride 8.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        channels: channels of the 3x3 convolution before the classifier.
        bins: regions along each axis, one entry for each grid of the pyramid.
        act: MONAI's name of the head's activation, or name and arguments.
        norm: MONAI's name of the head's normalisation, or name and arguments; ``None`` for none. With batch
            normalisation training takes two images at a time or more.
        dropout: probability of dropping a channel before the classifier.
        freeze_batch_norm: freeze every batch normalisation of the encoder.
        grid_channels: channels of each grid; ``None`` for those of the encoder's last features shared out among them.

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
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.1,
        freeze_batch_norm: bool = False,
        grid_channels: int | None = None,
    ) -> None:
        check_scene_options("PSPNet", spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        body = create_encoder(
            encoder, in_channels, output_stride=OUTPUT_STRIDE, weights=weights, freeze_batch_norm=freeze_batch_norm
        )
        head = PyramidPoolingHead(body.channels[-1], channels, bins, dropout, act, norm, grid_channels)
        super().__init__(body, head, out_channels)
