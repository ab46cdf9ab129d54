"""CVAT for images 1.1: one XML file of polygons, boxes, ellipses and masks (https://docs.cvat.ai, format CVAT).

``z_order`` says what lies on top. The attribute ``subset`` says the list. CVAT's polylines and points have no area.
CVAT for video 1.1 numbers frames and names no file: it is refused, since CVAT exports the same task for images too.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from medseg.errors import shown
from medseg.importers.drawing import Mask, Segment, fill_polygons, numbered, painter
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options
from medseg.importers.layouts.pairs import split_of

__all__ = ["Cvat"]

_AREAS = ("polygon", "box", "ellipse", "mask")
_CORNERS = 128
_START = 4096


class Cvat(Layout):
    """An XML file whose first element is ``annotations``."""

    name = "cvat"
    looks_for = "an XML file with <annotations> and <image>"

    def recognise(self, folder: Folder) -> str | None:
        """Look at the beginning of the XML files."""
        files = _files(folder)
        return f"{folder.rel(files[0])} begins with <annotations>" if files else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Draw the shapes of every image."""
        files = _files(folder)
        found = Found(self.name, "said so", [], used=set(files))
        trees = {path: _parse(path) for path in files}
        named = [label.findtext("name", "") for tree in trees.values() for label in tree.iterfind("meta//labels/label")]
        drawn = [s.get("label", "") for tree in trees.values() for s in tree.iterfind("image/*") if s.tag in _AREAS]
        used = [name for name in named if name in drawn] if set(drawn) <= set(named) else sorted(set(drawn))
        found.labels = numbered(used, options, folder.root)
        for path, tree in trees.items():
            for image in tree.iterfind("image"):
                self._image(folder, path, image, options, found)
        return found

    def _image(self, folder: Folder, path: Path, image: ElementTree.Element, options: Options, found: Found) -> None:
        name = image.get("name", "").replace("\\", "/")
        places = (path.parent / name, path.parent / "images" / name, folder.root / name)
        file = next((place for place in places if place in folder.images), None)
        anywhere = [each for each in folder.called(Path(name).name) if each in folder.images]
        file = file or (anywhere[0] if len(anywhere) == 1 else None)
        if file is None:
            found.left_out[path.parent / name] = f"named by {folder.rel(path)}, but no such file"
            return
        flat = sorted({shape.tag for shape in image if shape.tag not in (*_AREAS, "tag")})
        if flat:
            found.notes.append(f"{name}: {', '.join(flat)} have no area and are not drawn")
        segments = [_segment(shape, f"{shown(path)}: {shown(name)}") for shape in image if shape.tag in _AREAS]
        size = tuple(int(text) if (text := image.get(key, "")).isdigit() else None for key in ("width", "height"))
        label = painter(segments, found.labels, options.order, f"{path}: {name}", (size[0], size[1]), found.lost)
        found.cases.append(Case(stem_of(file), (file,), label, split_of(image.get("subset", ""))))


def _files(folder: Folder) -> list[Path]:
    made = []
    for path in (path for path in folder.files if path.suffix.lower() == ".xml"):
        with path.open("rb") as file:
            if b"<annotations" in file.read(_START):
                made.append(path)
    return made


def _parse(path: Path) -> ElementTree.Element:
    """Read an XML file; declarations of entities, which can grow without end, are refused."""
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ImportingError(f"{shown(path)}: declares entities, which CVAT never does; export it again")
    try:
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ImportingError(f"{shown(path)}: not valid XML ({error}); export it again") from error
    if tree.find("track") is not None:
        raise ImportingError(
            f"{shown(path)}: is CVAT for video, whose tracks name no file; export the task as 'CVAT for images 1.1'"
        )
    return tree


def _segment(shape: ElementTree.Element, where: str) -> Segment:
    name = shape.get("label", "")
    where = f"{where}: {shown(name)}"

    def number(key: str) -> float:
        return float(shape.get(key, ""))

    try:
        level, angle = int(shape.get("z_order", "0")), float(shape.get("rotation", "0"))
        if shape.tag == "mask":
            runs = [int(run) for run in shape.get("rle", "").split(",")]
            left, top, width, height = (int(number(key)) for key in ("left", "top", "width", "height"))
            return Segment(name, lambda canvas: _mask(runs, (left, top, width, height), canvas, where), level)
        if shape.tag == "polygon":
            points = [[float(v) for v in pair.split(",")] for pair in shape.get("points", "").split(";")]
        elif shape.tag == "box":
            x0, y0, x1, y1 = (number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
            points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
        else:
            turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
            x, y = number("cx") + number("rx") * np.cos(turn), number("cy") + number("ry") * np.sin(turn)
            points = np.stack([x, y], 1).tolist()
    except ValueError as error:
        raise ImportingError(f"{where}: its {shape.tag} cannot be read ({error}); export it again") from error
    return Segment(name, lambda canvas: fill_polygons([_turned(points, angle).ravel()], canvas, where), level)


def _turned(points: list[list[float]], angle: float) -> npt.NDArray[np.float64]:
    """Turn a box or an ellipse about its centre, by degrees and clockwise as it is seen, y being downwards."""
    corners = np.array(points, np.float64)
    if not angle:
        return corners
    centre = (corners.min(0) + corners.max(0)) / 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned: npt.NDArray[np.float64] = centre + (corners - centre) @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _mask(runs: list[int], box: tuple[int, int, int, int], canvas: tuple[int, ...], where: str) -> Mask:
    """Place CVAT's run lengths, row by row in a box, unset runs first."""
    left, top, width, height = box
    whole = np.zeros(canvas, bool)
    part = whole[max(0, top) : top + height, max(0, left) : left + width]
    if min(left, top, *runs) < 0 or sum(runs) != width * height or part.shape != (height, width):
        raise ImportingError(f"{where}: its mask does not fill its box inside the picture; export it again")
    part[...] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return whole
