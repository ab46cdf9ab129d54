"""QuPath's GeoJSON: one file of annotations beside each picture, called as the picture.

Export "Objects as GeoJSON" (https://qupath.readthedocs.io): polygons in pixels of the full picture, with holes; the
classification is the class. Objects without one are named and left out; what lies in QuPath's own class ``Ignore*``
counts nowhere (255).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import counted, shown
from medseg.importers.drawing import IGNORED, Mask, Segment, fill_polygons, numbered, painter
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options

__all__ = ["Qupath"]

_IGNORE = "Ignore*"


class Qupath(Layout):
    """``.geojson`` files with the names of pictures."""

    name = "qupath"
    looks_for = "GeoJSON files called as pictures beside them"

    def recognise(self, folder: Folder) -> str | None:
        """Look for a GeoJSON file whose name a picture has."""
        pairs = _pairs(folder)
        return f"{folder.rel(next(iter(pairs)))} has the name of a picture" if pairs else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Draw the polygons of every picture."""
        pairs = _pairs(folder)
        found = Found(self.name, "said so", [], used=set(pairs))
        for path, several in _called(folder).items():
            if len(several) > 1:
                names_of = ", ".join(image.name for image in several)
                found.left_out[path] = f"called as {names_of}; call it as one of them with its suffix"
        features = {path: _features(path) for path in pairs}
        names = sorted({name for several in features.values() for feature in several if (name := _class(feature))})
        if _IGNORE in names:
            names.remove(_IGNORE)
            found.ignore = IGNORED
        found.labels = numbered(names, options, folder.root)
        colours = {_class(f): _colour(f) for several in features.values() for f in several}
        found.colours = {index: colour for index, name in found.labels.items() if (colour := colours.get(name))}
        for path, image in pairs.items():
            segments = []
            for feature in features[path]:
                name = _class(feature)
                if name:
                    segments.append(_segment(name, feature.get("geometry"), f"{shown(path)}: {shown(name)}"))
            without = len(features[path]) - len(segments)
            if without:
                found.notes.append(
                    f"{folder.rel(path)}: {counted(without, 'object')} without a classification not drawn"
                )
            label = painter(segments, found.labels, options.order, path, lost=found.lost)
            found.cases.append(Case(stem_of(image), (image,), label))
        return found


def _pairs(folder: Folder) -> dict[Path, Path]:
    """Return the picture of each file of objects that is called as one alone."""
    return {path: images[0] for path, images in _called(folder).items() if len(images) == 1}


def _called(folder: Folder) -> dict[Path, list[Path]]:
    """Return the pictures that each file of objects is called as, if there are any."""
    images: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in folder.images:
        images[path.parent, stem_of(path)].append(path)
    exact = {(path.parent, path.name): [path] for path in folder.images}  # QuPath may keep the picture's suffix
    files = [path for path in folder.files if path.suffix.lower() == ".geojson"]
    found = {path: exact.get((path.parent, path.stem)) or images.get((path.parent, path.stem), []) for path in files}
    return {path: pictures for path, pictures in found.items() if pictures}


def _features(path: Path) -> list[dict[str, Any]]:
    """Return the features of a file: a collection, a list or one feature."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ImportingError(f"{shown(path)}: not valid JSON ({error}); export it again from QuPath") from error
    listed = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "geometry" in each for each in listed):
        raise ImportingError(f"{shown(path)}: holds no GeoJSON features; export objects as GeoJSON from QuPath")
    return listed


def _classification(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}


def _class(feature: dict[str, Any]) -> str:
    found = _classification(feature)
    names = found.get("names")
    return str(found.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else ""))


def _colour(feature: dict[str, Any]) -> str:
    colour = _classification(feature).get("color")
    valid = isinstance(colour, list) and len(colour) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in colour)
    return "#" + "".join(f"{value:02x}" for value in colour) if valid and colour else ""


def _segment(name: str, geometry: Any, where: str) -> Segment:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ImportingError(f"{where}: is a {kind}, which has no area; export annotations that are areas")
    parts = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    try:
        rings = [[[float(v) for point in ring for v in point[:2]] for ring in polygon] for polygon in parts]
    except (TypeError, ValueError) as error:
        raise ImportingError(
            f"{where}: its coordinates are no pairs of numbers; export it again from QuPath"
        ) from error

    def draw(canvas: tuple[int, ...]) -> Mask:
        whole = np.zeros(canvas, bool)
        for polygon in rings:  # an island in a hole is a polygon of its own
            whole |= fill_polygons(polygon[:1], canvas, where, polygon[1:])
        return whole

    return Segment(None if name == _IGNORE else name, draw)
