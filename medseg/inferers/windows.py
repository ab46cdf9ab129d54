"""The windows that cover an image, and how their logits become blocks: only what windows still overlap is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor

__all__ = ["WindowGrid", "merge"]


@dataclass(frozen=True)
class WindowGrid:
    """Where windows lie in an image: as MONAI's sliding window lays them.

    Args:
        size: spatial size S of the image.
        roi_size: window; along an axis on which the image is smaller it is padded at both ends.
        overlap: share of a window that the next one covers.
    """

    size: tuple[int, ...]
    roi_size: tuple[int, ...]
    overlap: tuple[float, ...]
    starts: tuple[tuple[int, ...], ...] = field(init=False)
    """Of each axis, where its windows begin; the last one ends with the image."""

    def __post_init__(self) -> None:
        """Lay the windows."""
        starts = []
        for edge, window, overlap in zip(self.size, self.roi_size, self.overlap, strict=True):
            interval = window if window == max(edge, window) else max(1, int(window * (1 - overlap)))
            found = dense_patch_slices((max(edge, window),), (window,), (interval,), return_slice=False)
            starts.append(tuple(int(start) for ((start, _),) in found))
        object.__setattr__(self, "starts", tuple(starts))

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the slowest to the fastest: along the one with the most windows to its length, least is kept."""
        return tuple(sorted(range(len(self.size)), key=lambda axis: self.roi_size[axis] / self.size[axis]))

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Of each axis, voxels added before and after the image: half of what it lacks, as MONAI does."""
        lacks = [max(0, window - edge) for edge, window in zip(self.size, self.roi_size, strict=True)]
        return tuple((lack // 2, lack - lack // 2) for lack in lacks)

    @property
    def inside(self) -> tuple[slice, ...]:
        """The part of a window that is image and no padding."""
        pairs = zip(self.size, self.roi_size, self.padding, strict=True)
        return tuple(slice(before, before + min(edge, window)) for edge, window, (before, _) in pairs)

    def __len__(self) -> int:
        """Return the number of windows."""
        number = 1
        for starts in self.starts:
            number *= len(starts)
        return number

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Give the windows in the order of `order`: of each its number along each axis."""
        for numbers in itertools.product(*(range(len(self.starts[axis])) for axis in self.order)):
            place = dict(zip(self.order, numbers, strict=True))
            yield tuple(place[axis] for axis in range(len(self.size)))

    def overlapped(self, axis: int) -> tuple[int, ...]:
        """Return the size of what windows leave to the next one along an axis, while the faster axes are gone through.

        Args:
            axis: number of a spatial axis.
        """
        faster = self.order[self.order.index(axis) + 1 :]
        edges = [min(edge, window) for edge, window in zip(self.size, self.roi_size, strict=True)]
        size = [self.size[each] if each in faster else edges[each] for each in range(len(edges))]
        starts = self.starts[axis]
        size[axis] = max((start + edges[axis] - after for start, after in pairwise(starts)), default=0)
        return tuple(size)

    def voxels(self, window: Sequence[int]) -> tuple[slice, ...]:
        """Return the voxels of the image that a window holds.

        Args:
            window: its number along each axis.
        """
        begins = [starts[number] for starts, number in zip(self.starts, window, strict=True)]
        pairs = zip(begins, self.size, self.roi_size, strict=True)
        return tuple(slice(begin, min(edge, begin + window)) for begin, edge, window in pairs)


def merge(outputs: Iterator[Tensor], grid: WindowGrid, weight: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Give the weighted mean of overlapping windows in blocks.

    Of each window the part that later ones overlap is kept, as weighted sums, axis by axis from the fastest: along the
    slowest axis it is the overlap with what lies across, along the others less. What no later window reaches is done.
    The sums are MONAI's, added in another order. All memory is taken once: many pieces of many sizes would leave holes.

    Args:
        outputs: of the windows, in the grid's order, without padding.
        grid: the windows.
        weight: of a window's voxels, without padding.

    Shape:
        outputs ``(classes, *window)``, weight ``(*window)``; blocks ``(classes, *S)`` in the weight's type, each valid
        until the next one is asked for.
    """
    kept: dict[int, Tensor] = {}
    sums: Tensor | None = None
    for window in grid:
        output = next(outputs)
        classes = output.shape[0]
        if sums is None:
            sums = weight.new_empty((classes + 1, *weight.shape))
            kept = {axis: weight.new_empty((classes + 1, *grid.overlapped(axis))) for axis in range(weight.ndim)}
        torch.mul(output, weight, out=sums[:classes])
        del output  # or it would be there while the next one is made
        sums[classes] = weight
        part, at = sums, list(grid.voxels(window))
        for axis in reversed(grid.order):
            part, done = _add_neighbour(part, kept[axis], axis, window, at, grid)
            at[axis] = slice(at[axis].start, at[axis].start + done)
        yield tuple(at), part[:classes].div_(part[classes])


def _add_neighbour(
    part: Tensor, kept: Tensor, axis: int, window: Sequence[int], at: Sequence[slice], grid: WindowGrid
) -> tuple[Tensor, int]:
    """Add to a window what the one before it along an axis left, keep what the next one reaches.

    Returns:
        What is done, and its length.
    """
    dim, number, starts = axis + 1, window[axis], grid.starts[axis]
    faster = grid.order[grid.order.index(axis) + 1 :]  # done along these: they lie where the image has them
    place = [slice(None), *(at[d] if d in faster else slice(0, edge) for d, edge in enumerate(part.shape[1:]))]
    length = part.shape[dim]
    if number:
        place[dim] = slice(0, starts[number - 1] + length - starts[number])
        part.narrow(dim, 0, place[dim].stop).add_(kept[tuple(place)])
    if number + 1 == len(starts):
        return part, length
    done = starts[number + 1] - starts[number]
    place[dim] = slice(0, length - done)
    kept[tuple(place)] = part.narrow(dim, done, length - done)
    return part.narrow(dim, 0, done), done
