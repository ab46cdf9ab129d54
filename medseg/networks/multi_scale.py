"""A network applied to an image at several scales, its scores joined: by pooling, by attention, by refined attention.

S. Yang, G. Peng, "Attention to Refine through Multi-Scales for Semantic Segmentation", 2018,
https://arxiv.org/abs/1807.02917 (`MultiScaleRefinement`), and what it compares with: L.-C. Chen, Y. Yang, J. Wang,
W. Xu, A. L. Yuille, "Attention to Scale: Scale-Aware Semantic Image Segmentation", CVPR 2016,
https://arxiv.org/abs/1511.03339 (`AttentionToScale`, `MultiScalePooling`). Where the refinement's paper contradicts
itself or is silent:

- Equations 3 and 4 both print the sum over scales; it is taken once.
- Section 2.1 gives the large dilation to the small scale, section 3 "2 for small scale and 12 for large scale". The
  default is section 3; ``dilations={1.0: 2, 0.5: 12}`` is the other.
- The hypercolumn holds the encoder's stages from stride 4 on, without the last, which the base's head reads, and the
  penultimate features. Those of every scale are brought to 1/4 of the input's size, not of the scaled image's.
- Each scale's convolution has 256 channels. The heads are attention-to-scale's: 3x3 to 512 channels, 1x1. Neither has
  a normalisation.
- The variant with an added bias keeps the sigmoid.
- Of table 2, the first row is `AttentionToScale`; the second has dilation 1 at every scale and no recalibration, the
  third the dilations, the fourth both.

- Training: what is not the encoder, fc6 and fc7 included, is taken for the decoder, whose rate is ten times the
  encoder's.

Deviations from both: images are scaled without filtering against aliasing, and aligned at their borders, whereas
features and scores are aligned at the centres of their corner pixels, up to half a pixel of the image apart; scores,
too, are merged at the size of the attention's maps (without attention at the finest scores'), and the result is
enlarged.

Table 3 (ADE20K): its figures and names for the base alone and with pyramid pooling, 32.67 / 76.41 and 36.43 / 78.01,
are nearly those of CSAILVision/semantic-segmentation-pytorch in December 2017 (its commit 0fb1223: 32.77 / 76.47 and
36.12 / 77.94), whose recipe the bundle refine_multi_scale_ade20k has. That the paper used it is an inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from medseg.encoders import Encoder, create_encoder
from medseg.layers.conv_block import Named
from medseg.layers.multi_scale import AttentiveMultiScale, MultiScaleBase
from medseg.layers.resize import resize
from medseg.layers.scale_attention import ScaleAttention
from medseg.layers.scene_base import BASES, OUTPUT_STRIDE, check_base, check_scene_options, make_head

MERGES = ("average", "max")
RECALIBRATIONS = ("multiply", "add", "none")
SCALES = (1.0, 0.5)
DILATIONS: Mapping[float, int] = MappingProxyType({1.0: 12, 0.5: 2})
_FINEST_STRIDE = 4  # of the stages that the refinement reads


class MultiScalePooling(MultiScaleBase):
    """Scores of all scales pooled: the greatest or the mean of each class and pixel.

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        base: the network for one scale: ``"largefov"``, ``"resnet34_dilated"`` or ``"resnet34_psp"``.
        scales: factors of the image's size.
        merge: ``"average"`` or ``"max"``.
        encoder: timm's name of the encoder, which must be able to have output stride 8; ``None`` for the base's own.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        head_options: of the base's head, such as ``{"channels": 512, "dropout": 0.1}``; the rest is as the base has it.
        freeze_batch_norm: freeze every batch normalisation of the encoder.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W. In training a dict: ``pred`` as above,
        and ``aux_scale_<i>``, the scores of scale i at an eighth of the scaled image's size.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        base: str = "largefov",
        scales: Sequence[float] = SCALES,
        merge: str = "average",
        encoder: str | None = None,
        weights: str | Path | None = None,
        head_options: Mapping[str, Any] | None = None,
        freeze_batch_norm: bool = False,
    ) -> None:
        if merge not in MERGES:
            raise ValueError(f"merge is {merge!r}; choose one of {', '.join(MERGES)}")
        check_scene_options("MultiScalePooling", spatial_dims, in_channels, out_channels)
        body = _encoder(base, encoder, in_channels, weights, freeze_batch_norm)
        super().__init__(body, make_head(base, body.channels[-1], head_options or {}), out_channels, scales)
        self.merge = merge

    def combine(self, features: list[list[Tensor]], scores: list[Tensor], size: list[int]) -> Tensor:
        """Return the pooled scores at the finest scores' size."""
        grid = list(scores[self.finest].shape[2:])
        stacked = torch.stack([resize(score, grid) for score in scores])  # (S, B, classes, h, w)
        return stacked.amax(dim=0) if self.merge == "max" else stacked.mean(dim=0)


