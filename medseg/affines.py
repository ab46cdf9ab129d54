"""What an affine says of a voxel: its edges and its volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["voxel_edges", "voxel_volume"]

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
