"""The values of one DICOM file, in the unit that its slope and intercept give (Hounsfield units of a CT)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom_heads import quiet
from medseg.io.image_file import ImageError
from medseg.io.integrity import check_claim, check_count
from medseg.io.itk_formats import ITK_LOCK, require_itk

__all__ = ["padding_note", "read_pixels", "rescales", "result_type"]

# Most values that a stored byte can stand for: JPEG's as in pictures.py, other codes' of a blank image.
_RATIO, _RATIO_OTHER = 1200, 1 << 14
_JPEG = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70))
_VALUES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_APART = 0.1  # of the range of an image's other values: padding that lies farther from them is told
_RLE = "1.2.840.10008.1.2.5"
_STILL = tuple(f"1.2.840.10008.1.2.4.{family}" for family in ("5", "6", "7", "8", "90", "91", "92", "93", "20"))
# JPEG, JPEG-LS, JPEG 2000 and its high-throughput form; not MPEG (.100 to .108), JPIP (.94, .95), JPEG XL (.110 on)
_CODING = (  # what says how values are coded
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_COLOURS = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def result_type(heads: Mapping[Path, Any]) -> np.dtype[Any]:
    """Return the type that holds the values of all files of a series: an integer where slopes are 1, else a float.

    Args:
        heads: tags by file.
    """
    low, high, whole, bits = 0.0, 0.0, True, 0
    for head in heads.values():
        if head.get("BitsStored") is None:  # of floats, which a head without pixels does not show otherwise
            return np.dtype(np.float64)
        pairs = rescales(head)
        if _has_table(head) or str(head.get("PhotometricInterpretation")) == "PALETTE COLOR":
            bits, high = max(bits, 16), max(high, 2.0**16 - 1)
            continue
        stored = int(head.BitsStored or 16)
        signed = int(head.get("PixelRepresentation") or 0)
        ends = (-(2.0 ** (stored - 1)), 2.0 ** (stored - 1) - 1) if signed else (0.0, 2.0**stored - 1)
        whole = whole and all(slope == 1 and intercept == round(intercept) for slope, intercept in pairs)
        offsets = [intercept for _, intercept in pairs]
        low, high = min(low, ends[0] + min(offsets)), max(high, ends[1] + max(offsets))
        bits = max(bits, stored)
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
    try:
        with quiet():
            return _read(path, dtype)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom raises nearly every type on tags that do not go together
        detail = " ".join(str(error).replace(str(path), "").split())[:200] or type(error).__name__
        raise ImageError(f"{path}: its values cannot be decoded ({detail}); restore the file") from error


def _read(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    import pydicom

    data = pydicom.dcmread(path)
    if "Rows" not in data:  # though its head had them: pydicom drops all tags where the last is cut
        raise ImageError(f"{path}: ends where its pixels begin; restore the file")
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None or not getattr(syntax, "is_transfer_syntax", False):
        told = "does not say" if syntax is None else f"says in no known way ({str(syntax)[:64]!r})"
        raise ImageError(f"{path}: {told} how its values are stored (TransferSyntaxUID); restore the file")
    if dtype.kind != "f" and "PixelData" not in data and any(name in data for name in _VALUES):
        raise ImageError(f"{path}: holds floats, but states BitsStored as integers do; take that tag out")
    native = not syntax.is_compressed or syntax.is_deflated
    shape = _check(path, data, native)
    pixels = _scaled(data, _stored(path, data, native or syntax == _RLE), dtype)
    if pixels.size != np.prod(shape):
        raise ImageError(f"{path}: decodes to {pixels.shape}, but claims {shape}; restore the file")
    return pixels.reshape(shape if shape[-1] > 1 else shape[:-1])


def rescales(head: Any) -> list[tuple[float, float]]:
    """Return slope and intercept of a file, one pair for all its frames or one for each.

    Args:
        head: tags of the file.
    """
    frames = [_transform(group) for group in head.get("PerFrameFunctionalGroupsSequence") or ()]
    shared = [_transform(group) for group in head.get("SharedFunctionalGroupsSequence") or ()]
    slope, intercept = head.get("RescaleSlope"), head.get("RescaleIntercept")
    own = 1.0 if slope is None else float(slope), float(intercept or 0)
    usual = next((pair for pair in shared if pair is not None), own)
    pairs = [usual if pair is None else pair for pair in frames]
    return list(pairs) if len(set(pairs)) > 1 else [pairs[0] if pairs else usual]


def padding_note(heads: Mapping[Path, Any], values: npt.NDArray[Any]) -> list[str]:
    """Return a note where the values that stand for no measurement (PixelPaddingValue) lie far from all others.

    They are read as what they say, as by ITK; what is made of an image's own range is then made of theirs.

    Args:
        heads: tags by file.
        values: of the series, scaled.
    """
    head = next(iter(heads.values()))
    pairs, stored = rescales(head), _padding(head)
    if len(pairs) > 1 or not stored or values.dtype.kind not in "iuf":
        return []
    (slope, intercept), found = pairs[0], False
    low, high = sorted(each * slope + intercept for each in stored)
    least, most = np.inf, -np.inf
    for part in values:
        padded = (part >= low) & (part <= high)
        found |= bool(padded.any())
        if not padded.all():
            others = part[~padded]
            least, most = min(least, float(others.min())), max(most, float(others.max()))
    if not found or least > most or max(least - high, low - most) <= _APART * (most - least):
        return []
    shown = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    side = "below" if high < least else "above"
    return [f"its padding (PixelPaddingValue) is read as {shown}, far {side} all other values"]


def _padding(head: Any) -> list[float]:
    """Return the ends of the stored values that are padding; none where it is not said, or not in numbers."""
    ends = [head.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    numbers = [float(end) for end in ends if isinstance(end, int | float)]
    return [numbers[0], numbers[-1]] if isinstance(ends[0], int | float) else []


def _transform(group: Any) -> tuple[float, float] | None:
    items = group.get("PixelValueTransformationSequence")
    return (float(items[0].RescaleSlope), float(items[0].RescaleIntercept)) if items else None


def _check(path: Path, data: Any, native: bool) -> tuple[int, int, int, int]:
    """Return frames, rows, columns and channels after they were compared with the values that are there."""
    samples, frames = int(data.get("SamplesPerPixel") or 1), int(data.get("NumberOfFrames") or 1)
    shape = (frames, int(data.Rows), int(data.Columns), samples)
    check_count(path, shape)
    colours = str(data.get("PhotometricInterpretation") or "")
    if colours not in _COLOURS:
        told = f"holds colours as {colours[:40]}" if colours else "does not say whether it is grey or in colour"
        raise ImageError(f"{path}: {told} (PhotometricInterpretation); convert it to grey or RGB")
    stored = max((len(data[name].value) for name in _VALUES if name in data), default=0)
    if not stored:
        raise ImageError(f"{path}: holds no pixels; restore the file")
    bits = int(data.get("BitsAllocated") or 8) * (2 / 3 if colours == "YBR_FULL_422" and native else 1)
    claimed = float(np.prod([float(edge) for edge in shape])) * bits / 8
    packed = _RATIO if data.file_meta.TransferSyntaxUID in _JPEG else _RATIO_OTHER
    check_claim(path, shape, claimed, stored, 1 if native else packed)
    return (*shape[:3], 3) if colours == "PALETTE COLOR" else shape


def _stored(path: Path, data: Any, plain: bool) -> npt.NDArray[Any]:
    """Return the values of a file before slope and intercept; of a palette, the colours."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    if plain:
        pixels = pixel_array(data)
        _check_high_bit(path, data)
    else:
        _check_coding(path, data)
        pixels = _decode_with_itk(path, data)
    if str(data.PhotometricInterpretation) == "PALETTE COLOR":
        colours = apply_color_lut(pixels, data)
        return np.asarray(colours)
    stored, held = int(data.get("BitsStored") or 0), int(data.BitsAllocated)
    if pixels.dtype.kind in "iu" and 0 < stored < held and pixels.dtype.itemsize * 8 == held:
        shift = pixels.dtype.type(held - stored)  # overlays may use the bits above; a shift down keeps the sign
        pixels = (pixels << shift) >> shift
    return np.asarray(apply_modality_lut(pixels, data)) if _has_table(data) else pixels