class AttentionToScale(AttentiveMultiScale):
    """Scores of all scales, weighted at each pixel by what the penultimate features of all scales say (Chen et al.).

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        base: the network for one scale: ``"largefov"``, ``"resnet34_dilated"`` or ``"resnet34_psp"``.
        scales: factors of the image's size, two or more.
        channels: channels between the attention's two convolutions.
        encoder: timm's name of the encoder, which must be able to have output stride 8; ``None`` for the base's own.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        head_options: of the base's head, such as ``{"channels": 512, "dropout": 0.1}``; the rest is as the base has it.
        act: MONAI's name of the attention's activation, or name and arguments.
        norm: MONAI's name of the attention's normalisation, or name and arguments; ``None`` for none.
        freeze_batch_norm: freeze every batch normalisation of the encoder.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        as :class:`MultiScalePooling`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        base: str = "largefov",
        scales: Sequence[float] = SCALES,
        channels: int = 512,
        encoder: str | None = None,
        weights: str | Path | None = None,
        head_options: Mapping[str, Any] | None = None,
        act: Named = "relu",
        norm: Named | None = None,
        freeze_batch_norm: bool = False,
    ) -> None:
        check_scene_options("AttentionToScale", spatial_dims, in_channels, out_channels, act=act, norm=norm)
        body = _encoder(base, encoder, in_channels, weights, freeze_batch_norm)
        head = make_head(base, body.channels[-1], head_options or {})
        attend = ScaleAttention(
            head.out_channels,
            out_channels,
            [None] * len(scales),
            recalibration=False,
            channels=channels,
            act=act,
            norm=norm,
        )
        super().__init__(body, head, out_channels, scales, attend)


class MultiScaleRefinement(AttentiveMultiScale):
    """Scores of all scales, weighted at each pixel and recalibrated for each class, from features of several stages.

    Args:
        spatial_dims: 2; the encoders are for 2D images.
        in_channels: channels of the image.
        out_channels: classes.
        base: the network for one scale: ``"largefov"``, ``"resnet34_dilated"`` or ``"resnet34_psp"``.
        scales: factors of the image's size.
        stages: which of the encoder's features the attention reads beside the penultimate ones, by timm's count;
            ``None`` for those from stride 4 on but the last. Without any, its maps have the penultimate features' size.
        dilations: of each scale's own convolution, by scale; 1 everywhere for plain ones (paper, table 2).
        location: whether to weight the scales; else all weigh the same.
        recalibration: ``"multiply"``, ``"add"`` (costs about 1 % in the paper) or ``"none"``.
        scale_channels: channels of each scale's own convolution.
        channels: channels between the two convolutions of a head.
        encoder: timm's name of the encoder, which must be able to have output stride 8; ``None`` for the base's own.
        weights: of the encoder: ``None`` for random ones, ``"imagenet"``, or a file, as in
            :func:`medseg.encoders.create_encoder`.
        head_options: of the base's head, such as ``{"channels": 512, "dropout": 0.1}``; the rest is as the base has it.
        act: MONAI's name of the attention's activation, or name and arguments.
        norm: MONAI's name of the attention's normalisation, or name and arguments; ``None`` for none.
        freeze_batch_norm: freeze every batch normalisation of the encoder.

    Raises:
        ValueError: if an option is out of range, or neither head is left.

    Shape:
        as :class:`MultiScalePooling`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        base: str = "largefov",
        scales: Sequence[float] = SCALES,
        stages: Sequence[int] | None = None,
        dilations: Mapping[float, int] = DILATIONS,
        location: bool = True,
        recalibration: str = "multiply",
        scale_channels: int = 256,
        channels: int = 512,
        encoder: str | None = None,
        weights: str | Path | None = None,
        head_options: Mapping[str, Any] | None = None,
        act: Named = "relu",
        norm: Named | None = None,
        freeze_batch_norm: bool = False,
    ) -> None:
        if recalibration not in RECALIBRATIONS:
            raise ValueError(f"recalibration is {recalibration!r}; choose one of {', '.join(RECALIBRATIONS)}")
        if not location and recalibration == "none":
            raise ValueError("without location and recalibration nothing is refined; use MultiScalePooling")
        check_scene_options("MultiScaleRefinement", spatial_dims, in_channels, out_channels, act=act, norm=norm)
        of_scales = _dilations(scales, dilations)
        body = _encoder(base, encoder, in_channels, weights, freeze_batch_norm)
        head = make_head(base, body.channels[-1], head_options or {})
        columns = _stages(stages, body.reductions)
        attend = ScaleAttention(
            sum(body.channels[column] for column in columns) + head.out_channels,
            out_channels,
            of_scales,
            location=location,
            recalibration=recalibration != "none",
            scale_channels=scale_channels,
            channels=channels,
            act=act,
            norm=norm,
        )
        super().__init__(body, head, out_channels, scales, attend, stages=columns, adds=recalibration == "add")


def _encoder(
    base: str, encoder: str | None, in_channels: int, weights: str | Path | None, freeze_batch_norm: bool
) -> Encoder:
    check_base(base)
    return create_encoder(
        BASES[base].encoder if encoder is None else encoder,
        in_channels,
        output_stride=OUTPUT_STRIDE,
        weights=weights,
        freeze_batch_norm=freeze_batch_norm,
    )


def _dilations(scales: Sequence[float], dilations: Mapping[float, int]) -> list[int]:
    """Return the dilation of each scale, in the order of the scales."""
    by_scale = {float(scale): dilation for scale, dilation in dilations.items()}  # JSON has strings for keys
    if set(by_scale) != {float(scale) for scale in scales}:
        raise ValueError(
            f"dilations is {by_scale}, but scales is {tuple(scales)}; give one dilation for each scale, such as "
            f"dilations={dict(DILATIONS)} for scales={SCALES}"
        )
    return [by_scale[float(scale)] for scale in scales]


def _stages(stages: Sequence[int] | None, strides: Sequence[int]) -> list[int]:
    """Return the stages that the attention reads."""
    if stages is None:
        return [stage for stage, stride in enumerate(strides[:-1]) if stride >= _FINEST_STRIDE]
    wrong = [stage for stage in stages if not 0 <= stage < len(strides)]
    if wrong or len(set(stages)) < len(stages):
        raise ValueError(
            f"stages is {tuple(stages)}; the encoder has features 0 to {len(strides) - 1}, of strides "
            f"{', '.join(map(str, strides))}: name each at most once"
        )
    return list(stages)
