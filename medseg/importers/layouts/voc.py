"""Pascal VOC: ``JPEGImages``, ``SegmentationClass`` (palette or coloured PNG) and lists in ``ImageSets/Segmentation``.

255 is the border and counts nowhere, as in VOC; where it is never beside an object, a person is asked. Class names
come from a file beside the folders (``class_names.txt``, ``labels.txt``, ``labelmap.txt``, ``class_colors.csv``): data
laid out so are seldom VOC's own.
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import counted, shown
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options
from medseg.importers.said import class_names, read_colours

__all__ = ["Voc"]

_VOID = 255
_LISTS = {"train": "training", "val": "validation", "test": "test"}
_NAMES = ("class_names.txt", "labels.txt", "classes.txt")
_COLOURS = ("labelmap.txt", "class_colors.csv", "class_dict.csv")


class Voc(Layout):
    """``JPEGImages`` beside ``SegmentationClass``."""

    name = "voc"
    looks_for = "folders JPEGImages and SegmentationClass beside each other"

    def recognise(self, folder: Folder) -> str | None:
        """Look for the two folders, at any depth."""
        places = _places(folder)
        return f"JPEGImages and SegmentationClass in {folder.rel(places[0]) or '.'}" if places else None

    def read(self, folder: Folder, options: Options) -> Found:
        """Pair images and labels by name; the lists say what is for training and validation."""
        places = _places(folder)
        if len(places) != 1:
            said = "no such folders" if not places else f"{len(places)} times ({', '.join(map(folder.rel, places))})"
            raise ImportingError(f"{shown(folder.root)}: JPEGImages and SegmentationClass: {said}; name one folder")
        place = places[0]
        found = Found(self.name, "said so", [], ignore=_VOID, ignore_is_usual=True)
        split_of = _lists(place, found)
        labels = {stem_of(p): p for p in folder.images if p.parent == place / "SegmentationClass"}
        for image in (path for path in folder.images if path.parent == place / "JPEGImages"):
            stem = stem_of(image)
            split = split_of.get(stem) if split_of else "training"
            if split is None:
                found.left_out[image] = "in no list of ImageSets/Segmentation"
            elif stem not in labels and split != "test":
                found.left_out[image] = "no label in SegmentationClass"
            else:
                found.cases.append(Case(stem, (image,), labels.get(stem), split))
        missing = sorted(split_of.keys() - {case.name for case in found.cases} - {stem_of(p) for p in found.left_out})
        if missing:
            found.notes.append(f"lists name {counted(len(missing), 'image')} without a file, such as {missing[0]}")
        self._classes(folder, place, found, options)
        return found

    def _classes(self, folder: Folder, place: Path, found: Found, options: Options) -> None:
        """Take class names and colours from the first file that has them, beside the folders or above."""
        above = [place, *(parent for parent in place.parents if parent.is_relative_to(folder.root))]
        for path in (parent / name for parent in above for name in _COLOURS):
            if path.is_file():
                found.colour_codes = {
                    colour: "ignore" if name in ("void", "border", "ignore") else name
                    for colour, name in read_colours(path).items()
                }
                found.used.add(path)
                break
        for path in (parent / name for parent in above for name in _NAMES):
            if path.is_file():
                found.used.add(path)
                found.labels = dict(enumerate(class_names(path)))
                return
        named = [name for name in found.colour_codes.values() if name != "ignore"]
        if named and not options.classes:
            found.labels = dict(enumerate(dict.fromkeys(named)))
            return
        found.notes.append("no file names the classes; say them with --classes")


def _places(folder: Folder) -> list[Path]:
    return sorted({p.parent.parent for p in folder.images if p.parent.name == "JPEGImages"} & {
        p.parent.parent for p in folder.images if p.parent.name == "SegmentationClass"
    })  # fmt: skip


def _lists(place: Path, found: Found) -> dict[str, str]:
    """Return the list of each name; a name of two lists belongs to the later one."""
    made: dict[str, str] = {}
    for name, split in _LISTS.items():
        path = place / "ImageSets" / "Segmentation" / f"{name}.txt"
        if path.is_file():
            found.used.add(path)
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            made |= {line.split()[0]: split for line in lines if line.strip()}
    both = place / "ImageSets" / "Segmentation" / "trainval.txt"
    if made and both.is_file():
        found.left_out[both] = "the union of the lists"
    return made
