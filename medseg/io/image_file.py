"""What a reader hands over: one image in memory, where it lies, and what was odd about its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError

__all__ = ["Affine", "FourthAxis", "ImageError", "ImageFile", "Kind", "as_numbers", "in_rows", "upright"]

Affine = npt.NDArray[np.float64]
Kind = Literal["picture", "volume"]


class ImageError(MedsegError):
    """An image file is missing, damaged, too large or of an unknown kind; the message begins with its path."""


@dataclass(frozen=True)
class ImageFile:
    """One image as read from disk.

    Args:
        array: values, spatial axes first; a channel axis, last, only where `channels` > 1. Pictures ``(H, W)``,
            upright; volumes ``(X, Y, Z)`` in NIfTI's axis order; a TIFF of many pages ``(pages, H, W)``, without
            an affine.
        channels: number of channels.
        spacing: size of a voxel along each spatial axis in mm, ``None`` where the format states none that is reliable
            (PNG, JPEG, TIFF).
        palette: of a file that stores palette indices, the colour of each as a 24-bit number; else empty.
        affine: ``(4, 4)``, voxel indices to patient coordinates in mm, RAS+ (x to the right, y to the front, z to the
            head); ``None`` where the format knows no patient.
        kind: ``"picture"``, which a stack of pages is, too, or ``"volume"``, which has an affine.
        lossy: whether the file's compression changes values, as JPEG's does; class indices do not survive it.
        alpha: whether the last channel is opacity, and no channel of what is seen.
        orientation: how the file stores the picture (EXIF and TIFF tag 274); 1 is upright. `array` is upright always.
        notes: what a reader should be told of though the file can be used, each in one line.
    """

    array: npt.NDArray[Any]
    channels: int
    spacing: tuple[float, ...] | None = None
    palette: tuple[int, ...] = ()
    affine: Affine | None = None
    kind: Kind = "picture"
    lossy: bool = False
    alpha: bool = False
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape, ``(H, W)`` for pictures and the file's axis order for volumes."""
        return self.array.shape[:-1] if self.channels > 1 else self.array.shape


@dataclass(frozen=True)
class FourthAxis:
    """An axis of a file besides the three of space, which readers take for channels.

    Args:
        length: number of values along it.
        time: where the file says that it is time, how it says so; else empty.
    """

    length: int
    time: str = ""

    def notes(self) -> list[str]:
        """Return what a reader should be told of: time that is taken for channels."""
        said = f"its fourth axis is time ({self.time}); its {self.length} steps are taken as channels"
        return [said] if self.time else []


def as_numbers(pixels: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return colours as 24-bit numbers.

    Args:
        pixels: red, green and blue of 8 bits, last; alpha is passed over.
    """
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def in_rows(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy whose last axis is the fastest: of volumes that lie the other way in a quarter of NumPy's time."""
    if array.ndim < 3 or array.flags.c_contiguous:
        return np.array(array, order="C")
    rows = np.empty(array.shape, array.dtype)
    for row in range(0, array.shape[-2], 4):
        for column in range(0, array.shape[-1], 64):
            part = (..., slice(row, row + 4), slice(column, column + 64))
            rows[part] = array[part]
    return rows


def upright(array: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn a picture as its EXIF or TIFF orientation tells.

    Args:
        array: ``(H, W)`` or ``(H, W, C)`` as stored.
        orientation: value of tag 274, 1 to 8; any other value is none.

    Returns:
        A view.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array
