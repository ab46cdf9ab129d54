"""COCO's JSON of objects, of any classes: ``images``, ``annotations`` with polygons or run lengths, ``categories``.

Format: https://cocodataset.org/#format-data. Crowd regions count nowhere (255). `data_scripts/coco.py` prepares the
release itself, with the classes of VOC and a rule of its own for overlaps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.errors import shown
from medseg.importers.drawing import IGNORED, Segment, decode_rle, fill_polygons, numbered, painter
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options
from medseg.importers.layouts.pairs import of_no_part, split_of

__all__ = ["Coco"]

_LISTS = ("images", "annotations", "categories")
_SMALL = 200  # more JSON files than this are one an image, which COCO's never are


class Coco(Layout):
    """One or several JSON files with the lists images, annotations and categories."""

    name = "coco"
    looks_for = "a JSON file with images, annotations and categories"

    def recognise(self, folder: Folder) -> str | None:
        """Look into the JSON files, if they are few."""
        files = _files(folder)
        return f"{', '.join(map(folder.rel, files[:3]))} lists images, annotations and categories" if files else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Draw the objects of every image; a file's name or folder says which list it is for."""
        files = _files(folder)
        if not files:
            raise ImportingError(
                f"{shown(folder.root)}: no JSON file has {', '.join(_LISTS)}; name the folder that has it"
            )
        found = Found(self.name, "said so", [], used=set(files))
        named = [c for path in files for c in _items(folder, path, "categories", {"id": int, "name": str})]
        found.labels = numbered((item["name"] for item in sorted(named, key=lambda c: c["id"])), options, folder.root)
        for path in files:
            _read(folder, path, options, found)
        found.cases = of_no_part(found.cases)
        return found


def _files(folder: Folder) -> list[Path]:
    files = [path for path in folder.files if path.suffix.lower() == ".json"]
    fitting = [path for path in files if all(isinstance(folder.peek_json(path).get(key), list) for key in _LISTS)]
    return fitting if len(files) <= _SMALL else []


def _items(folder: Folder, path: Path, key: str, needed: dict[str, type]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = folder.read_json(path)[key]
    for number, item in enumerate(items):
        for name, kind in needed.items():
            if not isinstance(item, dict) or not isinstance(item.get(name), kind):
                raise ImportingError(
                    f"{shown(path)}: {key}[{number}] lacks {name!r}, or of another type; export it again"
                )
    return items


def _read(folder: Folder, path: Path, options: Options, found: Found) -> None:
    names = {c["id"]: c["name"] for c in _items(folder, path, "categories", {"id": int, "name": str})}
    listed = _items(folder, path, "images", {"id": int, "file_name": str})
    _refuse_twice([item["id"] for item in listed], path)
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    annotations = _items(folder, path, "annotations", {"image_id": int, "category_id": int})
    for item in annotations:
        objects[item["image_id"]].append(item)
    strays = len(annotations) - sum(len(objects[item["id"]]) for item in listed)
    if strays:
        found.notes.append(
            f"{folder.rel(path)}: objects of images that it does not list are not drawn: {strays} of {len(annotations)}"
        )
    boxes = sum(not item.get("segmentation") for item in annotations)
    if boxes:
        found.notes.append(
            f"{folder.rel(path)}: objects that are boxes alone are not drawn: {boxes} of {len(annotations)}"
        )
    if any(item.get("iscrowd") for item in annotations):
        found.ignore = IGNORED
    for item in listed:
        image = _image(folder, path, item["file_name"].replace("\\", "/"))
        if image is None:
            number = len(folder.called(Path(item["file_name"]).name))
            missing = f"but there {number} times, beside it never" if number else "but no such file"
            found.left_out[folder.root / item["file_name"]] = f"named by {folder.rel(path)}, {missing}"
            continue
        segments = []
        for thing in objects[item["id"]]:
            if thing["category_id"] not in names:
                raise ImportingError(
                    f"{shown(path)}: an object is of category {thing['category_id']}, which has no "
                    "name; add it to categories"
                )
            if thing.get("segmentation"):
                name = None if thing.get("iscrowd") else names[thing["category_id"]]
                segments.append(_segment(name, thing["segmentation"], f"{shown(path)}: object {thing.get('id', '?')}"))
        _check_size(item, path)
        where = f"{path}: {item['file_name']}"
        size = (item.get("width"), item.get("height"))
        label = painter(segments, found.labels, options.order, where, size, found.lost)
        found.cases.append(Case(stem_of(image), (image,), label, split_of(folder.rel(path))))


def _refuse_twice(ids: Sequence[int], path: Path) -> None:
    twice = next((number for number, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise ImportingError(
            f"{shown(path)}: two images have the id {twice}, so that objects cannot be told apart; export it again"
        )


def _segment(name: str | None, segmentation: Any, where: str) -> Segment:
    if isinstance(segmentation, dict):
        return Segment(name, lambda shape: decode_rle(segmentation, shape, where))
    if isinstance(segmentation, list):
        return Segment(name, lambda shape: fill_polygons(segmentation, shape, where))
    raise ImportingError(
        f"{where}: its segmentation is {str(segmentation)[:40]}, not polygons or run lengths; export it again"
    )


def _check_size(item: dict[str, Any], path: Path) -> None:
    if not all(isinstance(item.get(key) or 0, int) for key in ("height", "width")):
        raise ImportingError(
            f"{shown(path)}: the size of {shown(item['file_name'])} is no whole number; export it again"
        )


def _image(folder: Folder, path: Path, name: str) -> Path | None:
    """Return the file of that relative name beside the JSON file, below the folder, or anywhere if it is there once."""
    known = set(folder.images)
    for place in (path.parent, path.parent / "images", folder.root, folder.root / "images", path.parent.parent):
        if place / name in known:
            return place / name
    anywhere = [found for found in folder.called(Path(name).name) if found in known]
    return anywhere[0] if len(anywhere) == 1 else None
