"""DeepLabv3+: context by atrous spatial pyramid pooling, edges by a small decoder.

L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
https://arxiv.org/abs/1802.02611. The defaults are those of the comparison in N. R. Gurram, "Learning context with
factorization techniques in semantic segmentation" (MFNet): ResNet-50 at output stride 16, plain convolutions. It prints
40.45 M parameters; with its 21 classes this network has 40.35 M, and what the others are it does not say. Deviations:

- The last stage of the encoder has one dilation; a multi-grid, as in that comparison's code, is
  ``multi_grid=(1, 2, 4)``.
- Image pooling's features are repeated, which interpolating one value is.
- No dropout unless asked for, as the text names none (the code: 0.5 and 0.1 after the decoder's two convolutions).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medseg.encoders import create_encoder
from medseg.layers.aspp import ASPP
from medseg.layers.conv_block import Named
from medseg.layers.deeplab_decoder import DeepLabDecoder, index_at_stride
from medseg.layers.network_options import check_network_options
from medseg.layers.resize import resize

_RATES_AT_16 = (6, 12, 18)


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ (paper, fig. 2).

    Args:
        spatial_dims: 2.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, such as ``"resnet50"``.
        weights: of the encoder: ``None``, ``"imagenet"`` or a file; see `create_encoder`.
        output_stride: stride of the coarsest features, 8, 16 or 32.
        channels: features of the pyramid and of the decoder.
        low_channels: features that the low-level ones are cut down to.
        rates: dilations of the pyramid; ``None`` for 6, 12, 18 at output stride 16, and at others those that cover
            the same pixels of the image (at 8 twice as large, as in DeepLabv3).
        act: MONAI's name of the activation, or name and arguments; not of the encoder.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none; not of the encoder.
        dropout: probability of dropping a value before the classifier.
        inner_dropout: probability of dropping a value between the decoder's two 3x3 convolutions.
        encoder_options: further arguments of `create_encoder`, such as ``freeze_batch_norm`` and ``multi_grid``.

    Raises:
        ValueError: if an option is out of range, or the encoder has no features at stride 4; in training, if batch
            normalisation gets one image alone.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str = "resnet50",
        weights: str | Path | None = None,
        output_stride: int = 16,
        channels: int = 256,
        low_channels: int = 48,
        rates: Sequence[int] | None = None,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
        **encoder_options: Any,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims is {spatial_dims}; DeepLabV3Plus is for images: choose 2")
        if channels < 1 or low_channels < 1:
            raise ValueError(f"channels is {channels}, low_channels is {low_channels}; both must be at least 1")
        self.encoder = create_encoder(
            encoder, in_channels, output_stride=output_stride, weights=weights, **encoder_options
        )
        self.low = index_at_stride(self.encoder.reductions, 4, encoder)
        if rates is None:
            rates = [rate * 16 // output_stride for rate in _RATES_AT_16]
        self.aspp = ASPP(2, self.encoder.channels[-1], channels, rates, act, norm)
        self.decoder = DeepLabDecoder(
            2,
            self.encoder.channels[self.low],
            channels,
            out_channels,
            reduced_channels=low_channels,
            channels=channels,
            act=act,
            norm=norm,
            dropout=dropout,
            inner_dropout=inner_dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the input's size."""
        features = self.encoder(x)
        logits = self.decoder(features[self.low], self.aspp(features[-1]))
        return resize(logits, list(x.shape[2:]))
