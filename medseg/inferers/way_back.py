"""From the grid that a network saw back to the grid of a file: axes turned exactly, voxel sizes by interpolated logits.

A label is never resampled: the boundary of two classes lies where their interpolated logits are equal, and classes of
the nearest voxel would move it by up to half a voxel of the model's. Where axes are permuted or flipped alone, no value
changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.blocks import Block, classes_of, gather
from medseg.inferers.regrid import resample

__all__ = ["FILE_AFFINE", "IMAGE_AFFINE", "WayBack"]

IMAGE_AFFINE = "image_affine"
"""Key of a sample whose label lies on its file's grid: the affine of its image, which lies on the model's."""

FILE_AFFINE = "file_affine"
"""Key of such a sample whose file is a stack of pages, which lies nowhere: the identity, for the file's own axes."""

_TOLERANCE = 0.01  # voxels: what the rounding of a header may shift
_BEYOND = 1.0  # voxels of the model's that a file's grid may reach beyond it, as sizes are rounded
_AT_ONCE = 2**21  # values of a block that is handed on


class WayBack:
    """The way from the grid of a network's input to that of a file.

    Args:
        size: spatial size S of the network's input.
        affine: its affine ``(4, 4)``, voxel to mm; ``None`` for pictures.
        target_size: spatial size T of the file.
        target_affine: its affine; ``None`` for pictures.

    Raises:
        MedsegError: if there is no way back: a mask is never written by its shape alone.
    """

    def __init__(
        self, size: Sequence[int], affine: Any | None, target_size: Sequence[int], target_affine: Any | None
    ) -> None:
        self.size = tuple(size)
        self.target_size = tuple(target_size)
        self._matrix: NDArray[np.float64] | None = None
        if affine is None or target_affine is None:
            if self.size != self.target_size:
                raise MedsegError(
                    f"the image has the size {self.target_size}, the network's input {self.size}, and nothing says "
                    "where they lie: there is no way back to the image, its mask is not written"
                )
            return
        matrix = np.linalg.solve(np.asarray(affine, np.float64), np.asarray(target_affine, np.float64))
        self._check(matrix)
        self._matrix = matrix
        self._axes = [int(np.abs(matrix[:3, column]).argmax()) for column in range(3)]  # of each target axis, ours
        apart = matrix[:3, :3].copy()
        apart[self._axes, range(3)] = 0
        self._aligned = sorted(self._axes) == [0, 1, 2] and bool(
            (np.abs(apart) @ np.maximum(np.array(self.target_size) - 1, 1) < _TOLERANCE).all()
        )
        if self._aligned:
            self._positions, self._flipped = self._along_axes(matrix)

    @property
    def exact(self) -> bool:
        """Whether axes are permuted and flipped alone, and no value changes."""
        if self._matrix is None:
            return True
        return self._aligned and all(
            len(each) == edge and torch.equal(each, torch.arange(edge, dtype=each.dtype))
            for each, edge in zip(self._positions, self.size, strict=True)
        )

    def _check(self, matrix: NDArray[np.float64]) -> None:
        """Raise unless the file's grid lies on ours."""
        corners = np.stack(np.meshgrid(*[[0, edge - 1] for edge in self.target_size], indexing="ij")).reshape(3, -1)
        found = matrix[:3, :3] @ corners + matrix[:3, 3:]
        most = np.array(self.size)[:, None] - 1
        beyond = float(np.maximum(-found, found - most).max())
        if not beyond <= _BEYOND:
            raise MedsegError(
                f"the file's grid {self.target_size} reaches {beyond:.3g} voxels beyond the network's input "
                f"{self.size}: there is no way back to the image, its mask is not written; see that image and label "
                "lie in one place (medseg check)"
            )

    def _along_axes(self, matrix: NDArray[np.float64]) -> tuple[list[Tensor], list[int]]:
        """Return of each of our axes where the file's voxels lie on it, ascending, and which target axes are turned."""
        positions: list[Tensor] = [torch.empty(0)] * 3
        flipped = []
        for target, axis in enumerate(self._axes):
            found = matrix[axis, target] * np.arange(self.target_size[target]) + matrix[axis, 3]
            if matrix[axis, target] < 0:
                flipped.append(target)
                found = found[::-1]
            whole = np.rint(found)
            near = np.abs(found - whole).max() < _TOLERANCE
            positions[axis] = torch.from_numpy((whole if near else found).copy())
        return positions, flipped

    def blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Bring logits to the file's grid.

        Args:
            blocks: of one image on the network's grid, as `BlockInferer` orders them.

        Shape:
            blocks of ``(1, classes, *S)`` to blocks of ``(1, classes, *T)``.
        """
        if self._matrix is None:
            yield from blocks
        elif not self._aligned:
            yield from self._oblique(gather(blocks, (1, *self.size)))
        else:
            for block in resample(blocks, self.size, self._positions):
                yield Block(self._place(block.at), self._turned(block.logits))

    def classes(self, blocks: Iterable[Block]) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """Give the class of each voxel of the file's grid: of `blocks`, but classes are turned and no logits.

        Args:
            blocks: as `blocks` takes them.

        Yields:
            Where they lie, and indices as `classes_of` returns them, ``(1, *T)`` of a block.
        """
        if self._matrix is None or not self._aligned:
            for at, logits in self.blocks(blocks):
                yield at, classes_of(logits)
            return
        for block in resample(blocks, self.size, self._positions):
            yield self._place(block.at), self._turned(classes_of(block.logits))

    def _turned(self, values: Tensor) -> Tensor:
        """Permute and flip the axes of values whose last three are ours."""
        first = values.ndim - 3
        values = values.permute(*range(first), *(first + axis for axis in self._axes))
        return values.flip([first + axis for axis in self._flipped]) if self._flipped else values

    def _place(self, at: Sequence[slice]) -> tuple[slice, ...]:
        """Return where a block of ours lies in the file."""
        place = [at[1 + axis] for axis in self._axes]
        for axis in self._flipped:
            edge = self.target_size[axis]
            place[axis] = slice(edge - place[axis].stop, edge - place[axis].start)
        return (at[0], *place)

    def _oblique(self, logits: Tensor) -> Iterator[Block]:
        """Interpolate on a grid whose axes are not ours, such as of a tilted gantry: some of its planes at a time."""
        from monai.data import MetaTensor
        from monai.transforms import SpatialResample

        assert self._matrix is not None
        source = MetaTensor(logits[0].float(), affine=torch.eye(4, dtype=torch.float64))
        move = SpatialResample(mode="bilinear", padding_mode="border")
        width, height, depth = self.target_size
        planes = max(1, _AT_ONCE // (logits.shape[1] * width * height))
        for start in range(0, depth, planes):
            stop = min(depth, start + planes)
            shift = np.eye(4)
            shift[2, 3] = start
            affine = torch.from_numpy(self._matrix @ shift)
            moved: Tensor = move(source, dst_affine=affine, spatial_size=(width, height, stop - start)).as_tensor()
            yield Block((slice(0, 1), slice(0, width), slice(0, height), slice(start, stop)), moved[None])
