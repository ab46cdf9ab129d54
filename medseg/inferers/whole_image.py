"""The whole image at once; a volume for a 2D network slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from medseg.inferers.blocks import Block, BlockInferer, whole
from medseg.inferers.slices import fit_dimensions


class WholeImage(BlockInferer):
    """Give the network the whole image; volumes, for a 2D network, slice by slice along their last axis.

    Args:
        spatial_dims: dimensions of the network.

    Raises:
        MedsegError: if the image has fewer dimensions than the network, or the network returns anything but logits.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims

    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give what the network gives for the image, in one block; of a volume for a 2D network, some slices each."""

        def predict(x: Tensor) -> Iterator[Block]:
            yield whole(x, network(x, *args, **kwargs))

        yield from fit_dimensions(inputs, (1,) * self.spatial_dims, predict)