def _has_table(head: Any) -> bool:
    """Return whether a table says what values mean: of an empty sequence, slope and intercept do."""
    return bool(head.get("ModalityLUTSequence"))


def _scaled(data: Any, pixels: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    pairs = rescales(data)
    plain = _has_table(data) or str(data.PhotometricInterpretation) == "PALETTE COLOR"
    if plain or pairs == [(1, 0)]:
        return pixels.astype(dtype)
    if len(pairs) == 1:
        return _line(pixels, pairs[0], dtype)
    return np.stack([_line(frame, pair, dtype) for frame, pair in zip(pixels, pairs, strict=True)])


def _line(pixels: npt.NDArray[Any], pair: tuple[float, float], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    slope, intercept = pair
    if dtype.kind == "f":
        return (pixels.astype(np.float64) * slope + intercept).astype(dtype)
    return (pixels.astype(np.int64) + round(intercept)).astype(dtype)  # the type is an integer where the slope is 1


def _check_coding(path: Path, data: Any) -> None:
    """Refuse tags that do not go together, of which GDCM ends the process; pydicom checks what it decodes itself."""
    allocated, stored = (int(data.get(name) or 0) for name in ("BitsAllocated", "BitsStored"))
    samples, sign = int(data.get("SamplesPerPixel") or 1), int(data.get("PixelRepresentation") or 0)
    held = f"{allocated} bits allocated, {stored} stored, {samples} samples a pixel, sign {sign}"
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or samples not in (1, 3) or sign not in (0, 1):
        raise ImageError(f"{path}: its tags do not go together ({held}); correct them or restore the file")
    _check_high_bit(path, data)
    colours = str(data.PhotometricInterpretation)
    if (samples == 3) != (colours not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")):
        raise ImageError(f"{path}: holds {samples} samples a pixel as {colours}; correct the tags or restore the file")
    if colours != "PALETTE COLOR":
        return
    for name in ("Red", "Green", "Blue"):
        shape, table = (data.get(f"{name}PaletteColorLookupTable{part}") for part in ("Descriptor", "Data"))
        if not table or not hasattr(shape, "__len__") or len(shape) != 3 or len(table) != _table_bytes(shape):
            raise ImageError(f"{path}: is in the colours of a palette that it does not hold; restore the file")


def _check_high_bit(path: Path, data: Any) -> None:
    """Refuse values that stand in other bits than the lowest, as old files have them: they would be read as others."""
    high, stored = data.get("HighBit"), data.get("BitsStored")
    if high is not None and stored and int(high) != int(stored) - 1:
        raise ImageError(
            f"{path}: its HighBit is {high} with {stored} bits stored, not {int(stored) - 1}; correct it, or shift the "
            "values down, or restore the file"
        )


def _table_bytes(shape: Any) -> int:
    entries, _, bits = (int(value) for value in shape)
    return (entries or 1 << 16) * (2 if bits == 16 else 1)


def _decode_with_itk(path: Path, data: Any) -> npt.NDArray[Any]:
    """Decode JPEG, JPEG-LS and JPEG 2000.

    Of a whole file, GDCM would give other values than those of the same slices uncompressed: it turns MONOCHROME1
    round, passes over a modality LUT, and applies slope and intercept by the kind of the object. So it gets a copy
    that says how the values are coded, and nothing of what they mean.
    """
    syntax = data.file_meta.TransferSyntaxUID
    if not str(syntax).startswith(_STILL):
        raise ImageError(_undecodable(path, syntax, "no decoder for it is here"))
    itk = require_itk(path)
    try:
        with tempfile.TemporaryDirectory(prefix="medseg_") as folder, ITK_LOCK:
            copy = Path(folder) / "coded.dcm"
            _bare(data).save_as(copy, enforce_file_format=True)
            reader_io = itk.GDCMImageIO.New()
            reader_io.SetFileName(str(copy))
            reader_io.ReadImageInformation()
            pixel = itk.D
            kind = itk.VectorImage[pixel, 3] if int(reader_io.GetNumberOfComponents()) > 1 else itk.Image[pixel, 3]
            reader = itk.ImageFileReader[kind].New(FileName=str(copy), ImageIO=reader_io)
            reader.Update()
            values = itk.array_from_image(reader.GetOutput())
    except RuntimeError as error:
        raise ImageError(_undecodable(path, syntax, "its code is damaged, or of a kind that GDCM lacks")) from error
    sign = "i" if int(data.get("PixelRepresentation") or 0) else "u"
    return np.asarray(values).astype(np.int64).astype(f"{sign}{int(data.BitsAllocated) // 8}")


def _bare(data: Any) -> Any:
    """Return a file of the same code: a capture whose values are what is stored."""
    import pydicom

    several = int(data.get("NumberOfFrames") or 1) > 1
    colour = int(data.get("SamplesPerPixel") or 1) > 1
    bare = pydicom.Dataset()
    for name in _CODING:
        if name in data:
            bare[name] = data[name]
    if not colour:  # what one sample a pixel stands for is no matter of the code
        bare.PhotometricInterpretation = "MONOCHROME2"
    frames = 4 if colour else 3 if int(data.BitsAllocated) > 8 else 2  # true colour, grey words, grey bytes
    bare.SOPClassUID = f"{_CAPTURE}.{frames}" if several else _CAPTURE
    bare.SOPInstanceUID = "2.25.1"
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    return bare


def _undecodable(path: Path, syntax: Any, why: str) -> str:
    name = str(getattr(syntax, "name", syntax))[:80]
    return f"{path}: is compressed as {name} and cannot be decoded ({why}); export the series uncompressed"
