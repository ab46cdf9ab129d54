"""DeepLab-LargeFOV: VGG16 at output stride 8 whose first hidden layer is a 3x3 convolution of dilation 12.

L.-C. Chen, G. Papandreou, I. Kokkinos, K. Murphy, A. L. Yuille, "Semantic Image Segmentation with Deep Convolutional
Nets and Fully Connected CRFs", ICLR 2015, https://arxiv.org/abs/1412.7062: 20.5 M parameters for VOC's 21 classes, as
the paper has. Before the first hidden layer (fc6) stands the 3x3 average pooling of the authors' released network,
which the paper does not mention. Deviations:

- No conditional random field after the network.
- fc6 and fc7 start at random (He) instead of from a subsample of VGG16's hidden layers.
- Logits are enlarged inside the network, in training too; the paper compares its scores with labels made 8 times
  smaller.
- The encoder can be any that has output stride 8, and fc6 and fc7 can be normalised.
"""

from __future__ import annotations

from pathlib import Path

from medseg.encoders import create_encoder
from medseg.layers.conv_block import Named
from medseg.layers.scene_base import OUTPUT_STRIDE, SceneBase, check_scene_options
from medseg.layers.scene_heads import LargeFOVHead


class DeepLabLargeFOV(SceneBase):
    """DeepLab-LargeFOV (paper, table 2).

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, which must be able to have output stride 8.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        channels: channels of fc6 and fc7.
        dilation: of fc6.
        act: MONAI's name of the activation of fc6 and fc7, or name and arguments.
        norm: MONAI's name of the normalisation of fc6 and fc7, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value of fc6 and fc7.
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
        encoder: str = "vgg16",
        weights: str | Path | None = None,
        channels: int = 1024,
        dilation: int = 12,
        act: Named = "relu",
        norm: Named | None = None,
        dropout: float = 0.5,
        freeze_batch_norm: bool = False,
    ) -> None:
        check_scene_options(
            "DeepLab-LargeFOV", spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout
        )
        body = create_encoder(
            encoder, in_channels, output_stride=OUTPUT_STRIDE, weights=weights, freeze_batch_norm=freeze_batch_norm
        )
        head = LargeFOVHead(body.channels[-1], channels, dilation, dropout, act, norm)
        super().__init__(body, head, out_channels)
