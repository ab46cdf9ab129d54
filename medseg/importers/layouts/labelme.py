"""labelme: a JSON file with ``shapes`` beside each picture (https://github.com/wkentaro/labelme).

Polygons, rectangles, circles and masks are drawn; lines and points have no area and are named. ``__ignore__`` counts
nowhere (255), ``_background_`` is the background.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import counted, shown
from medseg.importers.drawing import IGNORED, Mask, Segment, fill_polygons, numbered, painter
from medseg.importers.folder import Folder
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options
from medseg.importers.said import class_names

__all__ = ["Labelme"]

_AREAS = ("polygon", "rectangle", "circle", "mask")
_NAMES = ("labels.txt", "class_names.txt", "classes.txt")
_CORNERS = 64  # of a circle
_LOOKED_AT = 5


class Labelme(Layout):
    """JSON files with ``shapes`` and ``imagePath``."""

    name = "labelme"
    looks_for = "JSON files with shapes and imagePath, one a picture"

    def recognise(self, folder: Folder) -> str | None:
        """Look into the first JSON files."""
        files = [path for path in folder.files if path.suffix.lower() == ".json"]
        fitting = [path for path in files[:_LOOKED_AT] if _fits(folder, path)]
        return f"{folder.rel(fitting[0])} has shapes and imagePath" if fitting else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Draw the shapes of every picture."""
        files = [path for path in folder.files if path.suffix.lower() == ".json" and _fits(folder, path)]
        found = Found(self.name, "said so", [], used=set(files))
        shapes = {path: _shapes(folder, path, found) for path in files}
        names = [shape["label"] for several in shapes.values() for shape in several]
        found.labels = numbered(_order(names, folder, found), options, folder.root)
        if "__ignore__" in names:
            found.ignore = IGNORED
        known = set(folder.images)
        for path in files:
            image = (path.parent / str(folder.read_json(path)["imagePath"]).replace("\\", "/")).resolve()
            picture = next((each for each in (image, path.parent / image.name) if each in known), None)
            if picture is None:
                found.left_out[path] = f"its picture {image.name} is neither where it says nor beside it"
                continue
            segments = [_segment(shape, path) for shape in shapes[path] if shape["label"] != "_background_"]
            content = folder.read_json(path)
            size = (content.get("imageWidth"), content.get("imageHeight"))
            label = painter(segments, found.labels, options.order, path, size, found.lost)
            found.cases.append(Case(path.stem, (picture,), label, files=(path,)))
        return found


def _fits(folder: Folder, path: Path) -> bool:
    content = folder.peek_json(path)
    return isinstance(content.get("shapes"), list) and isinstance(content.get("imagePath"), str)


def _shapes(folder: Folder, path: Path, found: Found) -> list[dict[str, Any]]:
    """Return the shapes that have an area; the others are named in a note."""
    kept = []
    for number, shape in enumerate(folder.read_json(path)["shapes"]):
        valid = (
            isinstance(shape, dict) and isinstance(shape.get("label"), str) and isinstance(shape.get("points"), list)
        )
        if not valid:
            raise ImportingError(f"{shown(path)}: shapes[{number}] lacks label or points; save it again with labelme")
        kind = shape.get("shape_type") or "polygon"
        if kind in _AREAS:
            kept.append(shape)
        else:
            found.notes.append(f"{folder.rel(path)}: {shape['label']} is a {kind}, which has no area, and is not drawn")
    return kept


def _order(names: list[str], folder: Folder, found: Found) -> list[str]:
    """Return the class names in the order of a file of names, if there is one that has them all."""
    own = [name for name in dict.fromkeys(names) if name not in ("__ignore__", "_background_")]
    for path in (folder.root / name for name in _NAMES):
        if path.is_file() and set(own) <= set(listed := class_names(path)):
            found.used.add(path)
            return listed
    return sorted(own)


def _segment(shape: dict[str, Any], path: Path) -> Segment:
    name = None if shape["label"] == "__ignore__" else shape["label"]
    kind, where = shape.get("shape_type") or "polygon", f"{shown(path)}: {shown(shape['label'])}"
    try:
        points = np.array([[float(value) for value in point] for point in shape["points"]])
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ValueError("points are not pairs of numbers")
    except (TypeError, ValueError) as error:
        raise ImportingError(f"{where}: {error}; save it again with labelme") from error
    if kind == "mask":
        return Segment(name, lambda canvas: _mask(shape, points, canvas, where))
    if kind in ("rectangle", "circle") and len(points) != 2:
        raise ImportingError(
            f"{where}: a {kind} has {counted(len(points), 'point')}, not 2; save it again with labelme"
        )
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if kind == "circle":
        turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        points = points[0] + np.linalg.norm(points[1] - points[0]) * np.stack([np.cos(turn), np.sin(turn)], 1)
    return Segment(name, lambda canvas: fill_polygons([points.ravel()], canvas, where))


def _mask(shape: dict[str, Any], points: Any, canvas: tuple[int, ...], where: str) -> Mask:
    """Place the PNG of a mask with its first point as the upper left pixel."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as picture:
            pixels = np.asarray(picture.convert("L")) > 0
    except Exception as error:  # Pillow raises nearly every type on damaged bytes
        raise ImportingError(f"{where}: its mask is damaged ({error}); save it again with labelme") from error
    left, top = (round(value) for value in points[0])
    whole = np.zeros(canvas, bool)
    part = whole[max(top, 0) : top + pixels.shape[0], max(left, 0) : left + pixels.shape[1]]
    if min(top, left) < 0 or part.shape != pixels.shape:
        raise ImportingError(f"{where}: its mask reaches beyond the picture; save it again with labelme")
    part[...] = pixels
    return whole
