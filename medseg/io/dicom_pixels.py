"""The values of one DICOM file, in the unit that its slope and intercept give (Hounsfield units of a CT)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.image_file import ImageError
from medseg.io.integrity import check_claim, check_count
from medseg.io.itk_formats import ITK_LOCK

__all__ = ["read_pixels", "result_type"]

# Most values that a stored byte can stand for: JPEG's as in pictures.py, other codes' of a blank image.
_RATIO, _RATIO_OTHER = 1200, 1 << 14
_JPEG = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70))
_VALUES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_RLE = "1.2.840.10008.1.2.5"
_COLOURS = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def result_type(heads: Mapping[Path, Any]) -> np.dtype[Any]:
    """Return the type that holds the values of all files of a series: an integer where slopes are 1, else a float.

    Args:
        heads: tags by file.
    """
    low, high, whole, bits = 0.0, 0.0, True, 0
    for head in heads.values():
        slope, intercept = _rescale(head)
        if slope is None:
            return np.dtype(np.float64)
        if "ModalityLUTSequence" in head or str(head.get("PhotometricInterpretation")) == "PALETTE COLOR":
            bits, high = max(bits, 16), max(high, 2.0**16 - 1)
            continue
        stored = int(head.get("BitsStored") or 16)
        signed = int(head.get("PixelRepresentation") or 0)
        ends = (-(2.0 ** (stored - 1)), 2.0 ** (stored - 1) - 1) if signed else (0.0, 2.0**stored - 1)
        whole = whole and slope == 1 and intercept == round(intercept)
        low, high, bits = min(low, ends[0] + intercept), max(high, ends[1] + intercept), max(bits, stored)
    if not whole:
        return np.dtype(np.float32 if bits <= 16 else np.float64)
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def read_pixels(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Read the frames of one file.

    Args:
        path: the file.
        dtype: of the result, from `result_type`.

    Shape:
        ``(frames, rows, columns)``, and 3 last where it is in colour.

    Raises:
        ImageError: if values are missing or damaged.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on the form of tags
        data = pydicom.dcmread(path)
        syntax = data.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            raise ImageError(f"{path}: does not say how its values are stored (TransferSyntaxUID); restore the file")
        native = not syntax.is_compressed or syntax.is_deflated
        shape = _check(path, data, native)
        if native or syntax == _RLE:
            pixels = _scaled(data, _decode(path, data), dtype)
        else:
            pixels = _decode_with_itk(path, dtype)
    if pixels.size != np.prod(shape):
        raise ImageError(f"{path}: decodes to {pixels.shape}, but claims {shape}; restore the file")
    return pixels.reshape(shape if shape[-1] > 1 else shape[:-1])


def _transform(group: Any) -> tuple[float, float] | None:
    items = group.get("PixelValueTransformationSequence")
    return (float(items[0].RescaleSlope), float(items[0].RescaleIntercept)) if items else None


def _rescale(head: Any) -> tuple[float | None, float]:
    """Return slope and intercept; no slope where values are floats already."""
    if "FloatPixelData" in head or "DoubleFloatPixelData" in head:
        return None, 0.0
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in head.get(name) or ():
            if (transform := _transform(group)) is not None:
                return transform
    slope, intercept = head.get("RescaleSlope"), head.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), float(intercept or 0)


def _check(path: Path, data: Any, native: bool) -> tuple[int, int, int, int]:
    """Return frames, rows, columns and channels after they were compared with the values that are there."""
    samples, frames = int(data.get("SamplesPerPixel") or 1), int(data.get("NumberOfFrames") or 1)
    shape = (frames, int(data.Rows), int(data.Columns), samples)
    check_count(path, shape)
    colours = str(data.get("PhotometricInterpretation"))
    if colours not in _COLOURS:
        raise ImageError(f"{path}: holds colours as {colours}; convert it to grey or RGB")
    stored = max((len(data[name].value) for name in _VALUES if name in data), default=0)
    if not stored:
        raise ImageError(f"{path}: holds no pixels; restore the file")
    bits = int(data.get("BitsAllocated") or 8) * (2 / 3 if colours == "YBR_FULL_422" and native else 1)
    claimed = float(np.prod([float(edge) for edge in shape])) * bits / 8
    packed = _RATIO if data.file_meta.TransferSyntaxUID in _JPEG else _RATIO_OTHER
    check_claim(path, shape, claimed, stored, 1 if native else packed)
    if len({_transform(item) for item in data.get("PerFrameFunctionalGroupsSequence") or ()}) > 1:
        raise ImageError(f"{path}: its frames differ in slope or intercept; store each frame in a file of its own")
    return (*shape[:3], 3) if colours == "PALETTE COLOR" else shape


def _decode(path: Path, data: Any) -> npt.NDArray[Any]:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    pixels = pixel_array(data)
    if str(data.PhotometricInterpretation) == "PALETTE COLOR":
        colours = apply_color_lut(pixels, data)
        return np.asarray(colours)
    stored, held = int(data.get("BitsStored") or 0), int(data.BitsAllocated)
    if pixels.dtype.kind in "iu" and 0 < stored < held and pixels.dtype.itemsize * 8 == held:
        shift = pixels.dtype.type(held - stored)  # overlays may use the bits above; a shift down keeps the sign
        pixels = (pixels << shift) >> shift
    return np.asarray(apply_modality_lut(pixels, data)) if "ModalityLUTSequence" in data else pixels


def _scaled(data: Any, pixels: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    slope, intercept = _rescale(data)
    plain = "ModalityLUTSequence" in data or str(data.PhotometricInterpretation) == "PALETTE COLOR"
    if plain or slope is None or (slope, intercept) == (1, 0):
        return pixels.astype(dtype)
    if dtype.kind == "f":
        return (pixels.astype(np.float64) * slope + intercept).astype(dtype)
    return (pixels.astype(np.int64) + round(intercept)).astype(dtype)  # the type is an integer where the slope is 1


def _decode_with_itk(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Decode JPEG, JPEG-LS and JPEG 2000; GDCM applies slope and intercept itself."""
    import itk

    with ITK_LOCK:
        reader_io = itk.GDCMImageIO.New()
        reader_io.SetFileName(str(path))
        reader_io.ReadImageInformation()
        pixel = itk.D
        kind = itk.VectorImage[pixel, 3] if int(reader_io.GetNumberOfComponents()) > 1 else itk.Image[pixel, 3]
        reader = itk.ImageFileReader[kind].New(FileName=str(path), ImageIO=reader_io)
        reader.Update()
        values = itk.array_from_image(reader.GetOutput())
    return np.asarray(values).astype(dtype)
