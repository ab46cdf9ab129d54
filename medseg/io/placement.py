"""Where voxels lie in the patient: affines compared at the corners of the grid, orientation letters, undoing EXIF.

An affine maps the index of a voxel's centre to millimetres in RAS+ (x to the right, y to the front, z to the head), as
in NIfTI and nibabel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.io.image_file import Affine, ImageFile

__all__ = [
    "ROUNDING",
    "Difference",
    "Grid",
    "compare",
    "describe",
    "orientation",
    "right_handed",
    "spacing_of",
    "to_stored",
    "to_upright",
]

ROUNDING = 0.1
"""Part of a voxel below which two places are the same: headers keep float32, and quaternions lose more."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image lie, without the pixels.

    Args:
        shape: spatial shape of the upright array.
        affine: ``(4, 4)``, voxel to patient in mm, RAS+; ``None`` for pictures and stacks of them, rows first. A slice
            that a file of volumes holds alone, ``(X, Y)``, has one.
        orientation: EXIF or TIFF tag 274 as stored; 1 where there is none.
    """

    shape: tuple[int, ...]
    affine: Affine | None = None
    orientation: int = 1

    @classmethod
    def of(cls, image: ImageFile) -> Grid:
        """Return the grid of an image that was read."""
        return cls(tuple(image.shape), image.affine, image.orientation)


@dataclass(frozen=True)
class Difference:
    """How far two grids of one shape lie apart.

    Args:
        voxels: largest distance of a corner along an axis of the first grid, in its voxels.
        mm: largest distance of a corner in mm.
        origin: of the second less the first, in mm along x, y and z.
    """

    voxels: float
    mm: float
    origin: tuple[float, float, float]

    @property
    def same(self) -> bool:
        """Whether the difference is rounding."""
        return bool(self.voxels < ROUNDING)  # NaN is none


def _corners(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the outer corners of the grid, ``(4, 8)`` homogeneous; missing axes have one voxel."""
    edges = [(-0.5, edge - 0.5) for edge in (*shape, 1, 1, 1)[:3]]
    return np.array([(*corner, 1.0) for corner in itertools.product(*edges)]).T


def compare(first: Affine, second: Affine, shape: Sequence[int]) -> Difference:
    """Compare two affines at the outer corners of a grid.

    Args:
        first: ``(4, 4)``; its voxels are the measure.
        second: ``(4, 4)``.
        shape: spatial shape of both grids.

    Returns:
        The difference; without end (``inf``) where an affine is singular or not finite, which places nothing.
    """
    corners = _corners(shape)
    origin = second[:3, 3] - first[:3, 3]
    apart = (second - first) @ corners
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite(apart).all()) and abs(np.linalg.det(first[:3, :3])) > 0
        voxels = float(np.abs(np.linalg.solve(first[:3, :3], apart[:3])).max()) if finite else float("inf")
    mm = float(np.linalg.norm(apart[:3], axis=0).max()) if finite else float("inf")
    return Difference(voxels, mm, (float(origin[0]), float(origin[1]), float(origin[2])))


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the edge of a voxel along each axis of the array in mm."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    return float(edges[0]), float(edges[1]), float(edges[2])


def orientation(affine: Affine) -> str:
    """Return where the axes of the array point, to the nearest anatomical axis: ``"RAS"``, ``"LPS"``, ``"PSR"``."""
    import nibabel

    return "".join(letter or "?" for letter in nibabel.orientations.aff2axcodes(affine))


def right_handed(affine: Affine) -> bool:
    """Return whether the array's axes are right-handed in the patient (RAS and LPS are, LAS and RPS are mirrored)."""
    return bool(np.linalg.det(affine[:3, :3]) > 0)


def describe(affine: Affine) -> str:
    """Return orientation, origin and spacing for a message."""
    origin = ", ".join(f"{edge:.4g}" for edge in affine[:3, 3] + 0.0)  # + 0.0: no "-0"
    edges = " x ".join(f"{edge:.4g}" for edge in spacing_of(affine))
    return f"{orientation(affine)}, origin ({origin}) mm, spacing {edges}"


_UPRIGHT = {  # EXIF 2.32, tag 0x112: what turns the stored rows and columns upright
    1: lambda array: array,
    2: lambda array: array[..., ::-1],
    3: lambda array: array[..., ::-1, ::-1],
    4: lambda array: array[..., ::-1, :],
    5: lambda array: array.swapaxes(-1, -2),
    6: lambda array: array[..., ::-1, :].swapaxes(-1, -2),
    7: lambda array: array[..., ::-1, ::-1].swapaxes(-1, -2),
    8: lambda array: array[..., ::-1].swapaxes(-1, -2),
}
_INVERSE = {6: 8, 8: 6}  # every other one is its own inverse


def to_upright(array: NDArray[Any], tag: int) -> NDArray[Any]:
    """Turn stored pixels upright.

    Args:
        array: rows and columns are the last two axes.
        tag: EXIF orientation, 1 to 8.

    Shape:
        ``(..., H, W)`` to the same, or to ``(..., W, H)`` for 5 to 8.
    """
    return np.asarray(_UPRIGHT.get(tag, _UPRIGHT[1])(array))  # other values mean nothing


def to_stored(array: NDArray[Any], tag: int) -> NDArray[Any]:
    """Undo `to_upright`.

    Args:
        array: upright; rows and columns are the last two axes.
        tag: EXIF orientation, 1 to 8.
    """
    return to_upright(array, _INVERSE.get(tag, tag))
