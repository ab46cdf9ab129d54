"""The windows that cover an image, and how their logits become blocks: only what windows still overlap is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor

from medseg.inferers.memory_format import ends

__all__ = ["WindowGrid", "merge"]

_FULL = (2**31, 2**27)  # bytes of an overlap that are kept in single precision: on a GPU, and on a CPU
_HALF = 65504.0  # the largest number of half precision
_AT_ONCE = 2**18  # values of half precision that are made single again at once


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


class _Overlap:
    """What windows leave to the next one along an axis: weighted sums of their logits, and of their weights.

    Args:
        output: of a window, for classes and layout.
        size: of what is left, see `WindowGrid.overlapped`.
        weight: of a window's voxels, for type and device.
    """

    def __init__(self, output: Tensor, size: Sequence[int], weight: Tensor) -> None:
        full = len(output) * math.prod(size) * weight.element_size() <= _FULL[weight.device.type == "cpu"]
        kind = weight.dtype if full or weight.dtype != torch.float32 else torch.float16
        self.logits = _room(output, size, weight.new_empty(0, dtype=kind))
        self.weight = weight.new_empty((1, *size))

    def keep(self, place: tuple[slice, ...], sums: Tensor, weights: bool) -> None:
        """Keep sums of logits, or of weights; what half precision cannot hold is kept in full."""
        if weights:
            self.weight[(slice(None), *place)] = sums
            return
        if self.logits.dtype == torch.float16 and max(abs(end) for end in ends(sums).tolist()) > _HALF:
            self.logits = self.logits.float()
        self.logits[(slice(None), *place)] = sums

    def add(self, sums: Tensor, place: tuple[slice, ...], weights: bool) -> None:
        """Add what was kept of logits, or of weights, to sums."""
        kept = (self.weight if weights else self.logits)[(slice(None), *place)]
        if kept.dtype == sums.dtype or kept.device.type != "cpu":
            sums.add_(kept)
            return
        planes = max(1, _AT_ONCE * sums.shape[1] // sums.numel())  # a CPU adds two types slowly: made one in its cache
        for some, few in zip(torch.split(sums, planes, 1), torch.split(kept, planes, 1), strict=True):
            some.add_(few.to(sums.dtype))


@dataclass(frozen=True)
class _Step:
    """What a window does along one axis, after the faster ones.

    Args:
        overlap: with the windows before and after.
        add: where in the window lies what the one before left, and where that is kept; ``None`` if it left nothing.
        leave: what the next one reaches, and where it is kept; ``None`` if it reaches nothing.
        done: the rest.
    """

    overlap: _Overlap
    add: tuple[tuple[slice, ...], tuple[slice, ...]] | None
    leave: tuple[tuple[slice, ...], tuple[slice, ...]] | None
    done: tuple[slice, ...]

    def __call__(self, sums: Tensor, *, weights: bool = False) -> Tensor:
        """Add, keep, and return what is done of sums ``(classes, *S)`` of logits, or of weights ``(1, *S)``."""
        if self.add is not None:
            mine, place = self.add
            self.overlap.add(sums[(slice(None), *mine)], place, weights)
        if self.leave is not None:
            mine, place = self.leave
            self.overlap.keep(place, sums[(slice(None), *mine)], weights)
        return sums[(slice(None), *self.done)]


def merge(outputs: Iterator[Tensor], grid: WindowGrid, weight: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Give the weighted mean of overlapping windows in blocks.

    Of each window the part that later ones overlap is kept, as weighted sums, axis by axis from the fastest: along the
    slowest axis it is the overlap with what lies across, along the others less. What no later window reaches is done.
    The sums are MONAI's, added in another order; an overlap that would take more than `_FULL` bytes is kept in half
    precision, which moves a logit by 2e-3 of the windows' largest there at most. Memory is taken once: many pieces of
    many sizes would leave holes. All of it is laid out as the network lays out its logits, on a CPU the classes of a
    voxel side by side: to turn them round takes longer than to weight, add and keep them.

    Args:
        outputs: of the windows, in the grid's order, without padding.
        grid: the windows.
        weight: of a window's voxels, without padding.

    Shape:
        outputs ``(classes, *window)``, weight ``(*window)``; blocks ``(classes, *S)`` in the weight's type, each valid
        until the next one is asked for.
    """
    if len(grid) == 1:
        yield grid.voxels((0,) * weight.ndim), next(outputs).to(weight.dtype)  # its own mean
        return
    overlaps: dict[int, _Overlap] = {}
    sums, totals = weight, torch.empty_like(weight)  # sums are made below, when the number of classes is known
    for window in grid:
        output = next(outputs)
        if not overlaps:
            sums = _room(output, weight.shape, weight)
            overlaps = {axis: _Overlap(output, grid.overlapped(axis), weight) for axis in range(weight.ndim)}
        steps, at = _steps(window, grid, overlaps, weight.shape)
        total, part = totals.copy_(weight)[None], torch.mul(output, weight, out=sums)
        del output  # or it would be there while the next one is made
        for step in steps:
            total, part = step(total, weights=True), step(part)
        yield at, part.div_(total)


def _room(output: Tensor, size: Sequence[int], like: Tensor) -> Tensor:
    """Return memory ``(classes, *size)`` in which a voxel's classes lie side by side if they do in an output."""
    classes = len(output)
    if classes > 1 and output.stride(0) == 1:
        return like.new_empty((*size, classes)).movedim(-1, 0)
    return like.new_empty((classes, *size))


def _steps(
    window: Sequence[int], grid: WindowGrid, overlaps: Mapping[int, _Overlap], edges: Sequence[int]
) -> tuple[list[_Step], tuple[slice, ...]]:
    """Return what is done of a window along each axis, from the fastest on, and the voxels of the image left then."""
    at, inner, steps = list(grid.voxels(window)), [slice(0, edge) for edge in edges], []
    for axis in reversed(grid.order):
        number, starts, length = window[axis], grid.starts[axis], edges[axis]
        faster = grid.order[grid.order.index(axis) + 1 :]  # done along these: they lie where the image has them
        place = [at[each] if each in faster else slice(0, edge) for each, edge in enumerate(edges)]
        add = leave = None
        done = length
        left = slice(0, starts[number - 1] + length - starts[number]) if number else slice(0, 0)
        if left.stop:
            add = _along(inner, axis, left), _along(place, axis, left)
        if number + 1 < len(starts):
            done = starts[number + 1] - starts[number]
        if done < length:
            leave = _along(inner, axis, slice(done, length)), _along(place, axis, slice(0, length - done))
        steps.append(_Step(overlaps[axis], add, leave, _along(inner, axis, slice(0, done))))
        inner[axis] = slice(0, done)
        at[axis] = slice(at[axis].start, at[axis].start + done)
    return steps, tuple(at)


def _along(place: Sequence[slice], axis: int, part: slice) -> tuple[slice, ...]:
    return (*place[:axis], part, *place[axis + 1 :])
