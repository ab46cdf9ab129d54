"""A volume for a 2D network: slice by slice along its last axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.blocks import Block, gather

SLICES_AT_ONCE = 8
"""Slices whose logits are held at a time."""


def fit_dimensions(
    inputs: Tensor, size: Sequence[int], predict: Callable[[Tensor], Iterator[Block]]
) -> Iterator[Block]:
    """Run an inferer of ``len(size)`` dimensions on an image of as many, or a 2D one on the slices of a volume.

    Args:
        inputs: the image.
        size: window or size of the inferer, one edge an axis.
        predict: from ``(B, C, *S)`` to the blocks of ``(B, classes, *S)``, with as many axes S as ``size`` has.

    Shape:
        ``(B, C, *S)`` to blocks of ``(B, classes, *S)``; of a volume, a block is some slices.

    Raises:
        MedsegError: if neither is the case.
    """
    spatial = inputs.ndim - 2
    if spatial == len(size):
        yield from predict(inputs)
        return
    if (len(size), spatial) != (2, 3):
        raise MedsegError(
            f"the image has {spatial} spatial dimensions {tuple(inputs.shape[2:])}, the inferer has {len(size)} "
            f"{tuple(size)}; two edges take images and volumes, three take volumes"
        )
    batch, _, height, width, depth = inputs.shape
    for start in range(0, depth, SLICES_AT_ONCE):
        slices = inputs[..., start : start + SLICES_AT_ONCE]  # (B, C, H, W, d)
        flat = slices.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B * d, C, H, W)
        logits = gather(predict(flat), flat.shape[:1] + flat.shape[2:])
        volume = logits.reshape(batch, -1, *logits.shape[1:]).permute(0, 2, 3, 4, 1)  # (B, classes, H, W, d)
        del logits
        at = (slice(0, batch), slice(0, height), slice(0, width), slice(start, start + volume.shape[-1]))
        yield Block(at, volume)
