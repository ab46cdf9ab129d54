"""Sizes of what was found, in ``measurements.csv``: per class and per connected part, in millimetres of the file.

A part is joined where voxels touch, also at corners, as in the postprocessing. Of a class without a voxel there is a
row of zeros, so that what was not found is not mistaken for what was not looked for. The background is not measured.
The parts of a class stand in the order of their sizes, the largest is number 1. Numbers have six digits.

- ``volume_ml``: of volumes.
- ``area_mm2``: of the largest cross-section, across the axis of the array with
  the greatest distance between voxels (of equals, the last).
- ``mean_intensity``: of the image as its file stores it (of CT: HU), of several channels with semicolons between them.
- ``longest_diameter_mm``: the largest distance of two points of the surface that runs midway between voxels inside and
  outside, as of scikit-image's and pyradiomics' marching cubes.
- ``unlike_training``: how the case is unlike what the model was trained on (`medseg.bundle.usual`); else empty.

Pictures state no size of their pixels that is reliable: ``area_px`` and ``longest_diameter_px`` are in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.affines import voxel_edges, voxel_volume
from medseg.prediction.case_table import CaseTable
from medseg.prediction.sinks import VALUES, Case, Result, RunInfo
from medseg.reports.palette import background_index

__all__ = ["COLUMNS", "WHOLE", "Measured", "Measurements", "measure", "parts_of"]

COLUMNS = (
    "class", "class_name", "part", "voxels", "volume_ml", "area_mm2", "area_px", "mean_intensity",
    "longest_diameter_mm", "longest_diameter_px", "unlike_training",
)  # fmt: skip
WHOLE = "all"
"""What stands in place of a part's number in the row of a class; it follows those of the class's parts."""

FILE = "measurements.csv"

Means = tuple[float, ...]

_FEW = 64  # points whose distances are all measured; of more, those of their convex hull


@dataclass(frozen=True)
class Measured:
    """One part of a class, or all of them.

    Args:
        index: of the class.
        part: number from 1, the largest first, see `parts_of`; ``None`` for the class.
        voxels: how many.
        size: in cubic mm of volumes, in pixels of pictures.
        area: of the largest cross-section, of a picture all of it, in ``unit`` squared.
        mean: of the image's values by channel; NaN of no voxel.
        diameter: the longest, in ``unit``.
        volume: whether the image is a volume, whose voxels have a size.
    """

    index: int
    part: int | None
    voxels: int
    size: float
    area: float
    mean: Means
    diameter: float
    volume: bool

    @property
    def unit(self) -> str:
        """Of lengths: ``"mm"``, of pictures ``"px"``."""
        return "mm" if self.volume else "px"

    def row(self, names: Sequence[str]) -> dict[str, Any]:
        """Return it by column.

        Args:
            names: of the classes.
        """
        mean = ";".join(f"{value:.6g}" for value in self.mean) if self.voxels else ""
        return {
            "class": self.index,
            "class_name": names[self.index],
            "part": WHOLE if self.part is None else self.part,
            "voxels": self.voxels,
            "volume_ml": _digits(self.size / 1000) if self.volume else None,
            "area_mm2" if self.volume else "area_px": _digits(self.area) if self.volume else round(self.area),
            "mean_intensity": mean,
            f"longest_diameter_{self.unit}": _digits(self.diameter),
        }


def _digits(value: float) -> float:
    """Return a number of six digits: float32 of a header, and a border of half a voxel, know no more."""
    return float(f"{value:.6g}")


def measure(
    mask: NDArray[Any],
    values: NDArray[Any] | None,
    affine: NDArray[np.float64] | None,
    classes: Sequence[int],
) -> Iterator[Measured]:
    """Measure classes and their parts.

    Args:
        mask: class indices ``(*S)``; of a stack of pages parts go from one to the next, and area and diameter are those
            of the page where they are largest.
        values: of the image ``(C, *S)``; ``None`` measures none.
        affine: ``(4, 4)`` voxel to patient in mm; ``None`` for pictures, whose pixels have no known size.
        classes: indices that are measured.

    Yields:
        of each class its parts, then all of it.
    """
    space = _Space(affine, flat=mask.ndim == 2)
    if mask.ndim == 2:
        page = 0 if affine is None else 2  # what an affine's third axis counts, or one of many pages
        mask, values = np.expand_dims(mask, page), None if values is None else np.expand_dims(values, page + 1)
    boxes = [tuple(slice(0, edge) for edge in mask.shape), *ndimage.find_objects(mask, max_label=max(classes))]
    for index in classes:
        box = boxes[index]
        if box is None:
            yield space.of(index, None, mask[:0], 0, (float("nan"),) * (0 if values is None else len(values)))
            continue
        yield from _parts(index, mask[box] == index, None if values is None else values[(slice(None), *box)], space)


class _Space:
    """What an affine makes of voxels."""

    def __init__(self, affine: NDArray[np.float64] | None, *, flat: bool = False) -> None:
        self.volume = affine is not None
        self.matrix = np.eye(3) if affine is None else affine[:3, :3]
        self.voxel, edges = voxel_volume(self.matrix), voxel_edges(self.matrix)
        # pages lie along the first axis, the only plane of a slice that knows its place across the third
        widest = max(range(3), key=lambda axis: (round(float(edges[axis]), 4), axis))
        self.across = 0 if affine is None else 2 if flat else widest
        first, second = (self.matrix[:, axis] for axis in range(3) if axis != self.across)
        self.pixel = float(np.linalg.norm(np.cross(first, second)))

    def area(self, part: NDArray[np.bool_]) -> float:
        """Return the largest area of a cross-section."""
        others = tuple(axis for axis in range(3) if axis != self.across)
        return float(np.count_nonzero(part, axis=others).max(initial=0)) * self.pixel

    def diameter(self, part: NDArray[np.bool_]) -> float:
        """Return the largest distance of two points midway between a voxel inside and one outside."""
        if self.volume:
            return _longest(np.concatenate([_midway(part, axis) for axis in range(3)]) @ self.matrix.T)
        return max(
            (_longest(np.concatenate([_midway(page, axis) for axis in range(2)])) for page in part if page.any()),
            default=0.0,
        )

    def of(self, index: int, part: int | None, found: NDArray[np.bool_], voxels: int, mean: Means) -> Measured:
        """Measure voxels whose number and mean are known."""
        area, diameter = (self.area(found), self.diameter(found)) if voxels else (0.0, 0.0)
        return Measured(index, part, voxels, voxels * self.voxel, area, mean, diameter, self.volume)


def parts_of(found: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the connected parts of a class, numbered from 1, the largest first, and how many there are.

    Args:
        found: where the class is, ``(X, Y, Z)``; parts that touch at a corner are one. Of parts of one size the first
            is the one whose first voxel is.
    """
    labels, number = ndimage.label(found, ndimage.generate_binary_structure(3, 3))
    order = np.argsort(-np.bincount(labels.ravel(), minlength=number + 1)[1:], kind="stable")
    numbers = np.zeros(number + 1, np.int32)
    numbers[1 + order] = np.arange(1, number + 1)
    return numbers[labels], int(number)


