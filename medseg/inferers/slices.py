"""A volume for a 2D network: slice by slice along its last axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.errors import MedsegError

_SLICES_AT_ONCE = 8


def fit_dimensions(inputs: Tensor, size: Sequence[int], predict: Callable[[Tensor], Tensor]) -> Tensor:
    """Run an inferer of ``len(size)`` dimensions on an image of as many, or a 2D one on the slices of a volume.

    Args:
        inputs: the image.
        size: window or size of the inferer, one edge an axis.
        predict: from ``(B, C, *S)`` to ``(B, classes, *S)``, with as many axes S as ``size`` has.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``.

    Raises:
        ValueError: if neither is the case.
    """
    spatial = inputs.ndim - 2
    if spatial == len(size):
        return predict(inputs)
    if (len(size), spatial) != (2, 3):
        raise MedsegError(
            f"the image has {spatial} spatial dimensions {tuple(inputs.shape[2:])}, the inferer has {len(size)} "
            f"{tuple(size)}; two edges take images and volumes, three take volumes"
        )
    parts = []
    for slices in torch.split(inputs, _SLICES_AT_ONCE, dim=-1):  # (B, C, H, W, d)
        flat = slices.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B * d, C, H, W)
        logits = predict(flat)
        images = logits.reshape(inputs.shape[0], -1, *logits.shape[1:])  # (B, d, classes, H, W)
        parts.append(images.permute(0, 2, 3, 4, 1))  # (B, classes, H, W, d)
    return torch.cat(parts, dim=-1)
