"""Inference over scales and flips: the mean of what the network says about each view of an image.

The usual protocol on PASCAL VOC and Cityscapes, by which DF-DAM is evaluated (Z. Xiong et al., "Differentiating
Features for Scene Segmentation Based on Dedicated Attention Mechanisms", https://arxiv.org/abs/1911.08149: scales 0.5
to 2, left-right flip). What is averaged it does not say; here logits are resized to the image, then made probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.slices import fit_dimensions
from medseg.transforms.resize import resize_images


class MultiScaleFlipInferer(Inferer):
    """Average a network's probabilities over scaled and flipped views of the image.

    Probabilities are softmax over the channels, or sigmoid for one channel. Returned are the logarithm of their mean,
    or for one channel its logit: softmax, sigmoid, argmax and a threshold at 0 then hold as for the network's own
    logits. Views come one after the other and only their sum is kept, so memory does not grow with their number; nor
    are gradients kept.

    Args:
        scales: of the image's edges.
        flip_axes: spatial axes that are flipped, -1 being the last (left and right of a picture); of several, every
            combination is a view. Empty for none.
        inferer: runs the network on each view; MONAI's ``SimpleInferer`` by default.
        size_divisor: the edges of a scaled view are rounded to multiples of this.
        spatial_dims: dimensions of the network: 2 takes volumes slice by slice along their last axis. By default those
            of the inferer's window, where it has one, else those of the image.

    Raises:
        ValueError: if there is no scale, an option is out of range, or the image has not that axis.
        TypeError: if the network returns anything but logits.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``, float32.
    """

    def __init__(
        self,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        flip_axes: Sequence[int] = (-1,),
        inferer: Inferer | None = None,
        *,
        size_divisor: int = 1,
        spatial_dims: int | None = None,
    ) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise MedsegError(f"scales are {list(scales)}; give at least one, each above 0")
        if size_divisor < 1:
            raise MedsegError(f"size_divisor is {size_divisor}; it must be at least 1")
        if spatial_dims not in (None, 2, 3):
            raise MedsegError(f"spatial_dims is {spatial_dims}; it must be 2 or 3")
        self.scales = tuple(scales)
        self.flip_axes = tuple(flip_axes)
        self.inferer = inferer or SimpleInferer()
        self.size_divisor = size_divisor
        window = getattr(inferer, "roi_size", None) or getattr(inferer, "spatial_size", None)
        self.spatial_dims = len(window) if spatial_dims is None and isinstance(window, Sequence) else spatial_dims

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits of the mean probabilities at the size of ``inputs``."""
        image = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()

        def predict(x: Tensor) -> Tensor:
            return self._predict(x, lambda view: self.inferer(view, network, *args, **kwargs))

        return predict(image) if self.spatial_dims is None else fit_dimensions(image, (1,) * self.spatial_dims, predict)

    def _predict(self, image: Tensor, infer: Callable[[Tensor], Any]) -> Tensor:
        size = tuple(image.shape[2:])
        flips = self._flips(len(size))
        mean = _MeanProbability()
        for scale in self.scales:
            scaled = resize_images(image, [self._edge(edge, scale) for edge in size])
            for axes in flips:
                mean.add(_logits_of(scaled, axes, size, infer))
        return mean.logits()

    def _edge(self, edge: int, scale: float) -> int:
        return max(1, round(edge * scale / self.size_divisor)) * self.size_divisor

    def _flips(self, spatial: int) -> list[tuple[int, ...]]:
        """Return the tensor axes to flip in each view."""
        beyond = [axis for axis in self.flip_axes if not -spatial <= axis < spatial]
        axes = {axis % spatial + 2 for axis in self.flip_axes}
        if beyond or len(axes) != len(self.flip_axes):
            raise MedsegError(
                f"flip_axes are {list(self.flip_axes)}; an image of {spatial} spatial dimensions has the axes "
                f"{-spatial} to {spatial - 1}, each to be named once"
            )
        return [chosen for count in range(len(axes) + 1) for chosen in combinations(sorted(axes), count)]


def _logits_of(scaled: Tensor, axes: tuple[int, ...], size: Sequence[int], infer: Callable[[Tensor], Any]) -> Tensor:
    """Return one view's logits in the image's size and direction."""
    logits = infer(scaled.flip(axes) if axes else scaled)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the network returns a {type(logits).__name__}; views are averaged over logits alone, which networks "
            "return in evaluation: call network.eval()"
        )
    logits = resize_images(logits.float(), size)
    return logits.flip(axes) if axes else logits


class _MeanProbability:
    """Sum of probabilities over views."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.views = 0
        self.one_channel = False

    def add(self, logits: Tensor) -> None:
        """Count a view."""
        self.one_channel = logits.shape[1] == 1
        if self.one_channel:  # both sides of the sigmoid, or their logit is lost where one is 1 but for rounding
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        probability = logits.softmax(dim=1)
        self.total = probability if self.total is None else self.total.add_(probability)
        self.views += 1

    def logits(self) -> Tensor:
        """Return the logarithm of the mean, finite everywhere."""
        assert self.total is not None
        log = self.total.div_(self.views).clamp_(min=torch.finfo(self.total.dtype).tiny).log_()
        return log[:, 1:] - log[:, :1] if self.one_channel else log
