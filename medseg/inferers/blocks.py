"""Logits of an image in blocks: what is done with them (a class, a probability) needs no more memory than one block.

An inferer of this package gives the logits of an image block by block, each as soon as no window can change it. Put
together they are what MONAI's ``Inferer`` returns; reduced at once to classes, the logits of the whole image are never
held: of 20 classes they are 80 bytes a voxel, their classes one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from monai.inferers import Inferer
from torch import Tensor

from medseg.caller import spelt
from medseg.errors import MedsegError, shown
from medseg.inferers.memory_format import classes_last, ends

__all__ = [
    "Block",
    "BlockInferer",
    "blocks_of",
    "class_indices",
    "classes_of",
    "finite",
    "gather",
    "several_of",
    "whole",
]

_WAITS = ("cpu",)  # devices on which a look at a value keeps nothing waiting


class Block(NamedTuple):
    """A part of an image's logits.

    Args:
        at: where it lies: a slice of the batch, then one of each spatial axis.
        logits: ``(B, classes, *S)`` of that part.
    """

    at: tuple[slice, ...]
    logits: Tensor


class BlockInferer(Inferer, ABC):
    """An inferer that can give its logits in blocks.

    Blocks are disjoint and cover the image. They are the cells of a grid: along each axis all have the same bounds,
    and of two neighbours the one nearer to the image's first voxel comes first. A block's memory is used again for the
    next one.
    """

    @abstractmethod
    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give the logits of an image ``(B, C, *S)`` in blocks.

        Args:
            inputs: the image.
            network: from ``(B, C, *S)`` to logits ``(B, classes, *S)``.
            args: for the network.
            kwargs: for the network.

        Raises:
            MedsegError: if the network returns anything but logits of its input's size.
        """

    def several(self, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
        """Give the logits of several images, one after the other; a forward may take parts of several.

        Args:
            images: ``(1, C, *S)`` each, S as it comes.
            network: as in `blocks`.

        Yields:
            the number of an image and one of its blocks.
        """
        for number, image in enumerate(images):
            for block in self.blocks(image, network):
                yield number, block

    def one_forward(self, size: Sequence[int]) -> bool:
        """Return whether `several` puts an image of this spatial size into one forward with others like it."""
        return False

    def held(self, size: Sequence[int]) -> int:
        """Return of about how many voxels logits are held at a time, of an image of this spatial size."""
        return math.prod(size)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the logits ``(B, classes, *S)`` of the whole image, in one tensor that is made once."""
        return gather(self.blocks(inputs, network, *args, **kwargs), inputs.shape[:1] + inputs.shape[2:])


def blocks_of(
    inferer: Inferer, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
) -> Iterator[Block]:
    """Give an image's logits in blocks, by whatever inferer: of one that has no blocks, all in one.

    Args:
        inferer: of this package, or another of MONAI's.
        inputs: as in `BlockInferer.blocks`.
        network: as there.
        args: as there.
        kwargs: as there.

    Raises:
        MedsegError: as there.
    """
    if isinstance(inferer, BlockInferer):
        yield from inferer.blocks(inputs, network, *args, **kwargs)
    else:
        yield whole(inputs, inferer(inputs, network, *args, **kwargs))


def several_of(inferer: Inferer, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
    """Give the logits of several images by whatever inferer, see `BlockInferer.several`."""
    if isinstance(inferer, BlockInferer):
        yield from inferer.several(images, network)
        return
    for number, image in enumerate(images):
        yield number, whole(image, inferer(image, network))


def whole(inputs: Tensor, logits: Any) -> Block:
    """Return one block of the whole image.

    Args:
        inputs: ``(B, C, *S)``.
        logits: what a network or inferer gave for it.

    Raises:
        MedsegError: if that is no tensor ``(B, classes, *S)``.
    """
    check_logits(inputs, logits)
    return Block(tuple(slice(0, edge) for edge in (inputs.shape[0], *inputs.shape[2:])), logits)


def check_logits(inputs: Tensor, logits: Any) -> None:
    """Raise unless a network gave logits ``(B, classes, *S)`` for its input ``(B, C, *S)``.

    Raises:
        MedsegError: saying what it gave.
    """
    if not isinstance(logits, Tensor):
        raise MedsegError(
            f"the network returns a {type(logits).__name__}; images are predicted from logits alone, which networks "
            "return in evaluation: call network.eval()"
        )
    if logits.ndim != inputs.ndim or logits.shape[:1] + logits.shape[2:] != inputs.shape[:1] + inputs.shape[2:]:
        raise MedsegError(
            f"the network returns {tuple(logits.shape)} for an input of {tuple(inputs.shape)}; it must return logits "
            "(B, classes, *S) of the input's batch and size"
        )


def gather(blocks: Iterable[Block], size: Sequence[int]) -> Tensor:
    """Put blocks together.

    Args:
        blocks: of one image.
        size: ``(B, *S)``.

    Shape:
        ``(B, classes, *S)``, of the blocks' type and device.
    """
    buffer: Tensor | None = None
    for at, logits in blocks:
        if buffer is None:
            if logits.shape[:1] + logits.shape[2:] == tuple(size):
                buffer = logits  # all of it; whoever gives it may look at it at the end, as `finite` does
                continue
            buffer = logits.new_empty((size[0], logits.shape[1], *size[1:]))
        buffer[(at[0], slice(None), *at[1:])] = logits
    assert buffer is not None
    return buffer


def finite(blocks: Iterable[Block]) -> Iterator[Block]:
    """Hand blocks on, and refuse those of which no class can be told.

    On a GPU, which a look at each block would keep waiting, they are refused when the last one is handed on.

    Args:
        blocks: of one image.

    Raises:
        MedsegError: if a logit is NaN or infinite.
    """
    bad: Tensor | None = None
    number = 0
    for block in blocks:
        if block.logits.device.type in _WAITS:
            check_finite(block.logits)
        else:
            wrong = (~torch.isfinite(block.logits)).sum()
            bad = wrong if bad is None else bad + wrong
            number += block.logits.numel()
        yield block
    if bad is not None and int(bad):
        _refuse(int(bad), number)


def check_finite(logits: Tensor, names: Sequence[str] = ()) -> None:
    """Raise if what a network gave for an image holds NaN or infinity.

    Args:
        logits: ``(B, classes, *S)``.
        names: of the B images; without, whoever asks says which image it is.

    Raises:
        MedsegError: naming the first such image and how much of it is no number.
    """
    if bool(torch.isfinite(ends(logits)).all()):  # one pass, where isfinite of all takes three
        return
    bad = ~torch.isfinite(logits).flatten(1)
    index = int(bad.any(1).nonzero()[0])
    called = f"{shown(names[index])}: " if names else ""
    _refuse(int(bad[index].sum()), bad[index].numel(), called)


def _refuse(bad: int, number: int, called: str = "") -> NoReturn:
    raise MedsegError(
        f"{called}the network gives {bad} of {number} logits that are NaN or infinite, of which no class can be told; "
        f"check the weights and the image's values, or use {spelt('precision', 'fp32')}"
    )


def class_indices(blocks: Iterable[Block], size: Sequence[int]) -> Tensor:
    """Return the class of each voxel: of the largest logit, or of one channel whether its logit is above 0.

    Args:
        blocks: of one image.
        size: ``(B, *S)``.

    Shape:
        ``(B, *S)``, uint8, or int32 of more than 256 classes.
    """
    indices: Tensor | None = None
    for at, logits in blocks:
        found = classes_of(logits)
        if indices is None:
            indices = torch.empty(tuple(size), dtype=found.dtype, device=found.device)
        indices[at] = found
    assert indices is not None
    return indices


def classes_of(logits: Tensor) -> Tensor:
    """Return the class of the largest logit, or of one channel whether its logit is above 0.

    Shape:
        ``(B, classes, *S)`` to ``(B, *S)``, uint8, or int32 of more than 256 classes.
    """
    if logits.shape[1] == 1:
        found = logits[:, 0] > 0
    elif classes_last(logits):
        found = logits.movedim(1, -1).max(dim=-1).indices
    else:
        found = logits.max(dim=1).indices  # several times faster than argmax on a CPU
    return found.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
