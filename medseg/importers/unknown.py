"""What a folder of no layout holds, and what it likely lacks: labels, unpacking, one mask an image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import counted, shown
from medseg.importers.folder import ARCHIVES, Folder, stem_of
from medseg.importers.pairing import is_label
from medseg.io import pictures, tiff

__all__ = ["say_unknown"]

_TEXTS = (".json", ".xml", ".geojson")
_OTHERWISE = "or say how names end with --image-suffix and --label-suffix"


def say_unknown(folder: Folder) -> str:
    """Return in one line what was found in a folder that has no layout, and what is likely missing.

    Args:
        folder: the listing.
    """
    flat = [path for path in folder.images if path.name.lower().endswith((*pictures.SUFFIXES, *tiff.SUFFIXES))]
    images = set(folder.images)
    rest = [path for path in folder.files if path not in images]
    slices = [path for path in rest if folder.reasons.get(path, "DICOM slice").startswith("DICOM slice")]
    archives = [path for path in rest if path.name.lower().endswith(ARCHIVES)]
    texts = [path for path in rest if path.name.lower().endswith(_TEXTS)]
    kinds = {
        "picture": len(flat),
        "volume": len(folder.images) - len(flat),
        "DICOM file": len(slices),
        "archive": len(archives),
        "JSON or XML file": len(texts),
    }
    held = ", ".join(counted(number, kind) for kind, number in kinds.items() if number)
    missing = _missing(folder, slices, archives)
    return f"{shown(folder.root)}: {held or 'nothing'} found, {missing}; known layouts: medseg import --as list"


def _missing(folder: Folder, slices: Sequence[Path], archives: Sequence[Path]) -> str:
    if not folder.images and not slices:
        if archives:
            return f"no images; unpack {_name(archives[0])} first (medseg data lists releases that it lays out itself)"
        return "no images; name the folder that holds images and labels"
    if not folder.images:
        return "no labels: none is a SEG or RTSTRUCT; put the segmentations beside their series"
    if (place := _masks_of_objects(folder.images)) is not None:
        return (
            f"several masks for one image, as in {shown(_below(folder, place))}: merge them into one mask an image "
            "(nuclei of dsb2018: medseg data dsb2018)"
        )
    labels = [path for path in folder.images if is_label(folder.rel(path.with_name(stem_of(path))))]
    if not labels:
        return f"no labels; put them beside the images, such as images/a.png and masks/a.png, {_OTHERWISE}"
    if len(labels) == len(folder.images):
        return f"all called as labels, such as {_name(labels[0])}, no images; name the folder above both"
    return (
        f"{counted(len(labels), 'name')} as of labels, such as {_name(labels[0])}, which do not pair with the images'; "
        f"name them alike, {_OTHERWISE}"
    )


def _masks_of_objects(images: Sequence[Path]) -> Path | None:
    """Return a folder that holds a folder of one image and a folder of several, if most images lie in such ones."""
    by_case: dict[Path, Counter[str]] = defaultdict(Counter)
    for path in images:
        by_case[path.parent.parent][path.parent.name] += 1
    split = {place: sorted(each.values()) for place, each in by_case.items() if len(each) > 1}
    fitting = [place for place, (least, *more) in split.items() if least == 1 and max(more) > 1]
    within = sum(sum(split[place]) for place in fitting)
    return min(fitting) if within * 2 > len(images) else None


def _below(folder: Folder, place: Path) -> str:
    return place.name if place == folder.root else folder.rel(place)


def _name(path: Path) -> str:
    name = shown(path.name)
    return name if len(name) <= 40 else f"{name[:20]}...{name[-16:]}"
