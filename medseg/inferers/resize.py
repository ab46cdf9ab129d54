"""Inference at the one size that a network was trained at, for images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.blocks import Block, BlockInferer, blocks_of, gather
from medseg.inferers.regrid import resized
from medseg.inferers.slices import SLICES_AT_ONCE, fit_dimensions
from medseg.transforms.resize import resize_images


class ResizeInferer(BlockInferer):
    """Resize the image, run another inferer, bring the logits back to the image's size.

    The image is resized as `medseg.transforms.resize.ResizeImagesd` does it in training, so that the network sees what
    it was trained on; logits come back by linear interpolation.

    Args:
        spatial_size: size in pixels that the network runs at, one edge an axis.
        inferer: runs the network on the resized image; MONAI's ``SimpleInferer`` by default.

    Raises:
        MedsegError: if an edge is below 1, or their number does not fit the image's axes.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``, any S. With two edges, ``S`` may be ``(H, W, D)``: slices along the last
        axis.
    """

    def __init__(self, spatial_size: Sequence[int], inferer: Inferer | None = None) -> None:
        super().__init__()
        if not spatial_size or min(spatial_size) < 1:
            raise MedsegError(f"spatial_size is {list(spatial_size)}; give an edge of at least 1 pixel for each axis")
        self.spatial_size = tuple(spatial_size)
        self.inferer = inferer or SimpleInferer()

    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give the logits at the size of ``inputs``, in blocks."""

        def predict(x: Tensor) -> Iterator[Block]:
            small = resize_images(x.float(), self.spatial_size)
            logits = blocks_of(self.inferer, small, network, *args, **kwargs)
            yield from resized(logits, self.spatial_size, x.shape[2:])

        yield from fit_dimensions(inputs, self.spatial_size, predict)

    def several(self, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
        """Give the logits of several images in blocks; all are resized to one size, and go through at once."""
        if not all(image.ndim - 2 == len(self.spatial_size) for image in images):
            yield from super().several(images, network)
            return
        small = torch.cat([resize_images(image.float(), self.spatial_size) for image in images])
        logits = gather(blocks_of(self.inferer, small, network), (len(images), *self.spatial_size))
        at = (slice(0, 1), *(slice(0, edge) for edge in self.spatial_size))
        for number, image in enumerate(images):
            own = Block(at, logits[number : number + 1])
            for block in resized([own], self.spatial_size, image.shape[2:]):
                yield number, block

    def one_forward(self, size: Sequence[int]) -> bool:
        """Return whether an image has the network's axes, whatever its size."""
        return len(size) == len(self.spatial_size)

    def held(self, size: Sequence[int]) -> int:
        """Return the voxels of the network's size; a block on the image's is small."""
        return math.prod(self.spatial_size) * (SLICES_AT_ONCE if len(size) > len(self.spatial_size) else 1)
