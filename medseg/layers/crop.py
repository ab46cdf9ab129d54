"""Cut a map to a size, as odd sizes need on the way up and windows that reach over the edge."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]


def crop_end(x: Tensor, size: list[int], first_axis: int) -> Tensor:
    """Keep the first pixels of each spatial axis.

    Args:
        x: map with spatial axes from ``first_axis`` on, each at least as long as asked for.
        size: lengths S to keep, in pixels.
        first_axis: 2 for ``(B, C, *S)``, 1 for ``(B, *S, C)``.

    Shape:
        ``(B, C, *S')`` to ``(B, C, *S)``, or the same with C last.
    """
    for axis, length in enumerate(size):
        if is_scripting() or is_tracing():  # type: ignore[no-untyped-call]
            x = x.narrow(first_axis + axis, 0, length)
        else:
            x = _keep(x, first_axis + axis, length)
    return x


def _keep(x: Tensor, axis: int, length: int) -> Tensor:
    if torch.compiler.is_exporting() and any(isinstance(n, torch.SymInt) for n in (length, x.shape[axis])):
        # whether a narrowed map is still in one piece would be a condition on the sizes: a new map is so for all
        return x.index_select(axis, torch.arange(length, device=x.device))
    if torch.compiler.is_compiling() or x.shape[axis] != length:  # the gradient of a narrow is a copy of the whole map
        return x.narrow(axis, 0, length)
    return x
