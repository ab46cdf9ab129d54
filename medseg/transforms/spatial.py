"""Rotation, scale and elastic deformation of a patch in one interpolation, and mirroring, on plain tensors.

After F. Isensee et al., "nnU-Net", https://arxiv.org/abs/1809.10486, whose probabilities and ranges are the defaults:
a fifth of the patches is turned by up to 30 degrees about each axis (180 in a plane), a fifth is scaled by 0.7 to 1.4;
no elastic deformation. Deviations: labels are taken from the nearest voxel, so that a label is always one that was
there, for any number of classes at the price of one; the displacement is interpolated between random control points.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from medseg.errors import MedsegError
from medseg.transforms.scene import SceneTransform

__all__ = ["RandSpatiald"]

Matrix = npt.NDArray[np.float64]

ANISOTROPIC = 3.0  # nnU-Net's: a patch whose longest edge is more times the shortest is turned in its plane alone


class RandSpatiald(SceneTransform):
    """Turn, scale and bend images and labels together; give the patch in the middle of what was read.

    What lies outside of the sample is as at its border, in image and label alike. A sample of which more than the patch
    was read (`reads`) shows no border.

    Args:
        keys: of images (bilinear) and labels (nearest).
        roi_size: edges of the patch in pixels, one an axis.
        rotation: largest angle in degrees, about each axis in 3D; by default 30, and 180 in a plane.
        scale: least and largest factor by which structures grow.
        elastic: largest displacement in pixels, along each axis.
        prob_rotation: of being turned.
        prob_scale: of being scaled.
        prob_elastic: of being bent.
        spacing: of the voxels along each axis, for rotations of patients and not of arrays; ``None`` for cubes.
        in_plane: turn in the plane of the two longest edges alone; by default where the longest edge is more than three
            times the shortest. The plane's slices are then not mixed by scaling either.
        label_keys: which keys are labels.

    Raises:
        MedsegError: if an option is out of range, or the sample has other axes, or is smaller than the patch.

    Shape:
        ``(C, *S)`` to ``(C, *roi_size)``, type of labels kept.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        roi_size: Sequence[int],
        rotation: float | None = None,
        scale: Sequence[float] = (0.7, 1.4),
        elastic: float = 4.0,
        prob_rotation: float = 0.2,
        prob_scale: float = 0.2,
        prob_elastic: float = 0.0,
        spacing: Sequence[float] | None = None,
        in_plane: bool | None = None,
        label_keys: Sequence[Hashable] = ("label",),
    ) -> None:
        super().__init__(keys, label_keys)
        self.roi_size = tuple(int(edge) for edge in roi_size)
        dims = len(self.roi_size)
        if dims not in (2, 3) or min(self.roi_size) < 1:
            raise MedsegError(f"roi_size is {list(roi_size)}; give two or three edges of at least 1 pixel")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise MedsegError(f"scale is {list(scale)}; give the least and the largest factor, above 0")
        if elastic < 0:
            raise MedsegError(f"elastic is {elastic}; give the largest displacement in pixels")
        self.probabilities = (prob_rotation, prob_scale, prob_elastic)
        if not all(0 <= prob <= 1 for prob in self.probabilities):
            raise MedsegError(f"probabilities are {self.probabilities}; they must be in [0, 1]")
        self.spacing = np.asarray(spacing if spacing is not None else [1.0] * dims, np.float64)
        if len(self.spacing) != dims or self.spacing.min() <= 0:
            raise MedsegError(f"spacing is {list(self.spacing)}; give {dims} numbers above 0")
        flat = max(self.roi_size) > ANISOTROPIC * min(self.roi_size) if in_plane is None else in_plane
        self.through = int(np.argmin(self.roi_size)) if dims == 3 and flat else None
        usual = 30.0 if dims == 3 and self.through is None else 180.0
        self.rotation = math.radians(usual if rotation is None else rotation)
        self.scale = (float(scale[0]), float(scale[1]))
        self.elastic = float(elastic)
        self._matrix: Matrix | None = None
        self._bent: Tensor | None = None

    def reads(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Return what must be read so that a patch of this size shows no border, however it is turned and scaled.

        Args:
            patch: edges in pixels.
        """
        if tuple(patch) != self.roi_size:
            raise MedsegError(f"roi_size is {list(self.roi_size)}, but patches are {list(patch)}; give both the same")
        half = (np.asarray(patch, np.float64) - 1) / 2
        if self.probabilities[0]:
            half = self._turned_extent(half)
        if self.probabilities[1]:
            half = self._between(half, half / self.scale[0])
        if self.probabilities[2]:
            half = self._between(half, half + self.elastic)
        wider = np.ceil(half - (np.asarray(patch) - 1) / 2 - 1e-6)  # on each side
        return tuple(int(edge + 2 * more) for edge, more in zip(patch, wider, strict=True))

    def _turned_extent(self, half: Matrix) -> Matrix:
        """Return how far the corners of a box reach along each axis when it is turned by any allowed angle."""
        size = half * self.spacing
        for first, second in reversed(self._planes()):  # as the matrix turns a place of the patch
            best = size[[first, second]].copy()
            for angle in np.linspace(0, min(self.rotation, math.pi / 2), 91):
                c, s = abs(math.cos(angle)), abs(math.sin(angle))
                turned = (c * size[first] + s * size[second], s * size[first] + c * size[second])
                best = np.maximum(best, turned)
            size[[first, second]] = best
        return np.asarray(size / self.spacing)

    def _between(self, before: Matrix, after: Matrix) -> Matrix:
        """Return ``after``, but for the axis through the plane, which stays."""
        if self.through is not None:
            after[self.through] = before[self.through]
        return after

    def _planes(self) -> list[tuple[int, int]]:
        if len(self.roi_size) == 2:
            return [(0, 1)]
        planes = [(1, 2), (0, 2), (0, 1)]  # normal to axis 0, 1, 2
        return planes if self.through is None else [planes[self.through]]

    def randomize(self, data: Any = None) -> None:
        """Draw the matrix from patch to sample, and the displacement."""
        turn, scale, bend = (self.R.rand() < prob for prob in self.probabilities)
        dims = len(self.roi_size)
        matrix = np.eye(dims)
        if turn:
            for first, second in self._planes():
                angle = self.R.uniform(-self.rotation, self.rotation)
                rotation = np.eye(dims)
                rotation[[first, second], [first, second]] = math.cos(angle)
                rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
                matrix = matrix @ rotation
            matrix = matrix * self.spacing / self.spacing[:, None]
        if scale:
            factors = np.full(dims, 1 / self._factor())
            matrix = matrix * self._between(np.ones(dims), factors)
        self._matrix = matrix if turn or scale else None
        self._bent = self._displacement() if bend else None

    def _factor(self) -> float:
        """Draw a factor; one below 1 is as likely as one above."""
        low, high = self.scale
        if low < 1 < high:
            low, high = (low, 1.0) if self.R.rand() < 0.5 else (1.0, high)
        return float(self.R.uniform(low, high))

    def _displacement(self) -> Tensor:
        """Draw a displacement in pixels at control points ``(1, dims, *controls)``; it is smooth between them."""
        dims = len(self.roi_size)
        apart = self.R.uniform(8, 16)  # pixels between control points
        controls = [max(2, round(edge / apart) + 1) for edge in self.roi_size]
        drawn = torch.as_tensor(self.R.uniform(-1, 1, (1, dims, *controls)), dtype=torch.float32)
        size = self.elastic * float(self.R.uniform(0, 1))
        if self.through is not None:
            drawn[:, self.through] = 0
        return drawn * size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform a sample."""
        tensors = self.tensors(data)
        size = tuple(next(iter(tensors.values())).shape[1:])
        fits = len(size) == len(self.roi_size) and all(a >= b for a, b in zip(size, self.roi_size, strict=True))
        if not fits:
            raise MedsegError(f"roi_size is {list(self.roi_size)}, but the sample has the size {list(size)}; pad it")
        self.randomize()
        changed = dict(data)
        if self._matrix is None and self._bent is None:
            starts = [(a - b) // 2 for a, b in zip(size, self.roi_size, strict=True)]
            middle = tuple(slice(start, start + edge) for start, edge in zip(starts, self.roi_size, strict=True))
            return {**changed, **{key: tensor[(slice(None), *middle)] for key, tensor in tensors.items()}}
        places = self._places(size, next(iter(tensors.values())).device)
        grid = index = None
        for key, tensor in tensors.items():
            if key in self.label_keys:
                index = _nearest(places, size) if index is None else index
                changed[key] = tensor.flatten(1).index_select(1, index).view(-1, *self.roi_size)
            else:
                grid = _grid(places, size) if grid is None else grid
                values = grid_sample(tensor[None].float(), grid, padding_mode="border", align_corners=False)
                changed[key] = values[0]
        return changed

    def _places(self, size: Sequence[int], device: torch.device) -> list[Tensor]:
        """Return where in the sample each pixel of the patch lies, in pixels along each axis, each ``roi_size``."""
        dims = len(self.roi_size)
        starts = [(a - b) // 2 for a, b in zip(size, self.roi_size, strict=True)]
        centre = [start + (edge - 1) / 2 for start, edge in zip(starts, self.roi_size, strict=True)]
        axes = [torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2 for edge in self.roi_size]
        matrix = np.eye(dims) if self._matrix is None else self._matrix
        bent = None
        if self._bent is not None:
            mode, controls = "trilinear" if dims == 3 else "bilinear", self._bent.to(device, non_blocking=True)
            bent = interpolate(controls, self.roi_size, mode=mode, align_corners=True)[0]
        places = []
        for row in range(dims):
            along = torch.full((), centre[row], device=device)
            for axis in range(dims):
                if matrix[row, axis]:
                    shape = [-1 if other == axis else 1 for other in range(dims)]
                    along = along + (axes[axis] * float(matrix[row, axis])).view(shape)
            places.append((along if bent is None else along + bent[row]).expand(self.roi_size))
        return places


def _grid(places: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return places as `grid_sample` wants them: last axis first, from -1 to 1 between the borders of the sample."""
    grid = torch.empty((1, *places[0].shape, len(places)), device=places[0].device)
    for along, edge, into in zip(places, size, reversed(grid.unbind(-1)), strict=True):
        torch.mul(along, 2 / edge, out=into[0]).add_(1 / edge - 1)
    return grid


def _nearest(places: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return the number of the pixel of the sample that is nearest to each place, at its border where it is outside."""
    index = torch.zeros((), dtype=torch.int64, device=places[0].device)
    for along, edge in zip(places, size, strict=True):
        index = index * edge + along.round().clamp_(0, edge - 1).long()
    return index.flatten()
