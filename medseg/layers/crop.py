"""Cut a map to a size, as odd sizes need on the way up and windows that reach over the edge."""

from __future__ import annotations

from torch import Tensor


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
        x = x.narrow(first_axis + axis, 0, length)
    return x
