"""Reads image and label files of every supported format into arrays, with errors that name the file.

Palette PNGs are read as indices where they are labels and as colours where they are images. An alpha channel that is
opaque everywhere is left out.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError

__all__ = ["MAX_VOXELS", "SUFFIXES", "ImageError", "ImageFile", "read_image"]

MAX_VOXELS = 2**31
"""Largest number of values a file may claim to hold, read from its header before anything is decoded."""

_PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_TIFF_SUFFIXES = (".tif", ".tiff")
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (*_PIL_SUFFIXES, *_TIFF_SUFFIXES, *_NIFTI_SUFFIXES)


class ImageError(MedsegError):
    """An image file is missing, damaged, too large or of an unknown kind; the message begins with its path."""


@dataclass(frozen=True)
class ImageFile:
    """One image as read from disk.

    Args:
        array: values, spatial axes first; a channel axis, last, only where `channels` > 1.
        channels: number of channels.
        spacing: size of a pixel along each spatial axis in the file's unit (NIfTI: mm), ``None`` where the format
            states none that is reliable (PNG, JPEG, TIFF).
        palette: whether the file stores palette indices.
    """

    array: npt.NDArray[Any]
    channels: int
    spacing: tuple[float, ...] | None = None
    palette: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape, ``(H, W)`` for pictures and the file's axis order for volumes."""
        return self.array.shape[:-1] if self.channels > 1 else self.array.shape


def read_image(path: str | os.PathLike[str], *, label: bool = False) -> ImageFile:
    """Read one image file: PNG (1, 8, 16 bit, palette, colour), JPEG, BMP, TIFF, NIfTI.

    Args:
        path: the file.
        label: read a palette PNG as indices, not as colours.

    Shape:
        ``(H, W)`` or ``(H, W, C)``; NIfTI ``(X, Y, Z)`` or ``(X, Y, Z, C)``; multi-page TIFF ``(Z, H, W)``.

    Raises:
        ImageError: if the file is missing, damaged, claims more than `MAX_VOXELS` values or is of an unknown kind.
    """
    path = Path(path)
    image = _decode(path, label)
    if image.array.dtype.kind not in "buif":
        raise ImageError(f"{path}: holds values of type {image.array.dtype}; convert it to integers or real numbers")
    if image.array.size == 0:
        raise ImageError(f"{path}: holds no pixels (shape {image.array.shape}); restore the file")
    return image


def _decode(path: Path, label: bool) -> ImageFile:
    name = path.name.lower()
    try:
        if name.endswith(_PIL_SUFFIXES):
            return _read_picture(path, label)
        if name.endswith(_TIFF_SUFFIXES):
            return _read_tiff(path, label)
        if name.endswith(_NIFTI_SUFFIXES):
            return _read_nifti(path)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; correct the path or restore the file") from error
    except PermissionError as error:
        raise ImageError(f"{path}: permission denied; make the file readable") from error
    except MemoryError as error:
        raise ImageError(f"{path}: does not fit into memory; cut it into parts") from error
    except (
        Exception
    ) as error:  # decoders raise nearly every type on damaged bytes, struct.error and KeyError among them
        detail = str(error).replace(str(path), "").strip() or type(error).__name__
        raise ImageError(f"{path}: damaged or not what its name says ({detail[:200]}); restore the file") from error
    raise ImageError(f"{path}: format {path.suffix or 'without suffix'} is unknown; known are {', '.join(SUFFIXES)}")


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(
            f"{path}: claims {'x'.join(map(str, shape))} values, more than {MAX_VOXELS}; "
            "if it is not damaged, cut it into parts"
        )


def _read_picture(path: Path, label: bool) -> ImageFile:
    from PIL import Image

    try:
        with Image.open(path) as image:
            _check_size(path, (image.height, image.width, len(image.getbands())))
            palette = image.mode == "P"
            if palette and not label:
                picture = image.convert("RGB")
            else:
                image.load()
                opaque = image.mode in ("RGBA", "LA") and image.getextrema()[-1] == (255, 255)
                picture = image.convert(image.mode[:-1]) if opaque else image
            array = np.asarray(picture)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {error}; if the file is not damaged, cut it into parts") from error
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return ImageFile(array, array.shape[2] if array.ndim == 3 else 1, palette=palette)


def _read_tiff(path: Path, label: bool) -> ImageFile:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        _check_size(path, series.shape)
        codecs_missing = False
        try:
            array = series.asarray()
        except ValueError as error:  # e.g. LZW needs the imagecodecs package; Pillow reads it without
            if "imagecodecs" not in str(error) or len(file.pages) > 1:
                raise
            codecs_missing = True
        axes = series.axes
        colour_map = len(file.pages) == 1 and file.pages.first.photometric == tifffile.PHOTOMETRIC.PALETTE
    if codecs_missing:
        return _read_picture(path, label)
    if colour_map and not label:
        return _read_picture(path, label)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return _channels_last(array, axes, palette=colour_map)


def _channels_last(array: npt.NDArray[Any], axes: str, *, palette: bool) -> ImageFile:
    for axis in ("S", "C"):
        if axis in axes:
            array = np.moveaxis(array, axes.index(axis), -1)
            channels = array.shape[-1]
            return ImageFile(array if channels > 1 else array[..., 0], channels, palette=palette)
    return ImageFile(array, 1, palette=palette)


def _read_nifti(path: Path) -> ImageFile:
    import nibabel

    try:
        image: Any = nibabel.load(path)
        shape = tuple(int(edge) for edge in image.shape)
        _check_size(path, shape)
        array = np.asanyarray(image.dataobj)
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path}: ends too early ({error}); restore the file") from error
    zooms = tuple(float(zoom) for zoom in image.header.get_zooms()[:3])
    spatial, rest = shape[:3], shape[3:]
    channels = math.prod(rest)
    if channels != 1:
        return ImageFile(array.reshape(*spatial, channels), channels, spacing=zooms)
    return ImageFile(array.reshape(spatial), 1, spacing=zooms)
