"""Bring a map to a size so that its corners stay in the corners."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.functional import interpolate


def resize(x: Tensor, size: list[int]) -> Tensor:
    """Interpolate linearly, first and last pixels staying on one another.

    Padded strided layers centre feature i on pixel ``stride * i``; of an image of 513 pixels the 33 features of stride
    16 stand on pixels 0, 16, ..., 512, and this puts them there.

    Args:
        x: the map.
        size: lengths S to give it, in pixels.

    Shape:
        ``(B, C, *S')`` to ``(B, C, *S)``.
    """
    if is_scripting():
        if list(x.shape[2:]) == size:
            return x
    else:
        # of lengths that an exporter leaves open the comparison would be settled for good
        unknown = any(isinstance(length, torch.SymInt) for length in (*x.shape[2:], *size))
        if not unknown and list(x.shape[2:]) == size:
            return x
    return interpolate(x, size=size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=True)
