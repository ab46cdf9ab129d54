"""What a layout of a data set is, what one finds in a folder, and which layout a folder has.

A new layout is one file, ``medseg/importers/layouts/<name>.py``, that holds one subclass of `Layout`, and its
test; the name of the file is the layout's name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError, shown
from medseg.importers.folder import Folder
from medseg.importers.unknown import say_unknown
from medseg.io.image_file import ImageFile

__all__ = ["Case", "Draw", "Found", "ImportingError", "Layout", "Options", "Question", "layouts", "recognise"]

Draw = Callable[[ImageFile], npt.NDArray[np.integer[Any]]]
"""Draws a mask of stored values on the grid of an image that was read."""

_HERE = "medseg.importers.layouts"


class ImportingError(MedsegError):
    """A folder cannot be imported as it is."""


class Question(ImportingError):  # noqa: N818  it asks, and is answered by an option
    """Something that only a person knows: the message names the option that says it.

    Args:
        message: in one line.
        option: field of `Options` that answers.
        proposal: a likely answer, as the command line takes it; empty where there is none.
    """

    def __init__(self, message: str, option: str, proposal: str = "") -> None:
        super().__init__(message)
        self.option = option
        self.proposal = proposal


@dataclass(frozen=True)
class Options:
    """What a person says of a folder.

    Args:
        images: folder of the images below the source, or the names of the channels, separated by commas.
        labels: folder of the labels below the source, or the name of the label's file or kind.
        image_suffix: end of an image's name that its label's does not have, such as ``_img``.
        label_suffix: end of a label's name that its image's does not have, such as ``_mask``.
        values: stored value to class index, class name or ``"ignore"``; ``ascending`` numbers what is there.
        ascending: number the stored values that are there in ascending order.
        colours: colour ``"#rrggbb"`` to class name or ``"ignore"``.
        classes: class names in the order of their indices.
        order: names of classes, the last on top where they overlap; ``("file",)`` is the order of the file.
        any_frame: take segmentations whose frame of reference is not their image's.
    """

    images: str = ""
    labels: str = ""
    image_suffix: str | None = None
    label_suffix: str | None = None
    values: Mapping[int, int | str] = field(default_factory=dict)
    ascending: bool = False
    colours: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    any_frame: bool = False


@dataclass(frozen=True)
class Case:
    """One image and its label.

    Args:
        name: unique in the data set; a drawn label's file is called so.
        images: the image's file, or one a channel; or the folder of a DICOM series.
        label: its file, a function that draws it, or ``None``.
        split: the list it belongs to.
        group: what must not be split between folds, ``None`` where the layout does not know.
        files: further files that belong to the image, such as the other slices of its series.
        extra: further keys of the datalist's entry.
        instances: file of a map of object numbers.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | Draw | None = None
    split: str = "training"
    group: str | None = None
    files: tuple[Path, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    instances: Path | None = None


@dataclass
class Found:
    """What a layout finds in a folder.

    Args:
        layout: its name.
        why: what the folder was recognised by.
        cases: images with their labels.
        labels: stored value of a label to class name, the same name for the same class; empty where the layout does not
            say.
        values: stored value to class index, where the layout says that too; ``labels`` then go by index.
        ignore: stored value of pixels that count nowhere.
        ignore_is_usual: whether that is what such data sets have, and nothing that this one says.
        colours: stored value to the colour it is drawn in, ``"#rrggbb"``.
        colour_codes: colour of a colour-coded label to class name, where the layout says so.
        modality: what the channels are.
        about: ``name``, ``licence``, ``source`` and other fields of the datalist, where the layout states them.
        used: files that were read, besides those of the cases.
        left_out: files that are not used, and why.
        notes: what a person should know, each in one line.
        grouped_by: what `Case.group` is, for a look.
        lost: drawn objects that cover no pixel's centre, by class; counted while labels are drawn.
    """

    layout: str
    why: str
    cases: list[Case]
    labels: dict[int, str] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)
    ignore: int | None = None
    ignore_is_usual: bool = False
    colours: dict[int, str] = field(default_factory=dict)
    colour_codes: dict[str, str] = field(default_factory=dict)
    modality: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    left_out: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    grouped_by: str = ""
    lost: Counter[str] = field(default_factory=Counter)


class Layout(ABC):
    """A way to lay out a data set."""

    name: ClassVar[str]
    looks_for: ClassVar[str]
    """What it is recognised by, in a few words."""
    rank: ClassVar[int] = 0
    """Layouts of a lower rank are asked first: 0 has a mark of its own, 1 and 2 go by names alone."""

    @abstractmethod
    def recognise(self, folder: Folder) -> str | None:
        """Return what shows that the folder has this layout, or ``None``."""

    @abstractmethod
    def read(self, folder: Folder, options: Options) -> Found:
        """Return what the folder holds.

        Raises:
            MedsegError: if it cannot be used; a `Question` where only a person knows.
        """


def layouts() -> dict[str, Layout]:
    """Return every layout by its name."""
    package = importlib.import_module(_HERE)
    made: dict[str, Layout] = {}
    for module in pkgutil.iter_modules(package.__path__):
        held = vars(importlib.import_module(f"{_HERE}.{module.name}")).values()
        kinds = [v for v in held if inspect.isclass(v) and issubclass(v, Layout) and v.__module__.endswith(module.name)]
        assert len(kinds) == 1, f"{module.name} holds {len(kinds)} layouts"
        made[module.name] = kinds[0]()
    return made


def recognise(folder: Folder, name: str = "") -> tuple[Layout, str]:
    """Return the layout of a folder and what shows it.

    Args:
        folder: the listing.
        name: of the layout, where a person says it.

    Raises:
        ImportingError: if there is no such layout, none fits, or several do.
    """
    known = layouts()
    where = shown(folder.root)
    if name:
        if name not in known:
            raise ImportingError(f"there is no layout {name!r}; choose from {', '.join(known)}")
        return known[name], known[name].recognise(folder) or "said so"
    for rank in sorted({layout.rank for layout in known.values()}):
        fitting = {
            key: why for key, layout in known.items() if layout.rank == rank and (why := layout.recognise(folder))
        }
        if len(fitting) > 1:
            several = "; ".join(f"{key} ({shown(why)})" for key, why in fitting.items())
            raise ImportingError(
                f"{where}: could be {several}: say which with --as {' or --as '.join(fitting)}, or name a folder inside"
            )
        for key, why in fitting.items():
            return known[key], why
    raise ImportingError(say_unknown(folder))
