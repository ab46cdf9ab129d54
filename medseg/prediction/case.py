"""One image as the network gets it: read, fed as in training, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from monai.data import MetaTensor
from torch import Tensor

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.bundle.intensities import doubts_of
from medseg.bundle.usual import unlike_image
from medseg.errors import MedsegError
from medseg.inferers.way_back import WayBack
from medseg.io.channels import Named, paths_of
from medseg.io.load import NOTES, STORED_ORIENTATION, is_stack
from medseg.io.placement import Grid
from medseg.reports.windows import Window, as_window

__all__ = ["Fed", "Feeder", "PredictionError", "check_fits"]


class PredictionError(MedsegError):
    """An image that cannot be predicted."""


@dataclass(frozen=True)
class Fed:
    """An image as the network gets it, and where it came from.

    Args:
        image: ``(C, *S)`` on the model's grid.
        grid: of the image as it was read; without an affine for pictures and stacks of them.
        values: of the image as it was read, ``(C, *S)`` float32 or uint8; ``None`` where nobody asked.
        unlike: how it is unlike the images that the model was trained on, a phrase each.
        notes: what is to be told of how its file was read; empty where there is nothing.
    """

    image: Tensor
    grid: Grid
    values: Tensor | None = None
    unlike: tuple[str, ...] = ()
    notes: str = ""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + (0 if self.values is None else self.values.nbytes)

    def way_back(self) -> WayBack:
        """Return the way from the model's grid to the one that the image was read on.

        Raises:
            MedsegError: if there is none: a mask is never written by its shape alone.
        """
        if not isinstance(self.image, MetaTensor) or self.image.ndim != 4:
            return WayBack(self.image.shape[1:], None, self.grid.shape, None)
        affine = self.grid.affine
        lies = np.eye(4) if affine is None else affine  # of a stack, to the indices that it was read with
        return WayBack(self.image.shape[1:], self.image.affine, self.grid.shape, lies)


class Feeder:
    """Brings images to the network's input.

    Args:
        description: the model, which says how they are fed.
        values: keep the images as they were read, too.
    """

    def __init__(self, description: Description, *, values: bool = False) -> None:
        self._description = description
        self._transform = feeding.prediction(description)
        self._values = values
        self._picture = feeding.picture(description)

    def read(self, path: Named) -> Fed:
        """Feed a file.

        Args:
            path: of the image; a list of files of one channel each.

        Raises:
            ImageError: if it cannot be read.
            MedsegError: as `feed`.
        """
        try:
            loaded = self._transform({"image": _files(path)}, end=1)["image"]
        except RuntimeError as error:
            _raise_bare(error)
        return self.feed(loaded)

    def picture(self, path: Named) -> tuple[Tensor, Window | None]:
        """Return the image of a file as people are shown it, ``(C, *S)`` on the grid of the fed one, and its window.

        Args:
            path: as `read` takes it.

        Raises:
            MedsegError: as `read`.
        """
        try:
            shown = self._picture({"image": _files(path)})
        except RuntimeError as error:
            _raise_bare(error)
        return shown["image"], as_window(shown.get("window"))

    def feed(self, loaded: Tensor) -> Fed:
        """Feed an image that was read.

        Args:
            loaded: as `LoadImagesd` reads it, ``(C, *S)``.

        Raises:
            DescriptionError: if the model has no way to feed it.
            PredictionError: if it holds values that are not finite.
        """
        affine, orientation, notes = None, 1, ""
        if isinstance(loaded, MetaTensor):
            notes = str(loaded.meta.get(NOTES, ""))
            orientation = int(loaded.meta.get(STORED_ORIENTATION, 1))
            if (loaded.ndim == 4 and not is_stack(loaded)) or "original_affine" in loaded.meta:  # a NIfTI of two axes
                affine = np.asarray(loaded.affine, dtype=np.float64)
        grid = Grid(tuple(loaded.shape[1:]), affine, orientation)
        plain = loaded.as_tensor() if isinstance(loaded, MetaTensor) else loaded
        doubts = (*doubts_of(plain, self._description), *unlike_image(plain, affine, self._description))
        values = plain if self._values else None  # no step writes into what it is given
        try:
            image = self._transform({"image": loaded}, start=1)["image"]
        except RuntimeError as error:
            _raise_bare(error)
        why = feeding.not_finite(image)
        if why is not None:
            raise PredictionError(why)
        return Fed(image, grid, values, doubts, notes)


def _files(path: Named) -> str | list[str]:
    files = [str(each) for each in paths_of(path)]
    return files if len(files) > 1 else files[0]


def _raise_bare(error: RuntimeError) -> NoReturn:
    """Raise the fault of an image that MONAI's "applying transform ..." is wrapped around; any other as it is."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, MedsegError):
        found = found.__cause__
    if found is None:
        raise error
    raise found from found.__cause__  # not from the wrapper, which would make the chain of causes a circle


def check_fits(fed: Fed, description: Description) -> None:
    """Refuse an image that the network cannot take.

    Args:
        fed: the image.
        description: the model.

    Raises:
        PredictionError: if it has too few axes, or another number of channels.
    """
    why = feeding.unfit(fed.image, description)
    if why is not None:
        raise PredictionError(why)
