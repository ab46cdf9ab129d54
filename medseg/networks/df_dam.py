"""DF-DAM: channel attention over the high-level features of a ResNet, position attention over its low-level ones.

Z. Xiong, Z. Wang, Z. Yu, X. Gu, "Differentiating Features for Scene Segmentation Based on Dedicated Attention
Mechanisms", 2019, https://arxiv.org/abs/1911.08149. Figures 3 and 4 name no layer sizes; these were chosen to come near
the costs of tables 4 and 6. At 19 classes and 3x640x320 evaluation takes, where the paper has:

- ResNet-18: 11.54 M parameters and 10.41 G multiply-adds (11.57 and 10.31);
- ResNet-101: 43.18 M parameters and 35.27 G multiply-adds (43.24 and 35.52).

The two auxiliary classifiers, 4,902 more parameters, work in training alone and are not counted. Deviations, or rather
choices where the paper is silent:

- The 1x1 convolutions to 128 channels, the confidence map's first convolution and the refine block's are each followed
  by batch normalisation and ReLU.
- Both weight vectors come from the high-level features after they were brought to 128 channels: a global average, one
  1x1 convolution, a sigmoid. Vectors from its own 2048 channels would alone put ResNet-101 above table 6.
- The confidence map: a 3x3 convolution to a quarter of the channels, a 1x1 convolution to one, a sigmoid.
- The refine block: a 3x3 convolution at stride 4, then a 1x1 convolution to the classes.
- Whatever is enlarged, logits included, is so by bilinear interpolation with corners on one another
  (``align_corners=True``), since the encoder's padded strides put feature i on pixel ``stride * i``; so does the loss
  with the auxiliary logits. Of an edge of 32 n + 1 pixels that is exact; of the paper's crop of 1024 the last feature
  of stride 32 stands 31 pixels before the last pixel.
- The auxiliary classifiers are 1x1 convolutions, one on the spatial information before it is filtered (X^SI of eq. 9),
  one on the context information (the sum that DAFM gives). The baselines have them too.
- The baselines of tables 1 and 2 put a plain sum in the place of 2DPAM, or of both modules.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.encoders import create_encoder
from medseg.layers.conv_block import Named, conv_norm_act, norm_act
from medseg.layers.network_options import check_network_options
from medseg.layers.resize import resize

FUSIONS = ("dafm_2dpam", "dafm", "sum")
_STRIDES = (4, 16, 32)  # of stages 1, 3 and 4 of a ResNet
_CONFIDENCE_REDUCTION = 4


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bring a map to the height and width of another."""
    return resize(x, list(like.shape[2:]))