def _parts(index: int, found: NDArray[np.bool_], values: NDArray[Any] | None, space: _Space) -> Iterator[Measured]:
    """Measure the parts of a class, then the class."""
    labels, number = parts_of(found)
    flat = labels.ravel()
    counts = np.bincount(flat, minlength=number + 1)
    sums = [np.bincount(flat, weights=one.ravel(), minlength=number + 1) for one in (() if values is None else values)]
    for part, box in enumerate(ndimage.find_objects(labels), start=1):
        mean = tuple(float(each[part] / counts[part]) for each in sums)
        yield space.of(index, part, labels[box] == part, int(counts[part]), mean)
    voxels = int(counts[1:].sum())
    mean = tuple(float(each[1:].sum() / voxels) if voxels else float("nan") for each in sums)
    yield space.of(index, None, found, voxels, mean)


def _midway(part: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    """Return the points between a voxel inside and its neighbour outside along an axis, in voxels."""
    padded = np.moveaxis(np.pad(part, [(1, 1) if each == axis else (0, 0) for each in range(part.ndim)]), axis, 0)
    points = np.argwhere(np.moveaxis(padded[1:] != padded[:-1], 0, axis)).astype(np.float64)
    points[:, axis] -= 0.5
    return points


def _longest(points: NDArray[np.float64]) -> float:
    """Return the largest distance of two points; none lie in one plane or on one line."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import cdist

    if len(points) > _FEW:
        points = points[ConvexHull(points).vertices]
    return max(float(cdist(points[start : start + _FEW], points).max()) for start in range(0, len(points), _FEW))


class Measurements:
    """Writes ``measurements.csv`` into the folder of the outputs."""

    wants = frozenset({VALUES})

    def open(self, run: RunInfo) -> None:
        """Read what an earlier run measured.

        Raises:
            MedsegError: if the file is another table.
        """
        self._names = list(run.description.classes)
        background = background_index(self._names)
        self._classes = [index for index in range(len(self._names)) if index != background]
        ends = str(max(self._classes, default=""))

        def last(row: Mapping[str, Any]) -> bool:
            return (row["class"], row["part"]) == (ends, WHOLE)

        self._table = CaseTable(run.output / FILE, COLUMNS, run.model, last)

    def files(self, case: Case) -> list[Path]:
        """Return none: all cases share a file."""
        return []

    def has(self, case: Case) -> bool:
        """Return whether the case's rows are there."""
        return self._table.has(case.name)

    def write(self, case: Case, result: Result) -> None:
        """Measure the case."""
        found = measure(result.mask, result.values, result.grid.affine, self._classes)
        rows = [each.row(self._names) for each in found]
        self._table.add(case.name, [{**row, "unlike_training": "; ".join(result.doubts)} for row in rows])

    def close(self) -> None:
        """Put the rows in order, where cases were done in another."""
        self._table.close()

    def take(self, folder: Path) -> None:
        """Add the rows of the table in another folder."""
        self._table.take(folder / FILE)
