"""A network for one scale, applied to an image at several: streams that share it, and scores merged by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]
from torch.nn.functional import interpolate

from medseg.layers.resize import resize
from medseg.layers.scale_attention import ScaleAttention
from medseg.layers.scene_base import SceneBase
from medseg.layers.scene_heads import SceneHead

_PENULTIMATE = -1
_STRIDE = 4  # of the attention's maps where it reads several stages


def _whole(length: float) -> int:
    if is_scripting() or is_tracing():  # type: ignore[no-untyped-call]
        return int(length)
    else:
        return torch.sym_int(length)  # of a size that an exporter leaves open int() would make a constant


class MultiScaleBase(SceneBase):
    """A base shared by all scales; what is made of its scores is the subclass's `combine`.

    Args:
        encoder: gives a list of features, finest first.
        head: from the last of them to the features that the classifier reads.
        out_channels: classes.
        scales: factors of the image's size.
        stages: which of the encoder's features `combine` gets beside the penultimate ones.

    Raises:
        ValueError: if a scale is not above 0, or there is none.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W. In training a dict: ``pred`` as above,
        and ``aux_scale_<i>``, the scores of scale i at their own resolution.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: SceneHead,
        out_channels: int,
        scales: Sequence[float],
        stages: Sequence[int] = (),
    ) -> None:
        super().__init__(encoder, head, out_channels)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales is {tuple(scales)}; give one or more factors above 0")
        self.scales = [float(scale) for scale in scales]
        self.finest = self.scales.index(max(self.scales))
        self.columns = [*stages, _PENULTIMATE]

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the input's size; in training each scale's own scores too."""
        features, scores = self.streams(x)
        size = list(x.shape[2:])
        pred = resize(self.combine(features, scores, size), size)
        if not self.training:
            return pred
        outputs: dict[str, Tensor] = {"pred": pred}
        for scale, score in enumerate(scores):
            outputs["aux_scale_" + str(scale)] = score
        return outputs

    def streams(self, x: Tensor) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Return the wanted features of each scale, penultimate ones last, and its class scores, as they come.

        Args:
            x: image ``(B, in_channels, H, W)``.
        """
        features: list[list[Tensor]] = []
        scores: list[Tensor] = []
        for scale in self.scales:
            image = x
            if scale != 1.0:
                # half of 8 n + 1 pixels are 8 m + 1 pixels for even n, so that the maps' pixels lie on each other
                size = [_whole((length - 1) * scale) + 1 for length in x.shape[2:]]
                image = interpolate(x, size=size, mode="bilinear", align_corners=False)
            stages, penultimate, score = self.describe(image)
            stages.append(penultimate)
            features.append([stages[column] for column in self.columns])
            scores.append(score)
        return features, scores

    def combine(self, features: list[list[Tensor]], scores: list[Tensor], size: list[int]) -> Tensor:
        """Return one map of class scores.

        Args:
            features: of each scale, as `streams` gives them.
            scores: of each scale.
            size: height and width of the image in pixels.
        """
        raise NotImplementedError


class AttentiveMultiScale(MultiScaleBase):
    """Scores of all scales, summed with weights for each scale and pixel, and perhaps recalibrated for each class.

    Args:
        encoder: gives a list of features, finest first.
        head: from the last of them to the features that the classifier reads.
        out_channels: classes.
        scales: factors of the image's size.
        attend: gives the maps, from features of all scales.
        stages: which of the encoder's features it reads beside the penultimate ones. With some, its maps have 1/4 of
            the input's size; without, the finest penultimate features' size.
        adds: whether recalibration is added to the scores; else they are multiplied by it.

    Raises:
        ValueError: if a scale is not above 0, or there is none.

    Shape:
        as :class:`MultiScaleBase`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: SceneHead,
        out_channels: int,
        scales: Sequence[float],
        attend: ScaleAttention,
        *,
        stages: Sequence[int] = (),
        adds: bool = False,
    ) -> None:
        super().__init__(encoder, head, out_channels, scales, stages)
        self.attend = attend
        self.adds = adds
        self.stride = _STRIDE  # TorchScript reads no globals

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps that an image is given.

        The network runs in the mode it is in: call ``eval()`` first for what evaluation uses.

        Args:
            x: image ``(B, in_channels, H, W)``.

        Returns:
            ``scale_weights`` ``(B, S, h, w)``: the weight of each scale, in [0, 1], with a sum of one. If there is a
            recalibration, ``recalibration`` ``(B, out_channels, h, w)``: its factor, or what it adds, in [0, 1].
        """
        return self.maps(self.streams(x)[0], list(x.shape[2:]))

    def maps(self, features: list[list[Tensor]], size: list[int]) -> dict[str, Tensor]:
        """Return what `attention` does.

        Args:
            features: of each scale, as `streams` gives them.
            size: height and width of the image in pixels.
        """
        grid = list(features[self.finest][0].shape[2:])
        if len(self.columns) > 1:
            grid = [(length + self.stride - 1) // self.stride for length in size]
        columns: list[Tensor] = []
        for scale in features:
            columns.append(torch.cat([resize(one, grid) for one in scale], dim=1))
        maps: dict[str, Tensor] = self.attend(columns)
        return maps

    def combine(self, features: list[list[Tensor]], scores: list[Tensor], size: list[int]) -> Tensor:
        """Return the weighted and recalibrated scores at the maps' size.

        All scales share the recalibration, and their weights sum to one: it is applied to the sum.
        """
        maps = self.maps(features, size)
        weights = maps["scale_weights"]
        grid = list(weights.shape[2:])
        merged = weights[:, :1] * resize(scores[0], grid)
        for scale in range(1, len(scores)):
            merged = merged + weights[:, scale : scale + 1] * resize(scores[scale], grid)
        if "recalibration" not in maps:
            return merged
        return merged + maps["recalibration"] if self.adds else merged * maps["recalibration"]