class SumFusion(nn.Module):
    """Enlarge the coarse map and add it: the baseline (paper, section 4.2).

    Shape:
        fine ``(B, C, H, W)``, coarse ``(B, C, h, w)`` to ``(B, C, H, W)``.
    """

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return the sum."""
        return fine + _enlarge(coarse, fine)


class DualAttentionFusion(nn.Module):
    """DAFM: a channel weight for each of two maps, both from the higher one, then their sum (paper, section 3.2).

    Args:
        channels: channels C of both maps.

    Shape:
        low ``(B, C, H, W)``, high ``(B, C, h, w)`` to ``(B, C, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh_high = nn.Conv2d(channels, channels, 1)
        self.weigh_low = nn.Conv2d(channels, channels, 1)

    def weights(self, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channel weights of the high and of the low map, in (0, 1), each ``(B, C, 1, 1)``."""
        pooled = high.mean(dim=(2, 3), keepdim=True)
        return self.weigh_high(pooled).sigmoid(), self.weigh_low(pooled).sigmoid()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the weighted sum (paper, eq. 7-8)."""
        of_high, of_low = self.weights(high)
        return of_low * low + _enlarge(of_high * high, low)


class PositionAttention(nn.Module):
    """2DPAM and the sum after it: context says how far to trust each pixel of the spatial map (paper, section 3.3).

    Args:
        channels: channels C of both maps, at least 4.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Shape:
        spatial ``(B, C, H, W)``, context ``(B, C, h, w)`` to ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, act: Named = "relu", norm: Named | None = "batch") -> None:
        super().__init__()
        hidden = channels // _CONFIDENCE_REDUCTION
        self.judge = nn.Sequential(*conv_norm_act(2, 2 * channels, hidden, act, norm), nn.Conv2d(hidden, 1, 1))

    def confidence(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Return the confidence map, in (0, 1), ``(B, 1, H, W)``; context at the size of the spatial map."""
        judged: Tensor = self.judge(torch.cat([spatial, context], dim=1))
        return judged.sigmoid()

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Return the filtered spatial map plus the context (paper, eq. 10)."""
        context = _enlarge(context, spatial)
        return self.confidence(spatial, context) * spatial + context


class DFDAM(nn.Module):
    """DF-DAM (paper, fig. 2).

    Args:
        spatial_dims: 2; the paper's encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: timm's name of the encoder, with features at strides 4, 16 and 32: the paper has ``"resnet18"``,
            ``"resnet50"`` and ``"resnet101"``.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        fusion: ``"dafm_2dpam"``; ``"dafm"`` alone; or ``"sum"``, the baseline (paper, tables 1 and 2).
        channels: features C that each stage is brought to, at least 4.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        freeze_batch_norm: freeze every batch normalisation of the encoder.

    Raises:
        ValueError: if an option is out of range, or the encoder lacks one of the strides.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, with a ResNet any H and W. In training a dict:
        ``pred`` as above, ``aux_spatial`` at stride 4 and ``aux_context`` at stride 16, for losses weighted 1, 0.1 and
        0.4 (eq. 12).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: str = "resnet18",
        weights: str | Path | None = None,
        fusion: str = "dafm_2dpam",
        channels: int = 128,
        act: Named = "relu",
        norm: Named | None = "batch",
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=0.0)
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims is {spatial_dims}; DF-DAM's encoders are for 2D images: give 2")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; choose one of {', '.join(FUSIONS)}")
        if channels < _CONFIDENCE_REDUCTION:
            raise ValueError(f"channels is {channels}; it must be at least {_CONFIDENCE_REDUCTION}")
        self.encoder = create_encoder(encoder, in_channels, weights=weights, freeze_batch_norm=freeze_batch_norm)
        strides = self.encoder.reductions
        if not set(_STRIDES) <= set(strides):
            raise ValueError(
                f"encoder {encoder!r} has features at strides {', '.join(map(str, strides))}; DF-DAM takes those at "
                f"{', '.join(map(str, _STRIDES))}: choose another, such as 'resnet18'"
            )
        self.stages = tuple(strides.index(stride) for stride in _STRIDES)

        def convert(stage: int) -> nn.Sequential:
            convolution = nn.Conv2d(self.encoder.channels[self.stages[stage]], channels, 1, bias=norm is None)
            return nn.Sequential(convolution, *norm_act(2, channels, act, norm))

        self.convert_low, self.convert_middle, self.convert_high = convert(0), convert(1), convert(2)
        self.context_fusion = SumFusion() if fusion == "sum" else DualAttentionFusion(channels)
        self.spatial_fusion = PositionAttention(channels, act, norm) if fusion == "dafm_2dpam" else SumFusion()
        self.refine = nn.Sequential(*conv_norm_act(2, channels, channels, act, norm))
        self.classify = nn.Conv2d(channels, out_channels, 1)
        self.classify_spatial = nn.Conv2d(channels, out_channels, 1)
        self.classify_context = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the input's size; in training the auxiliary ones too."""
        spatial, middle, high = self.features(x)
        context = self.context_fusion(middle, high)
        refined = self.refine(self.spatial_fusion(spatial, context))
        pred = _enlarge(self.classify(refined), x)
        if not self.training:
            return pred
        return {
            "pred": pred,
            "aux_spatial": self.classify_spatial(spatial),
            "aux_context": self.classify_context(context),
        }

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return stages 1, 3 and 4, each ``(B, C, h, w)``: spatial information and the two that make the context.

        Args:
            x: image ``(B, in_channels, H, W)``.
        """
        stages = self.encoder(x)
        low, middle, high = self.stages
        return self.convert_low(stages[low]), self.convert_middle(stages[middle]), self.convert_high(stages[high])

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return the weights that the modules give to an image, in (0, 1), and what they weigh; a plain sum gives none.

        The network runs in the mode it is in: call ``eval()`` first for what evaluation uses.

        Args:
            x: image ``(B, in_channels, H, W)``.

        Returns:
            ``dafm_3_high`` and ``dafm_3_low``, ``(B, C)``: channel weights of stage 4 and of stage 3 in their fusion at
            the size of stage 3 (fig. 7). ``confidence``, ``(B, 1, h, w)`` at stride 4: 2DPAM's map (fig. 8). Beside the
            weights ``dafm_3_maps``, ``(B, C, h, w)`` at stride 16, features and not bounded: the maps of stage 3 that
            ``dafm_3_low`` weighs, of which fig. 8 shows three.
        """
        spatial, middle, high = self.features(x)
        maps: dict[str, Tensor] = {}
        if isinstance(self.context_fusion, DualAttentionFusion):
            of_high, of_low = self.context_fusion.weights(high)
            maps |= {"dafm_3_high": of_high.flatten(1), "dafm_3_low": of_low.flatten(1), "dafm_3_maps": middle}
        if isinstance(self.spatial_fusion, PositionAttention):
            context = _enlarge(self.context_fusion(middle, high), spatial)
            maps["confidence"] = self.spatial_fusion.confidence(spatial, context)
        return maps
