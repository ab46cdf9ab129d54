"""What an affine says of a voxel: its edges and its volume; and which axes of an image are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["single_axes", "voxel_edges", "voxel_volume"]

Affine = NDArray[np.float64]


def voxel_edges(affine: Affine) -> Affine:
    """Return the edges of a voxel along the three axes of the array, in mm.

    Args:
        affine: ``(4, 4)``, voxel to patient in mm, or its ``(3, 3)`` part.
    """
    edges: Affine = np.linalg.norm(affine[:3, :3], axis=0)
    return edges


def voxel_volume(affine: Affine) -> float:
    """Return the volume of a voxel in cubic mm: less than its edges multiplied where slices are sheared.

    Args:
        affine: ``(4, 4)``, voxel to patient in mm, or its ``(3, 3)`` part.
    """
    return float(abs(np.linalg.det(affine[:3, :3])))


def single_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the axes along which an image is one voxel, as a picture that is stored as a volume; one axis stays.

    A mask has no border along them: taken for a volume, each of its voxels would lie at one.

    Args:
        shape: of the whole image, spatial.
    """
    found = tuple(axis for axis, edge in enumerate(shape) if edge == 1)
    return found[1:] if len(found) == len(shape) else found
