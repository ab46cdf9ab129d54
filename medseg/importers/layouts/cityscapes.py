"""Cityscapes and what is laid out like it: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png``, ``gtFine/.../*_labelIds.png``.

Of labels that hold only ids of Cityscapes the 19 classes of the benchmark are taken, the other ids count nowhere
(https://github.com/mcordts/cityscapesScripts, helpers/labels.py); ``labelTrainIds`` hold those classes already. Labels
with other ids, or hardly one that is a class, are of own classes, which a person names. A city is a group.
"""

from __future__ import annotations

from pathlib import Path

from medseg.errors import shown
from medseg.importers.folder import Folder
from medseg.importers.layout import Case, Found, ImportingError, Layout, Options

__all__ = ["CLASS_OF_ID", "Cityscapes"]

_IMAGE = "_leftImg8bit.png"
_LABELS = ("_labelTrainIds.png", "_labelIds.png")
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
CLASS_OF_ID = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
"""The benchmark's classes, in their order, by the ids that labels hold."""
_LAST_ID = 33
_VOID = 255


class Cityscapes(Layout):
    """Names that end in ``_leftImg8bit.png`` and ``_labelIds.png``."""

    name = "cityscapes"
    looks_for = "names that end in _leftImg8bit.png and in _labelIds.png or _labelTrainIds.png"

    def recognise(self, folder: Folder) -> str | None:
        """Look for both kinds of names."""
        images = sum(path.name.endswith(_IMAGE) for path in folder.images)
        labels = sum(path.name.endswith(_LABELS) for path in folder.images)
        return (
            f"{images} names end in {_IMAGE}, {labels} in _labelIds.png or _labelTrainIds.png"
            if images and labels
            else None
        )

    def read(self, folder: Folder, options: Options) -> Found:
        """Pair by split, city and name; training ids where every image has them."""
        images = {_key(path, _IMAGE): path for path in folder.images if path.name.endswith(_IMAGE)}
        kinds = {end: {_label_key(p, end): p for p in folder.images if p.name.endswith(end)} for end in _LABELS}
        end = next(
            (end for end in _LABELS if images.keys() <= kinds[end].keys()), max(kinds, key=lambda e: len(kinds[e]))
        )
        labels = kinds[end]
        found = Found(self.name, "said so", [], grouped_by="a city, the folder of its images")
        found.notes.append(f"labels are those that end in {end}")
        for key, image in images.items():
            split = next((_SPLITS[part] for part in image.parts if part in _SPLITS), "training")
            label = labels.get(key)
            if label is None and split != "test":
                found.left_out[image] = f"no label that ends in {end}"
            else:
                found.cases.append(Case(key[1], (image,), label, split, key[0]))
        if not found.cases:
            raise ImportingError(f"{shown(folder.root)}: no {_IMAGE} has a label of its name; complete the folder")
        if not (options.values or options.classes or options.ascending):
            _official(found, end)
        return found


def _official(found: Found, end: str) -> None:
    """Take the benchmark's classes; a label with other ids is then refused by its value."""
    found.labels = dict(enumerate(CLASS_OF_ID.values()))
    found.ignore = _VOID
    if end != _LABELS[0]:
        class_of = {stored: index for index, stored in enumerate(CLASS_OF_ID)}
        found.values = {stored: class_of.get(stored, _VOID) for stored in range(_LAST_ID + 1)}
    found.notes.append("classes are the 19 of Cityscapes; name others with --values or --classes")


def _key(path: Path, end: str) -> tuple[str, str]:
    return path.parent.name, path.name.removesuffix(end)


def _label_key(path: Path, end: str) -> tuple[str, str]:
    city, stem = _key(path, end)
    return city, stem.rpartition("_gt")[0] or stem
