"""Masks as the test servers of PASCAL VOC 2012, Cityscapes and ADE20K take them: ``test_server/CASE.png``.

Which of the three it is, the names of the model's classes say.

- VOC: the index of the class, in the palette of the release's own labels
  (http://host.robots.ox.ac.uk/pascal/VOC/voc2012): colour i has the bits of i, three by three, from the highest down.
- Cityscapes: labelIds, grey (https://github.com/mcordts/cityscapesScripts, labels.py): road is 7, bicycle 33.
- ADE20K, scene parsing challenge of 2016: 1 to 150, grey; 0 is what is none of the 150 classes, which no model gives.

A picture that is stored turned (EXIF) has its mask on the stored pixels, without the tag, which no server reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.atomic import atomic_write
from medseg.errors import MedsegError
from medseg.importers.layouts.cityscapes import CLASS_OF_ID
from medseg.io.placement import to_stored
from medseg.prediction.sinks import Case, Result, RunInfo

__all__ = ["FOLDER", "ServerMasks", "voc_palette"]

FOLDER = "test_server"
_ID_OF_CLASS = {name: value for value, name in CLASS_OF_ID.items()}
_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_ADE_CLASSES, _ADE_FIRST = 150, ("wall", "building", "sky", "floor", "tree")


def voc_palette() -> list[int]:
    """Return the 256 colours of VOC's labels, red, green and blue in turn."""
    colours = []
    for index in range(256):
        for channel in range(3):
            bits = [index >> (3 * place + channel) & 1 for place in range(8)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


class ServerMasks:
    """Writes one picture a case; a model of other classes, and volumes, are refused."""

    wants: frozenset[str] = frozenset()

    def open(self, run: RunInfo) -> None:
        """Begin a run.

        Raises:
            MedsegError: if the model's classes are none of a server's.
        """
        self._output = run.output
        self._values, self._palette = _format(list(run.description.classes))

    def files(self, case: Case) -> list[Path]:
        """Return the case's picture."""
        place = case.beside(".png").relative_to(self._output)
        return [self._output / FOLDER / place]

    def has(self, case: Case) -> bool:
        """Return true: nothing is shared."""
        return True

    def write(self, case: Case, result: Result) -> None:
        """Write the picture.

        Raises:
            MedsegError: if the case is no single picture.
        """
        from PIL import Image

        if result.grid.affine is not None or result.mask.ndim != 2:
            raise MedsegError("it is no single picture, and --test-server writes pictures; leave --test-server out")
        picture = Image.fromarray(self._values[to_stored(result.mask, result.grid.orientation)])
        if self._palette is not None:
            picture.putpalette(self._palette)
        (target,) = self.files(case)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            picture.save(temporary, format="PNG")

    def close(self) -> None:
        """End the run."""


def _format(names: list[str]) -> tuple[NDArray[Any], list[int] | None]:
    """Return the value of each class, and the palette."""
    if tuple(names) == _VOC:
        return np.arange(len(names), dtype=np.uint8), voc_palette()
    if set(names) == set(_ID_OF_CLASS):
        return np.array([_ID_OF_CLASS[name] for name in names], np.uint8), None
    if len(names) == _ADE_CLASSES and tuple(names[: len(_ADE_FIRST)]) == _ADE_FIRST:
        return np.arange(1, len(names) + 1, dtype=np.uint8), None
    raise MedsegError(
        f"--test-server is for the classes of VOC 2012, Cityscapes and ADE20K, the model has {len(names)} others "
        f"({', '.join(names[:3])}, ...); leave --test-server out"
    )
