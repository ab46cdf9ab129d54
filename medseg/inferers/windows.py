"""The windows that cover an image, and how their logits become blocks: only what windows still overlap is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor

from medseg.inferers.memory_format import ends

__all__ = ["WindowGrid", "merge"]

_FULL = (2**31, 2**28)  # bytes of an overlap that are kept in single precision: on a GPU, and on a CPU
_HALF = 65504.0  # the largest number of half precision
_AT_ONCE = 2**22  # values of a window that are gone through at once on a CPU: what its caches hold
_BLOCK = 2**23  # values of the planes of a window that become a block on a CPU


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

    def meets(self, axis: int, number: int) -> tuple[int, int]:
        """Return of a window how much the one before reaches along an axis, and how much the next one leaves to it.

        Args:
            axis: number of a spatial axis.
            number: of the window along the axis.
        """
        starts, edge = self.starts[axis], min(self.size[axis], self.roi_size[axis])
        reached = starts[number - 1] + edge - starts[number] if number else 0
        return reached, starts[number + 1] - starts[number] if number + 1 < len(starts) else edge

    def voxels(self, window: Sequence[int]) -> tuple[slice, ...]:
        """Return the voxels of the image that a window holds.

        Args:
            window: its number along each axis.
        """
        begins = [starts[number] for starts, number in zip(self.starts, window, strict=True)]
        pairs = zip(begins, self.size, self.roi_size, strict=True)
        return tuple(slice(begin, min(edge, begin + window)) for begin, edge, window in pairs)


@dataclass(frozen=True)
class _Part:
    """A part of a window on its way: what its weighted logits are added to is only known until they are put somewhere.

    So each value goes to memory once.

    Args:
        output: its logits ``(classes, *S)``.
        weight: its weights ``(*S)``.
        begins: where it begins in the window, along each axis.
        rooms: two, each for as many sums ``(2, values)``; empty on a GPU, whose memory is at hand when it is asked for.
        more: to be added, of ``(classes, *S)`` each.
    """

    output: Tensor
    weight: Tensor
    begins: tuple[int, ...]
    rooms: Tensor
    more: tuple[Tensor, ...] = ()

    def along(self, axis: int, begin: int, end: int) -> _Part:
        """Return what of it lies from one place in the window to another along an axis."""
        first, length = begin - self.begins[axis], end - begin
        if length == self.weight.shape[axis]:
            return self
        begins = (*self.begins[:axis], begin, *self.begins[axis + 1 :])
        output, *more = (part.narrow(axis + 1, first, length) for part in (self.output, *self.more))
        return _Part(output, self.weight.narrow(axis, first, length), begins, self.rooms, tuple(more))

    def put(self, place: Tensor) -> None:
        """Put its sums in a place of their type."""
        if not self.more:
            torch.mul(self.output, self.weight, out=place)
            return
        first, *others = sorted(self.more, key=lambda kept: kept.dtype == place.dtype)
        if first.dtype != place.dtype:
            first = place.copy_(first)
        torch.addcmul(first, self.output, self.weight[None], out=place)
        for kept in others:  # a CPU adds two types slowly
            place.add_(kept if kept.dtype == place.dtype else self.room(0).copy_(kept))

    def room(self, number: int) -> Tensor:
        """Return room for its sums, laid out as its logits."""
        order = sorted(range(self.output.ndim), key=lambda axis: -self.output.stride()[axis])
        values = self.output.numel()
        room = self.rooms[number, :values] if values <= self.rooms.shape[1] else self.rooms.new_empty(values)
        room = room.view([self.output.shape[axis] for axis in order])
        return room.permute([order.index(axis) for axis in range(self.output.ndim)])


class _Overlap:
    """What windows leave to the next one along an axis: weighted sums of their logits, or of their weights.

    Args:
        grid: the windows.
        axis: number of a spatial axis.
        output: of a window ``(classes, *window)``, for classes and layout.
        weight: of a window's voxels, for type and device.
        half: whether half precision does where much is kept.
    """

    def __init__(self, grid: WindowGrid, axis: int, output: Tensor, weight: Tensor, *, half: bool) -> None:
        self._grid, self._axis = grid, axis
        self._faster = grid.order[grid.order.index(axis) + 1 :]
        size = grid.overlapped(axis)
        much = len(output) * math.prod(size) * weight.element_size() > _FULL[weight.device.type == "cpu"]
        kind = torch.float16 if half and much and weight.dtype == torch.float32 else weight.dtype
        self._kept = _laid_out(weight.new_empty(len(output) * math.prod(size), dtype=kind), output, size)

    def __call__(self, parts: Iterable[_Part], window: Sequence[int]) -> Iterator[_Part]:
        """Add to parts of a window what the one before left, keep what the next one reaches, and give the rest.

        Args:
            parts: in the order of the axis; one goes all the way before the next is cut, which may lie where it did.
            window: its number along each axis.
        """
        added, done = self._grid.meets(self._axis, window[self._axis])
        for part in parts:
            low = part.begins[self._axis]
            high = low + part.weight.shape[self._axis]
            cuts = sorted({low, high, *(cut for cut in (added, done) if low < cut < high)})
            for begin, end in pairwise(cuts):
                some = part.along(self._axis, begin, end)
                if begin < added:
                    some = replace(some, more=(*some.more, self._place(some, window, 0)))
                if begin < done:
                    yield some
                else:
                    self._keep(some, window, done, direct=begin >= added)

    def _keep(self, part: _Part, window: Sequence[int], done: int, *, direct: bool) -> None:
        """Keep a part's sums; what half precision cannot hold is kept in full.

        Args:
            part: of a window.
            window: its number along each axis.
            done: how much of the window no later one along the axis reaches.
            direct: whether nothing of this overlap is added to it, which might lie where sums are put.
        """
        place = self._place(part, window, done)
        if direct and place.dtype == part.rooms.dtype:
            part.put(place)
            return
        sums = part.room(1)
        part.put(sums)
        if place.dtype == torch.float16 and max(abs(end) for end in ends(sums).tolist()) > _HALF:
            self._kept = self._kept.float()
            place = self._place(part, window, done)
        place.copy_(sums)

    def _place(self, part: _Part, window: Sequence[int], done: int) -> Tensor:
        """Return what is kept of a part: less so much along the axis, and along faster ones as the image has it."""
        kept = self._kept
        for axis, length in enumerate(part.weight.shape):
            begin = part.begins[axis] - (done if axis == self._axis else 0)
            if axis in self._faster:
                begin += self._grid.starts[axis][window[axis]]
            kept = kept.narrow(axis + 1, begin, length)
        return kept


class _Sums:
    """Weighted sums of windows' logits; of ones, their weights.

    Args:
        grid: the windows.
        output: of a window ``(classes, *window)``, for classes and layout.
        weight: of a window's voxels ``(*window)``.
        half: whether half precision does where much is kept.
    """

    def __init__(self, grid: WindowGrid, output: Tensor, weight: Tensor, *, half: bool) -> None:
        plane, on_cpu = output[:, 0].numel(), weight.device.type == "cpu"
        self._weight, self._planes = weight, max(1, _AT_ONCE // plane) if on_cpu else len(weight)
        self._rooms = weight.new_empty((2, min(self._planes, len(weight)) * plane if on_cpu else 0))
        self._block = weight.new_empty(min(output.numel(), max(_BLOCK, plane)) if on_cpu else output.numel())
        self._overlaps = [_Overlap(grid, axis, output, weight, half=half) for axis in reversed(grid.order)]

    def __call__(self, output: Tensor, window: Sequence[int], begin: int, end: int, size: Sequence[int]) -> Tensor:
        """Weight planes of a window, add what windows before left, keep what later ones reach, and return the rest.

        Args:
            output: logits of the window ``(classes, *window)``.
            window: its number along each axis.
            begin: first plane along the first axis; all before it were gone through.
            end: the one after the last.
            size: of what no later window reaches of these planes.

        Returns:
            Sums ``(classes, *size)``, valid until the next call.
        """
        block = _laid_out(self._block, output, size)
        whole = _Part(output, self._weight, (0,) * self._weight.ndim, self._rooms)
        for plane in range(begin, end, self._planes):
            parts: Iterable[_Part] = [whole.along(0, plane, min(plane + self._planes, end))]
            for overlap in self._overlaps:
                parts = overlap(parts, window)
            for part in parts:
                place = block
                for axis, (first, length) in enumerate(zip(part.begins, part.weight.shape, strict=True)):
                    place = place.narrow(axis + 1, first - (0 if axis else begin), length)
                part.put(place)
        return block


def merge(outputs: Iterator[Tensor], grid: WindowGrid, weight: Tensor) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Give the weighted mean of overlapping windows in blocks.

    Of each window the part that later ones overlap is kept, as weighted sums, axis by axis from the fastest: along the
    slowest axis it is the overlap with what lies across, along the others less. What no later window reaches is done.
    The sums are MONAI's, added in another order; an overlap that would take more than `_FULL` bytes is kept in half
    precision, which moves a logit by 2e-3 of the windows' largest there at most.

    Memory's speed is what takes the time. On a CPU windows are gone through by some planes at a time, and what is
    weighted is added to what was kept and put where it belongs in one go. Memory is taken once: many pieces of many
    sizes would leave holes. All of it is laid out as the network lays out its logits, on a CPU the classes of a voxel
    side by side: to turn them round takes longer than all else.

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
    ones, sums = weight.new_ones(()).expand((1, *weight.shape)), None
    totals = _Sums(grid, ones, weight, half=False)
    for window in grid:
        output = next(outputs)
        sums = sums or _Sums(grid, output, weight, half=True)
        done, *size = (grid.meets(axis, number)[1] for axis, number in enumerate(window))
        first, *others = (starts[number] for starts, number in zip(grid.starts, window, strict=True))
        beside = [slice(start, start + edge) for start, edge in zip(others, size, strict=True)]
        planes = max(1, _BLOCK // output[:, 0].numel()) if weight.device.type == "cpu" else done
        planes = math.ceil(done / math.ceil(done / planes))  # of all windows side by side alike: blocks are cells
        for begin in range(0, done, planes):
            number = min(planes, done - begin)
            end = len(weight) if begin + number == done else begin + number  # what is kept alone goes with the last
            block, total = (
                some(values, window, begin, end, (number, *size)) for some, values in ((sums, output), (totals, ones))
            )
            if end == len(weight):
                del output  # or it would be there while the next one is made
            yield (slice(first + begin, first + begin + number), *beside), block.div_(total)


def _laid_out(memory: Tensor, output: Tensor, size: Sequence[int]) -> Tensor:
    """Return memory as ``(classes, *size)``, in which a voxel's classes lie side by side if they do in an output."""
    classes = len(output)
    memory = memory[: classes * math.prod(size)]
    if classes > 1 and output.stride(0) == 1:
        return memory.view(*size, classes).movedim(-1, 0)
    return memory.view(classes, *size)
