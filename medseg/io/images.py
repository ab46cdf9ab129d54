"""The door to image and label files of every format: one reader for the check, the training and the prediction.

Each format is a module beside this one and a row in `_FORMATS`. No framework is imported here.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io import dicom, itk_formats, nifti, pictures, tiff
from medseg.io.channels import Named, join, paths_of
from medseg.io.contents import told_by_contents
from medseg.io.image_file import FourthAxis, ImageError, ImageFile
from medseg.io.integrity import MAX_VOXELS, check_count

__all__ = ["MAX_VOXELS", "SUFFIXES", "ImageError", "ImageFile", "fourth_axis", "image_suffix", "read_image"]

_Reader = Callable[[Path, bool], ImageFile]

_FORMATS: tuple[tuple[tuple[str, ...], _Reader], ...] = (
    (pictures.SUFFIXES, pictures.read_picture),
    (tiff.SUFFIXES, tiff.read_tiff),
    (nifti.SUFFIXES, nifti.read_nifti),
    (itk_formats.SUFFIXES, itk_formats.read_itk),
    (dicom.SUFFIXES, dicom.read_dicom),
)
SUFFIXES = tuple(suffix for suffixes, _ in _FORMATS for suffix in suffixes)
"""Names that an image file can end in, in lower case; a folder of DICOM files is an image, too."""

LABEL_ROUNDING = 1e-4
"""How far a label's value may lie from an integer: scaling by a float32 slope moves 1 to 1.00000006."""


def read_image(path: Named, *, label: bool = False) -> ImageFile:
    """Read one image: PNG, JPEG, BMP, TIFF, NIfTI, NRRD, MetaImage, or a DICOM series by its folder or a file.

    Args:
        path: the file or, of a DICOM series, its folder; a list of files is an image of one file a channel.
        label: read palettes as indices, not as colours, and values within `LABEL_ROUNDING` of integers as integers.

    Shape:
        pictures ``(H, W)`` or ``(H, W, C)``; volumes ``(X, Y, Z)`` or ``(X, Y, Z, C)``; TIFFs of several pages
        ``(pages, H, W)`` or ``(pages, H, W, C)``.

    Raises:
        ImageError: if the file is missing, damaged, claims more than `MAX_VOXELS` values or more than it holds, or is
            of an unknown kind; or if the channels of a list do not lie in one place.
    """
    if not isinstance(path, str | os.PathLike):
        files = paths_of(path)
        return join([read_image(each, label=label) for each in files], files)
    path = Path(path)
    image = _decode(path, label)
    array = image.array
    if array.dtype.kind not in "buif":
        raise ImageError(f"{path}: holds values of type {array.dtype}; convert it to integers or real numbers")
    check_count(path, array.shape)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if label and array.dtype.kind == "f":
        array = _round(array)
    return replace(image, array=array)


def fourth_axis(path: Path) -> FourthAxis | None:
    """Return the fourth axis of a volume, by its header alone; ``None`` where there is none, or the format has none.

    Raises:
        ImageError: if the header cannot be read.
    """
    suffix = image_suffix(path)
    if suffix in nifti.SUFFIXES:
        return nifti.fourth_axis_of(nifti.header_of(path))
    return itk_formats.fourth_axis_in(path) if suffix in itk_formats.SUFFIXES else None


def image_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of `SUFFIXES` that a file's name ends in, in lower case, or an empty string."""
    name = os.path.basename(os.fspath(path)).lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def _round(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    whole: npt.NDArray[Any] = np.rint(array)
    with np.errstate(invalid="ignore"):
        near = np.abs(array - whole) <= LABEL_ROUNDING
    if not bool(near.all()) or float(np.abs(whole).max(initial=0)) >= 2**31:
        return array
    return whole.astype(np.int32)


def _reader(path: Path) -> _Reader:
    name = path.name.lower()
    for suffixes, reader in _FORMATS:
        if name.endswith(suffixes):
            return reader
    if path.is_dir() or (not path.suffix and dicom.is_dicom(path)):
        return dicom.read_dicom
    path.stat()  # a missing file is told as such
    raise ImageError(f"{path}: format {path.suffix or 'without suffix'} is unknown; known are {', '.join(SUFFIXES)}")


def _decode(path: Path, label: bool) -> ImageFile:
    try:
        return _reader(path)(path, label)
    except FileNotFoundError as error:
        missing = path if error.filename is None else Path(os.fspath(error.filename))
        if missing != path:  # of a header, the file of its values
            raise ImageError(
                f"{path}: takes its values from {missing.name}, and there is no such file; put it beside"
            ) from error
        raise ImageError(f"{path}: no such file; correct the path or restore the file") from error
    except PermissionError as error:
        raise ImageError(f"{path}: permission denied; make the file readable") from error
    except MemoryError as error:
        raise ImageError(f"{path}: does not fit into memory; cut it into parts") from error
    except (
        Exception
    ) as error:  # decoders raise nearly every type on damaged bytes, struct.error and KeyError among them
        if image_suffix(path) and (told := told_by_contents(path)):
            raise ImageError(f"{path}: {told}") from error
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: {_fault(path, error)}") from error


def _fault(path: Path, error: Exception) -> str:
    """Return what a decoder's error means, and what to do."""
    if isinstance(error, EOFError):
        return f"ends too early ({error}); restore the file"
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        if "Not a gzipped file" not in str(error):
            return f"damaged (its compression's own checksum or code: {error}); restore the file"
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                return "goes on after its compressed bytes with others; restore the file"
        return "is not compressed, whatever its name says; rename it, or restore the file"
    detail = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
    return f"damaged or not what its name says ({detail[:200]}); restore the file"
