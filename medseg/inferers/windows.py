"""The windows that cover an image, and how their logits become blocks: only what windows still overlap is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

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

    def voxels(self, window: Sequence[int]) -> tuple[slice, ...]:
        """Return the voxels of the image that a window holds.

        Args:
            window: its number along each axis.
        """
        begins = [starts[number] for starts, number in zip(self.starts, window, strict=True)]
        pairs = zip(begins, self.size, self.roi_size, strict=True)
        return tuple(slice(begin, min(edge, begin + window)) for begin, edge, window in pairs)


def merge(outputs: Iterable[Tensor], grid: WindowGrid, weight: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Give the weighted mean of overlapping windows in blocks.

    Of each window the part that later ones overlap is kept, as weighted sums, axis by axis from the fastest: along the
    slowest axis it is the overlap with what lies across, along the others less. What no later window reaches is done.
    The sums are MONAI's, added in another order.

    Args:
        outputs: of the windows, in the grid's order, without padding.
        grid: the windows.
        weight: of a window's voxels, without padding.

    Shape:
        outputs ``(classes, *window)``, weight ``(*window)``; blocks ``(classes, *S)`` in the weight's type.
    """
    held: dict[tuple[int, ...], Tensor] = {}
    for window, output in zip(grid, outputs, strict=True):
        classes = output.shape[0]
        part = torch.empty((classes + 1, *output.shape[1:]), dtype=weight.dtype, device=weight.device)
        torch.mul(output, weight, out=part[:classes])
        part[classes] = weight
        at = list(grid.voxels(window))
        for axis in reversed(grid.order):
            place = (axis, *window[:axis], *window[axis + 1 :])
            before = held.pop(place, None)
            if before is not None:
                part.narrow(axis + 1, 0, before.shape[axis + 1]).add_(before)
            done = part.shape[axis + 1]
            if window[axis] + 1 < len(grid.starts[axis]):
                done = grid.starts[axis][window[axis] + 1] - at[axis].start
                held[place] = part.narrow(axis + 1, done, part.shape[axis + 1] - done).clone()
                part = part.narrow(axis + 1, 0, done)
            at[axis] = slice(at[axis].start, at[axis].start + done)
        yield tuple(at), part[:classes].div_(part[classes])
