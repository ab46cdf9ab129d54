"""Outlines for QuPath: ``CASE.geojson`` beside the mask of each picture, an annotation each connected part of a class.

"File > Import objects from file" reads it; `medseg import` reads it back. Coordinates are pixels, 0, 0 being the corner
of the first one; rings are closed and holes are kept (RFC 7946, but for its geographic coordinates). Pages of a stack
are planes z. Of a NIfTI of two axes, x goes along the first axis of the file and y along the second, as it is stored;
its place in the patient is not in the outlines. Of a picture that is stored turned (EXIF), the outlines are those of
the picture as it is seen upright.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.errors import MedsegError
from medseg.io.placement import Grid
from medseg.prediction.outlines import outlines
from medseg.prediction.sinks import Case, Result, RunInfo
from medseg.reports.palette import class_colours, class_palette

__all__ = ["Geojson"]


class Geojson:
    """Writes one file a picture; volumes, which QuPath does not open, are refused."""

    wants: frozenset[str] = frozenset()

    def open(self, run: RunInfo) -> None:
        """Begin a run.

        Raises:
            MedsegError: if the model takes volumes alone.
        """
        if run.description.spatial_dims != 2:
            raise MedsegError("--geojson outlines pictures, and this model takes volumes; use --measurements, or masks")
        names = list(run.description.classes)
        colours = class_colours(len(names), run.description.colours)
        drawn = class_palette(names, run.description.colours)
        self._classes = [
            (index, {"name": name, "color": list(colours[index])})
            for index, name in enumerate(names)
            if drawn[index] is not None
        ]

    def refuse(self, case: Case, grid: Grid) -> None:
        """Refuse a volume.

        Raises:
            MedsegError: if it is one.
        """
        if grid.affine is not None and len(grid.shape) != 2:
            raise MedsegError("it lies in a patient, and --geojson outlines pictures; leave --geojson out for it")

    def files(self, case: Case) -> list[Path]:
        """Return the outlines' file."""
        return [case.beside(".geojson")]

    def has(self, case: Case) -> bool:
        """Return true: nothing is shared."""
        return True

    def write(self, case: Case, result: Result) -> None:
        """Write the outlines."""
        placed = result.grid.affine is not None
        pages = result.mask if result.mask.ndim == 3 else (result.mask.T if placed else result.mask)[None]
        features = []
        for index, classification in self._classes:
            for number, page in enumerate(pages):
                plane = {"plane": {"c": -1, "z": number, "t": 0}} if result.mask.ndim == 3 else {}
                for polygons in outlines(page == index):
                    one = len(polygons) == 1
                    geometry: dict[str, Any] = {"type": "Polygon" if one else "MultiPolygon"}
                    geometry |= {"coordinates": polygons[0] if one else polygons, **plane}
                    properties = {"objectType": "annotation", "classification": classification}
                    features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        (target,) = self.files(case)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary, temporary.open("w", encoding="utf-8") as file:
            json.dump({"type": "FeatureCollection", "features": features}, file, separators=(",", ":"))

    def close(self) -> None:
        """End the run."""
