"""Normalisation on the device as part of inference: the one place that training, evaluation and prediction share.

All three call their network through an inferer, after the batch has come to the device; so do programs that read a
bundle's ``network_def``, ``preprocessing`` and ``inferer`` alone. Overlays and masks keep the images as they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from medseg.inferers.blocks import Block, BlockInferer, blocks_of, several_of


class NormalisingInferer(BlockInferer):
    """Normalise the image, then run another inferer; padding of that one is then in normalised values: 0 is the mean.

    Args:
        normalise: such as `medseg.transforms.normalise.ImageNormalisation`; the same for training and inference.
        inferer: runs the network on the normalised image; MONAI's ``SimpleInferer`` by default.

    Shape:
        as the other inferer.
    """

    def __init__(self, normalise: Callable[[Tensor], Tensor], inferer: Inferer | None = None) -> None:
        super().__init__()
        self.normalise = normalise
        self.inferer = inferer or SimpleInferer()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the other inferer gives for the normalised ``inputs``: in training, all outputs of a network."""
        return self.inferer(self.normalise(inputs), network, *args, **kwargs)

    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give the logits of the normalised ``inputs`` in blocks."""
        yield from blocks_of(self.inferer, self.normalise(inputs), network, *args, **kwargs)

    def several(self, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
        """Give the logits of several images, each normalised."""
        yield from several_of(self.inferer, [self.normalise(image) for image in images], network)

    def one_forward(self, size: Sequence[int]) -> bool:
        """Return what the other inferer does."""
        return isinstance(self.inferer, BlockInferer) and self.inferer.one_forward(size)

    def held(self, size: Sequence[int]) -> int:
        """Return what the other inferer holds."""
        return self.inferer.held(size) if isinstance(self.inferer, BlockInferer) else super().held(size)
