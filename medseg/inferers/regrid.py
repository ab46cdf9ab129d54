"""Logits by linear interpolation on another grid, block by block, axis by axis: the whole image's are never held.

Equal, within rounding, to MONAI's ``SpatialResample`` (bilinear, border) of all logits, which takes one gather of eight
neighbours a voxel and class; along one axis after the other it takes one of two each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from medseg.inferers.blocks import Block
from medseg.inferers.memory_format import classes_last

__all__ = ["resample", "resized"]

_AT_ONCE = (2**26, 2**21)  # values of a block that is handed on: on a GPU, and on a CPU
_ROW = 8  # values side by side from which on a CPU sums weighted rows faster than it gathers neighbours one by one


class _Axis:
    """Linear interpolation along one axis.

    Args:
        positions: where the new voxels lie between the old ones, ascending, in voxels from the first one's centre; what
            lies beyond the last voxel gets its value.
        length: of the old axis.
    """

    def __init__(self, positions: Tensor, length: int) -> None:
        inside = positions.double().clamp(0, length - 1)
        self.length = length
        self.lower = inside.floor().long().clamp(max=max(0, length - 2))
        self.weight = (inside - self.lower).float()
        steps = torch.arange(len(positions))
        self.unchanged = len(positions) == length and bool((inside - steps).abs().max() < 1e-6)

    def __len__(self) -> int:
        """Return the new length."""
        return len(self.lower)

    def done(self, before: int) -> int:
        """Return how many new voxels need none but the first ``before`` old ones."""
        if before == self.length:
            return len(self)
        return int(torch.searchsorted(self.lower, before - 1))

    def interpolate(self, values: Tensor, dim: int, first: int, new: slice) -> Tensor:
        """Return new voxels.

        Args:
            values: old ones, from number ``first`` on.
            dim: of the axis.
            first: see there.
            new: numbers of the new ones.
        """
        lower = (self.lower[new] - first).to(values.device)
        upper = (lower + 1).clamp(max=values.shape[dim] - 1)
        weight = self.weight[new].to(values)
        if values.device.type == "cpu" and math.prod(values.shape[dim + 1 :]) >= _ROW:
            return _rows(values, dim, lower, upper, weight)
        shape = [1] * values.ndim
        shape[dim] = -1
        return values.index_select(dim, lower).lerp_(values.index_select(dim, upper), weight.view(shape))


def _rows(values: Tensor, dim: int, lower: Tensor, upper: Tensor, weight: Tensor) -> Tensor:
    """Interpolate between planes across an axis: all in one pass over the rows that lie within them.

    Args:
        values: contiguous from the axis on, or they are copied.
        dim: of the axis.
        lower: which plane lies before each new one.
        upper: which lies after it.
        weight: of the latter, in [0, 1].
    """
    before, length, row = math.prod(values.shape[:dim]), values.shape[dim], math.prod(values.shape[dim + 1 :])
    planes = torch.stack([lower, upper], 1) + length * torch.arange(before)[:, None, None]
    shares = torch.stack([1 - weight, weight], 1).expand(before, -1, -1)
    made = embedding_bag(
        planes.reshape(-1, 2), values.reshape(-1, row), mode="sum", per_sample_weights=shares.reshape(-1, 2)
    )
    return made.view(*values.shape[:dim], len(lower), *values.shape[dim + 1 :])


def resample(blocks: Iterable[Block], size: Sequence[int], positions: Sequence[Tensor]) -> Iterator[Block]:
    """Interpolate logits linearly.

    A block gives the new voxels that lie between the old ones known so far; the last plane of each side is kept for the
    next block there. Where nothing moves, blocks are cut as small as those that do: what follows takes memory that is
    at hand.

    Args:
        blocks: of one image, as `BlockInferer` orders them.
        size: its spatial size S.
        positions: of each axis, where the new voxels lie, ascending: in old voxels from the centre of the first.

    Shape:
        blocks of ``(B, classes, *S)`` to blocks of ``(B, classes, *T)``, T being the lengths of ``positions``; float32.
    """
    axes = [_Axis(each, edge) for each, edge in zip(positions, size, strict=True)]
    unchanged = all(axis.unchanged for axis in axes)
    held: dict[tuple[int, ...], Tensor] = {}
    planes = 0
    for block in blocks:
        planes = planes or _planes(block.logits, axes)  # the same of all, or neighbours were cut elsewhere
        for part in _split(block, planes):
            moved = part if unchanged else _moved(part, axes, held)
            if moved is not None:
                yield moved


def _planes(logits: Tensor, axes: Sequence[_Axis]) -> int:
    """Return of how many planes across the first axis no more than `_AT_ONCE` values come."""
    growth = 1.0
    for axis in axes:
        growth *= max(1.0, len(axis) / axis.length)
    return max(1, int(_AT_ONCE[logits.device.type == "cpu"] / (growth * logits[:, :, :1].numel())))


def _split(block: Block, planes: int) -> Iterator[Block]:
    """Cut a block into parts of so many planes."""
    at, logits = block
    if logits.shape[2] <= planes:
        yield block
        return
    for start in range(0, logits.shape[2], planes):
        part = logits[:, :, start : start + planes]
        first = at[1].start + start
        yield Block((at[0], slice(first, first + part.shape[2]), *at[2:]), part)


def _moved(block: Block, axes: Sequence[_Axis], held: dict[tuple[int, ...], Tensor]) -> Block | None:
    """Interpolate a block along each axis, the last one first: it is then the smallest where memory is scattered."""
    logits = block.logits.float()
    last = classes_last(logits)  # rows of classes are gathered faster than single values
    if last:
        logits = logits.movedim(1, -1)
    at = list(block.at)
    for number in reversed(range(len(axes))):
        axis, dim, old = axes[number], number + 2 - last, at[number + 1]
        if axis.unchanged:
            continue
        place = (number, *(each.start for each in (*at[: number + 1], *at[number + 2 :])))
        before = held.pop(place, None)
        if before is not None:
            logits = torch.cat([before, logits], dim)
        if old.stop < axis.length:
            held[place] = logits.narrow(dim, logits.shape[dim] - 1, 1).clone()
        first = old.start - (before is not None)
        new = slice(axis.done(old.start), axis.done(old.stop))
        if new.start == new.stop:
            return None
        logits = axis.interpolate(logits, dim, first, new)
        at[number + 1] = new
    return Block(tuple(at), logits.movedim(-1, 1) if last else logits)


def resized(blocks: Iterable[Block], size: Sequence[int], target: Sequence[int]) -> Iterator[Block]:
    """Resize logits as ``torch.nn.functional.interpolate`` does (linear, ``align_corners=False``).

    Args:
        blocks: of one image.
        size: its spatial size S.
        target: the new one T.

    Shape:
        as `resample`.
    """
    positions = [
        (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
        for old, new in zip(size, target, strict=True)
    ]
    return resample(blocks, size, positions)
