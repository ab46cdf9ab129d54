"""Pad a map at its end, for networks whose levels must fit into each other."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def pad_to_multiple(x: Tensor, multiples: list[int], mode: str = "constant") -> Tensor:
    """Continue each spatial axis until its length is a multiple; `crop_end` takes the padding off again.

    Args:
        x: map ``(B, C, *S)``.
        multiples: one an axis.
        mode: PyTorch's: ``"constant"`` for zeros, ``"replicate"`` for the far edge again and again: the image goes on,
            no step to zero appears.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S')``, each S' the least multiple from S on.
    """
    sides: list[int] = []
    for axis in range(len(multiples) - 1, -1, -1):
        sides += [0, (multiples[axis] - x.shape[2 + axis] % multiples[axis]) % multiples[axis]]
    return pad(x, sides, mode=mode)
