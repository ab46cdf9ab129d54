"""Slices of a volume as radiologists hang them: patient's right on the left of the picture, true to scale, lettered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.affines import voxel_edges

__all__ = ["Plane", "anatomical_planes", "tilt"]

_NAMES = ("sagittal", "coronal", "axial")  # by the axis (x, y, z) that a plane is perpendicular to
_LETTERS = ("LR", "PA", "IS")  # where x, y and z begin and end


@dataclass(frozen=True)
class Plane:
    """One slice of a volume and how it is shown.

    Attributes:
        name: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        axis: of the array that it is perpendicular to.
        index: of the slice along it.
        pixel: height and width of a pixel in mm.
        letters: at the left, right, top and bottom edge.
    """

    name: str
    axis: int
    index: int
    pixel: tuple[float, float]
    letters: tuple[str, str, str, str]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of ``(X, Y, Z)`` as a picture: rows from head or front down, columns from right or front."""
        upright = np.transpose(volume, self.order)  # x, y, z
        world = self.order.index(self.axis)
        kept = [axis for axis in range(3) if axis != world]
        picture = np.take(upright, self.index, axis=world)
        # towards the right, the front and the head comes first: against the axes that point there
        backwards = tuple(slice(None) if self.flipped[axis] else slice(None, None, -1) for axis in kept)
        return np.asarray(picture[backwards].T)


def anatomical_planes(affine: NDArray[np.float64], interest: NDArray[np.bool_]) -> Iterator[Plane]:
    """Choose an axial, a coronal and a sagittal slice, each through most of what is interesting.

    The array is not resampled: of an oblique volume the planes are those of its own axes, named and lettered by the
    nearest anatomical ones (see `tilt`).

    Args:
        affine: ``(4, 4)``, voxel to patient in mm, RAS+.
        interest: voxels to show ``(X, Y, Z)``; of equal slices the one nearest to the middle is taken.

    Yields:
        The planes that are more than a line.
    """
    import nibabel

    facing = nibabel.orientations.io_orientation(affine)  # for each axis of the array: x, y or z, and its sign
    order = tuple(int(np.flatnonzero(facing[:, 0] == world)[0]) for world in range(3))
    flipped = tuple(bool(facing[axis, 1] < 0) for axis in order)
    edges = voxel_edges(affine)
    for world in (2, 1, 0):
        across, down = (axis for axis in range(3) if axis != world)
        shape = interest.shape[order[down]], interest.shape[order[across]]
        if 1 in shape:
            continue
        axis = order[world]
        counts = np.moveaxis(interest, axis, 0).reshape(interest.shape[axis], -1).sum(axis=1)
        middle = (len(counts) - 1) / 2
        index = max(range(len(counts)), key=lambda each, n=counts, m=middle: (n[each], -abs(each - m)))  # type: ignore[misc]
        yield Plane(
            _NAMES[world],
            axis,
            index,
            (float(edges[order[down]]), float(edges[order[across]])),
            (_LETTERS[across][1], _LETTERS[across][0], _LETTERS[down][1], _LETTERS[down][0]),
            order,  # type: ignore[arg-type]
            flipped,  # type: ignore[arg-type]
        )


def tilt(affine: NDArray[np.float64]) -> float:
    """Return by how many degrees the axes of an array lie off the anatomical ones, at most."""
    axes = affine[:3, :3] / voxel_edges(affine)
    return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0), 0, 1)).max()))
