"""Inference over scales and flips: the mean of what the network says about each view of an image.

The usual protocol on PASCAL VOC and Cityscapes, by which DF-DAM is evaluated (Z. Xiong et al., "Differentiating
Features for Scene Segmentation Based on Dedicated Attention Mechanisms", https://arxiv.org/abs/1911.08149: scales 0.5
to 2, left-right flip). What is averaged it does not say; here logits are resized to the image, then made probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.blocks import Block, BlockInferer, check_logits, whole
from medseg.inferers.slices import fit_dimensions
from medseg.inferers.sliding_window import SlidingWindow
from medseg.transforms.resize import resize_images


class MultiScaleFlipInferer(BlockInferer):
    """Average a network's probabilities over scaled and flipped views of the image.

    Probabilities are softmax over the channels, or sigmoid for one channel. Returned are the logarithm of their mean,
    or for one channel its logit: softmax, sigmoid, argmax and a threshold at 0 then hold as for the network's own
    logits. Views come one after the other and only their sum is kept, so memory does not grow with their number; nor
    are gradients kept.

    Flips alone of a `SlidingWindow` (``scales`` of 1) are of each window, so that memory is that of the window: where
    windows overlap, it is probabilities whose weighted mean is taken. That is the same as of flipped images where the
    windows lie symmetrically, along each axis: one window on an image of its size or smaller by an even number, two, or
    any number if the last one needs no shift to end with the image. Elsewhere a flipped image would be cut into other
    windows; neither cut is the right one.

    Args:
        scales: of the image's edges.
        flip_axes: spatial axes that are flipped, -1 being the last (left and right of a picture); of several, every
            combination is a view. Empty for none.
        inferer: runs the network on each view; MONAI's ``SimpleInferer`` by default.
        size_divisor: the edges of a scaled view are rounded to multiples of this.
        spatial_dims: dimensions of the network: 2 takes volumes slice by slice along their last axis. By default those
            of the inferer's window, where it has one, else those of the image.

    Raises:
        MedsegError: if there is no scale, an option is out of range, the image has not that axis, or the network
            returns anything but logits.

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
    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give logits of the mean probabilities at the size of ``inputs``, in blocks."""
        image = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()

        channels: set[int] = set()

        def views_of(x: Tensor) -> Tensor:
            return self._mean([x], tuple(x.shape[2:]), lambda view: network(view, *args, **kwargs), channels)

        def predict(x: Tensor) -> Iterator[Block]:
            size = tuple(x.shape[2:])
            scaled = (resize_images(x, [self._edge(edge, scale) for edge in size]) for scale in self.scales)
            mean = self._mean(scaled, size, lambda view: self.inferer(view, network, *args, **kwargs), channels)
            yield whole(x, _logits(mean, channels))

        if self.scales == (1.0,) and isinstance(self.inferer, SlidingWindow):
            for at, probability in self.inferer.blocks(image, views_of):
                yield Block(at, _logits(probability, channels))
        elif self.spatial_dims is None:
            yield from predict(image)
        else:
            yield from fit_dimensions(image, (1,) * self.spatial_dims, predict)

    @torch.no_grad()
    def several(self, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
        """Give the logits of several images; where views are of each window, windows of several share a forward."""
        if self.scales != (1.0,) or not isinstance(self.inferer, SlidingWindow):
            yield from super().several(images, network)
            return
        channels: set[int] = set()

        def views_of(x: Tensor) -> Tensor:
            return self._mean([x], tuple(x.shape[2:]), network, channels)

        for number, (at, probability) in self.inferer.several([image.float() for image in images], views_of):
            yield number, Block(at, _logits(probability, channels))

    def one_forward(self, size: Sequence[int]) -> bool:
        """Return whether an image is one window, whose views are then made at once."""
        return self.scales == (1.0,) and isinstance(self.inferer, SlidingWindow) and self.inferer.one_forward(size)

    def held(self, size: Sequence[int]) -> int:
        """Return what windows overlap where views are of each window, else an image and the view that is added."""
        if self.scales == (1.0,) and isinstance(self.inferer, SlidingWindow):
            return self.inferer.held(size)
        return round((1 + max(self.scales) ** len(size)) * math.prod(size))

    def _mean(
        self, scaled: Iterable[Tensor], size: Sequence[int], infer: Callable[[Tensor], Any], channels: set[int]
    ) -> Tensor:
        """Return the mean probability over the flips of images, at one size, and note the network's channels."""
        total: Tensor | None = None
        views = 0
        for image in scaled:
            for axes in self._flips(len(size)):
                view = image.flip(axes) if axes else image
                logits = infer(view)
                check_logits(view, logits)
                channels.add(logits.shape[1])
                probability = _probability(logits, axes, size)
                del view, logits
                total = probability if total is None else total.add_(probability)
                del probability
                views += 1
        assert total is not None
        return total.div_(views)

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


def _probability(logits: Tensor, axes: tuple[int, ...], size: Sequence[int]) -> Tensor:
    """Return one view's probabilities in the image's size and direction; of one channel, those of both its classes."""
    logits = resize_images(logits.float(), size)
    if logits.shape[1] == 1:  # or their logit is lost where one of the two is 1 but for rounding
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return (logits.flip(axes) if axes else logits).softmax(dim=1)


def _logits(probability: Tensor, channels: set[int]) -> Tensor:
    """Return the logarithm of probabilities, finite everywhere, or of one channel its logit."""
    log = probability.clamp_(min=torch.finfo(probability.dtype).tiny).log_()
    return log[:, 1:] - log[:, :1] if channels == {1} else log
