"""Lays out a stack of labelled sections: crops with two fold schemes, and the whole sections beside them.

Fold schemes. ``fold``: whole sections, a fold being a block of neighbours, because neighbouring sections of a stack
look alike and one of them in training would give the other away. ``fold_random``: crops drawn at random with a fixed
seed, so that crops of one section are on both sides; comparable with papers that do so, too good as an estimate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.datalist import Datalist, DatalistError, Entry
from medseg.errors import MedsegError

__all__ = ["CLASS_NAMES", "Layout", "Section", "SectionSource", "is_complete", "remove_layout", "write_layout"]

CLASS_NAMES = ("membrane", "mitochondria", "synapse", "extracellular", "intracellular")
"""Classes of the electron-microscopy sections, in the order of table 1 of the LFA U-Net paper."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Section:
    """One section.

    Args:
        number: position in the stack, from 0.
        image: grey values.
        label: class indices.

    Shape:
        image, label ``(H, W)``.
    """

    number: int
    image: Pixels
    label: Pixels


@dataclass(frozen=True)
class SectionSource:
    """What the datalist says about the data."""

    name: str
    licence: str
    source: str
    modality: tuple[str, ...] = ("EM",)
    version: int = 1


@dataclass(frozen=True)
class Layout:
    """How a stack is cut and divided.

    Args:
        sections: sections in the whole stack, present or not; they set the folds.
        crop_size: edge of a crop in pixels; it must divide the sections' edges.
        folds: number of folds.
        seed: seed of ``fold_random``.
        details: anything else that decides what is written, for the record.
    """

    sections: int
    crop_size: int = 256
    folds: int = 5
    seed: int = 0
    details: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what gives no folds or no crops."""
        if self.crop_size < 1:
            raise MedsegError(f"crop_size is {self.crop_size}; give the edge of a crop in pixels, such as 256")
        if not 2 <= self.folds <= self.sections:
            raise MedsegError(f"folds is {self.folds}; with {self.sections} sections give 2 to {self.sections}")

    def fold_of(self, number: int) -> int:
        """Return the fold of a section: blocks of neighbours, as equal as can be."""
        return number * self.folds // self.sections

    def record(self) -> dict[str, Any]:
        """Return what the datalist keeps of the layout."""
        record = {"sections": self.sections, "crop_size": self.crop_size, "folds": self.folds, "seed": self.seed}
        return {**record, **dict(self.details)}


def write_layout(
    sections: Iterable[Section],
    output: Path,
    source: SectionSource,
    layout: Layout,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Datalist:
    """Write crops, whole sections, ``datalist.json`` (crops) and ``sections.json`` (whole sections).

    The two JSON files are written last: a folder without them is unfinished.

    Args:
        sections: the sections, in the order of their numbers; read one by one.
        output: folder to write to.
        source: what the datalists say about the data.
        layout: how to cut and divide.
        progress: called as ``progress(sections done, sections in all)``.

    Returns:
        The datalist of the crops.

    Raises:
        ValueError: if a section cannot be cut into whole crops, or its label does not fit.
    """
    crops: list[Entry] = []
    whole: list[Entry] = []
    for done, section in enumerate(sections, start=1):
        common = {"group": f"section_{section.number:02d}", "fold": layout.fold_of(section.number)}
        name = f"{section.number:02d}.png"
        whole.append({**_write_pair(output, "sections/", name, section.image, section.label), **common})
        for row, column, image, label in _crops(section, layout.crop_size):
            crop = f"{section.number:02d}_{row}_{column}.png"
            crops.append({**_write_pair(output, "", crop, image, label), **common})
        if progress is not None:
            progress(done, layout.sections)
    for entry, fold in zip(crops, _random_folds(len(crops), layout), strict=True):
        entry["fold_random"] = fold
    datalist = _datalist(output / "datalist.json", source, layout, crops, "")
    sections_list = _datalist(output / "sections.json", source, layout, whole, "_sections")
    sections_list.save()
    datalist.save()
    return datalist


def is_complete(output: Path, layout: Layout) -> bool:
    """Return whether a folder holds everything that `write_layout` writes for this layout.

    Raises:
        DatalistError: if the folder was laid out in another way, or its datalist is damaged.
    """
    if not (output / "datalist.json").exists() or not (output / "sections.json").exists():
        return False
    for name in ("datalist.json", "sections.json"):
        datalist = Datalist.load(output / name)
        if datalist.preparation != layout.record():
            raise DatalistError(
                f"{output / name}: was prepared with {datalist.preparation}, not with {layout.record()}; "
                "choose another output folder or overwrite"
            )
        if not all((output / entry[key]).is_file() for entry in datalist.training for key in ("image", "label")):
            return False
    return True


def remove_layout(output: Path) -> None:
    """Delete the two datalists and the files that they name; anything else in the folder stays."""
    for name in ("datalist.json", "sections.json"):
        if (output / name).exists():
            datalist = Datalist.load(output / name)
            (output / name).unlink()
            for entry in datalist.training:
                (output / entry["image"]).unlink(missing_ok=True)
                (output / entry["label"]).unlink(missing_ok=True)


def _crops(section: Section, size: int) -> Iterable[tuple[int, int, Pixels, Pixels]]:
    height, width = section.image.shape
    if section.label.shape != section.image.shape:
        raise MedsegError(f"section {section.number}: label is {section.label.shape}, image {section.image.shape}")
    if section.label.max() >= len(CLASS_NAMES):
        raise MedsegError(f"section {section.number}: label holds {section.label.max()}; classes end at 4")
    if height % size or width % size:
        raise MedsegError(
            f"section {section.number}: {height}x{width} cannot be cut into whole crops of {size}; "
            "choose a crop size that divides both edges"
        )
    for row in range(height // size):
        for column in range(width // size):
            window = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
            yield row, column, section.image[window], section.label[window]


def _random_folds(count: int, layout: Layout) -> Sequence[int]:
    folds = [index * layout.folds // count for index in range(count)]
    random.Random(layout.seed).shuffle(folds)
    return folds


def _write_pair(output: Path, folder: str, name: str, image: Pixels, label: Pixels) -> Entry:
    from PIL import Image

    entry: Entry = {"image": f"{folder}images/{name}", "label": f"{folder}labels/{name}"}
    for key, pixels in (("image", image), ("label", label)):
        path = output / entry[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return entry


def _datalist(path: Path, source: SectionSource, layout: Layout, entries: list[Entry], suffix: str) -> Datalist:
    return Datalist(
        name=source.name + suffix,
        version=source.version,
        modality=source.modality,
        licence=source.licence,
        source=source.source,
        labels=dict(enumerate(CLASS_NAMES)),
        training=entries,
        path=path,
        preparation=layout.record(),
    )
