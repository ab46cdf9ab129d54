"""NRRD and MetaImage (MHA, or MHD with its values in a file beside it), read through ITK.

The text header is read here first: what it claims must fit the bytes that are there, a compressed stream must have the
claimed length and the right checksum, and values may not lie in a file elsewhere. Only then ITK is asked.
"""

from __future__ import annotations

import math
import re
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medseg.affines import voxel_edges
from medseg.errors import shown
from medseg.io.image_file import Affine, FourthAxis, ImageError, ImageFile
from medseg.io.integrity import DEFLATE_RATIO, check_claim, file_size
from medseg.io.nifti import check_affine

__all__ = ["ITK_LOCK", "LPS_TO_RAS", "SUFFIXES", "files_of", "fourth_axis_in", "read_itk", "require_itk"]

SUFFIXES = (".nrrd", ".mha", ".mhd")

ITK_LOCK = threading.Lock()
"""Held while ITK works: it loads its parts on first use, which two threads must not do at once."""

LPS_TO_RAS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's and DICOM's patient axes (to the left, to the back, to the head) to ours."""

_MAX_HEADER = 1 << 20
_MOST_SAID = 200
_ITK_PLACE = re.compile(r"^.*?(?:ITK ERROR|itk::ERROR): \w+\(0x[0-9a-f]+\): ", re.DOTALL)
_SPACINGS = {"spacings", "spacedirections", "elementspacing", "elementsize"}
_PLACES = {"space", "transformmatrix", "rotation", "orientation", "offset", "position", "origin"}
_PATIENT = {"ras", "las", "lps", "right-anterior-superior", "left-anterior-superior", "left-posterior-superior"}
_MILLIMETRES = ("", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres")
_CHUNK = 1 << 20
_AXES = ("domain", "space", "time", "list", "???", "none")  # kinds of an axis that is no vector and no colour
_FRAMES = ":multivolume.frameidentifyingdicomtagname"  # what 3D Slicer states of a series of volumes
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t", "double"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
}
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    # a long is of 4 bytes everywhere
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def require_itk(path: Path) -> Any:
    """Return ITK's package, which only NRRD, MHA and compressed DICOM need.

    Args:
        path: the file that is to be read or written.

    Raises:
        ImageError: naming what to install.
    """
    try:
        import itk
    except ImportError as error:
        raise ImageError(f"{path}: this format needs itk; install it: pip install itk") from error
    return itk


def read_itk(path: Path, label: bool) -> ImageFile:
    """Read an NRRD or MetaImage file.

    Args:
        path: the file.
        label: not used; a label reads as any volume does.

    Shape:
        ``(X, Y)`` or ``(X, Y, Z)``, and channels last: a pixel's components, or a fourth axis.

    Raises:
        ImageError: if it cannot be used.
    """
    size = file_size(path)
    with path.open("rb") as file:
        check = _check_nrrd if path.suffix.lower() == ".nrrd" else _check_meta
        fields, more = check(path, file, size)
    try:
        with ITK_LOCK:
            array, components, geometry = _decode(path)
    except RuntimeError as error:  # of ITK, with its source's line and an address in memory before what is wrong
        raise ImageError(f"{path}: ITK cannot read it ({_said(path, error)}); store it again") from error
    spatial = min(array.ndim - (components > 1), 3)
    rest = array.shape[spatial:]
    if sum(edge > 1 for edge in rest) > 1:
        raise ImageError(f"{path}: has the shape {array.shape}; store one volume of one list of channels a file")
    channels = math.prod(rest)
    array = array.reshape(*array.shape[:spatial], *((channels,) if channels > 1 else ()))
    affine = check_affine(path, LPS_TO_RAS @ geometry)
    spacing = tuple(float(length) for length in voxel_edges(affine)[:spatial])
    fourth = _fourth_axis(path, fields)
    notes = (*_notes(fields, more), *(fourth.notes() if fourth else ()))
    return ImageFile(array, channels, spacing=spacing, affine=affine, kind="volume", notes=notes)


def fourth_axis_in(path: Path) -> FourthAxis | None:
    """Return the fourth axis of a file, by its header alone; ``None`` where there is none.

    Raises:
        ImageError: if its header is none.
    """
    with path.open("rb") as file:
        fields = (_nrrd_fields if path.suffix.lower() == ".nrrd" else _meta_fields)(path, file)
    return _fourth_axis(path, fields)


def _fourth_axis(path: Path, fields: Mapping[str, str]) -> FourthAxis | None:
    """Values that lie together, a vector or a colour, are no axis; which of four a NRRD's is, its kinds say."""
    shape = _numbers(path, fields, "sizes" if "sizes" in fields else "dimsize")
    kinds = fields.get("kinds", "").lower().split()
    other = next((axis for axis, kind in enumerate(kinds) if kind not in ("domain", "space")), len(shape) - 1)
    kind = kinds[other] if other < len(kinds) else ""
    if len(shape) != 4 or other > 3 or shape[other] < 2 or kind not in ("", *_AXES):
        return None
    unit, tag = (fields.get(key, "") for key in (f":axis{other}indexunit", _FRAMES))
    if kind == "time":
        return FourthAxis(shape[other], "of the kind time")
    if unit in ("s", "ms") or "time" in tag.lower():
        return FourthAxis(shape[other], f"frames by {tag}" if tag else f"in {unit}")
    return FourthAxis(shape[other])


def _said(path: Path, error: RuntimeError) -> str:
    text = " ".join(_ITK_PLACE.sub("", str(error)).replace(str(path), "").split())
    return text[-_MOST_SAID:] or type(error).__name__


def _notes(fields: Mapping[str, str], more: int) -> Iterator[str]:
    """Say what ITK passes over, and what a header leaves open of where its volume lies; that is then 1 mm, the origin.

    Args:
        fields: of the header.
        more: bytes behind the values.
    """
    if more:
        yield f"holds {more} bytes more than its header claims"
    scales = [fields.get(f"elementtointensityfunction{key}", usual) for key, usual in (("slope", "1"), ("offset", "0"))]
    if [each.rstrip("0").rstrip(".") or "0" for each in scales] != ["1", "0"]:
        yield "states how values are to be scaled (ElementToIntensityFunction); they are taken as they are stored"
    if not fields.keys() & _SPACINGS:
        yield "states neither spacing nor place: voxels of 1 mm, and left and right, are a guess"
        return
    space = fields.get("space", "")
    if not fields.keys() & _PLACES:
        yield "does not say where it lies (no space): left and right are a guess"
    elif space and space.lower() not in _PATIENT:  # of a scanner, or but an order of axes; ITK takes its axes for LPS
        yield f"lies in no patient's space ({shown(space[:40])}): left and right are a guess"
    units = {*re.findall(r'"([^"]+)"', fields.get("spaceunits", "")), fields.get("distanceunits", "")}
    if units := {unit for unit in units if unit.lower() not in _MILLIMETRES}:
        yield f"states lengths in {shown(min(units)[:20])}; they are taken as mm"


def _decode(path: Path) -> tuple[npt.NDArray[Any], int, Affine]:
    """Return values ``(X, Y, ..., components)``, the number of components, and the affine in ITK's axes (LPS)."""
    itk = require_itk(path)
    reader_io = (itk.NrrdImageIO if path.suffix.lower() == ".nrrd" else itk.MetaImageIO).New()
    reader_io.SetFileName(str(path))
    reader_io.ReadImageInformation()
    components, axes = int(reader_io.GetNumberOfComponents()), int(reader_io.GetNumberOfDimensions())
    name = reader_io.GetComponentTypeAsString(reader_io.GetComponentType())
    if "complex" in reader_io.GetPixelTypeAsString(reader_io.GetPixelType()):
        raise ImageError(f"{path}: holds complex values; store magnitude or phase as real numbers")
    pixel, stored = _pixel_type(path, itk, name, components)
    if not 2 <= axes <= 4:
        raise ImageError(f"{path}: has {axes} axes; store a volume of 2 to 4")
    kind = itk.VectorImage[pixel, axes] if components > 1 else itk.Image[pixel, axes]
    reader = itk.ImageFileReader[kind].New(FileName=str(path), ImageIO=reader_io)
    reader.Update()
    image = reader.GetOutput()
    array = itk.array_from_image(image).astype(stored, copy=False)
    order = tuple(range(axes - 1, -1, -1))
    array = array.transpose(*order, axes) if components > 1 else array.transpose(order)
    geometry = np.eye(4)
    inner = min(axes, 3)
    direction = itk.array_from_matrix(image.GetDirection())[:inner, :inner]
    geometry[:inner, :inner] = direction * np.asarray(image.GetSpacing())[:inner]
    geometry[:inner, 3] = np.asarray(image.GetOrigin())[:inner]
    return array, components, geometry


def _pixel_type(path: Path, itk: Any, name: str, components: int) -> tuple[Any, type]:
    """Return the pixel type that ITK's Python package has for a type, wide enough for it, and numpy's name."""
    scalars = {
        "unsigned_char": (itk.UC, np.uint8),
        "char": (itk.SS, np.int8),
        "unsigned_short": (itk.US, np.uint16),
        "short": (itk.SS, np.int16),
        "unsigned_int": (itk.UI, np.uint32),
        "int": (itk.SI, np.int32),
        "float": (itk.F, np.float32),
        "double": (itk.D, np.float64),
        **dict.fromkeys(("unsigned_long", "unsigned_long_long"), (itk.ULL, np.uint64)),
        **dict.fromkeys(("long", "long_long"), (itk.D, np.int64)),  # exact up to 2^53
    }
    if name not in scalars:
        raise ImageError(f"{path}: holds values of type {name}; convert it to integers or real numbers")
    pixel, stored = scalars[name]
    if components > 1 and stored in (np.int32, np.uint32, np.uint64):
        pixel = itk.D
    return pixel, stored


def _nrrd_fields(path: Path, file: BinaryIO) -> dict[str, str]:
    """Return a header's fields, and what programs add (``key:=value``) by ``:key``."""
    if not file.readline(16).startswith(b"NRRD000"):
        raise ImageError(f"{path}: damaged or not what its name says (no NRRD header); restore the file")
    fields: dict[str, str] = {}
    while line := _line(path, file):
        added = ":=" in line
        if not line.startswith("#") and (added or ": " in line):
            key, value = line.split(":=" if added else ":", 1)
            fields[":" * added + key.strip().lower().replace(" ", "")] = value.strip()
    return fields


def _check_nrrd(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, str], int]:
    fields = _nrrd_fields(path, file)
    if "datafile" in fields:
        raise ImageError(f"{path}: keeps its values in another file; store header and values in one .nrrd")
    if fields.get("byteskip", "0") != "0" or fields.get("lineskip", "0") != "0":
        raise ImageError(f"{path}: leaves out bytes before its values; store it without")
    kind = fields.get("type", "").lower()
    if kind not in _NRRD_TYPES:
        raise ImageError(f"{path}: holds values of type {kind[:40] or 'none'}; convert it to integers or real numbers")
    shape = _numbers(path, fields, "sizes")
    if fields.get("dimension") != str(len(shape)):
        raise ImageError(f"{path}: claims {fields.get('dimension')} axes, but sizes of {len(shape)}; restore the file")
    encoding = fields.get("encoding", "").lower()
    compressed = encoding in ("gzip", "gz")
    if encoding != "raw" and not compressed:
        raise ImageError(f"{path}: is encoded as {encoding[:20] or 'nothing'}; store it raw or with gzip")
    stored = size - file.tell()
    return fields, stored - _check_values(path, file, shape, _NRRD_TYPES[kind], stored, compressed)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return a MetaImage header and, where they lie beside it, the file of its values.

    Raises:
        ImageError: if it is no such header.
    """
    with path.open("rb") as file:
        source = _meta_fields(path, file)["elementdatafile"]
    return (path,) if source.upper() == "LOCAL" else (path, path.with_name(source))


def _meta_fields(path: Path, file: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    while "elementdatafile" not in fields:
        line = _line(path, file)
        if "=" not in line:
            raise ImageError(f"{path}: damaged or not what its name says (no MetaImage header); restore the file")
        key, value = line.split("=", 1)
        fields[key.strip().lower()] = value.strip()
    return fields


def _check_meta(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, str], int]:
    fields = _meta_fields(path, file)
    kind = fields.get("elementtype", "").upper()
    if kind not in _META_TYPES:
        raise ImageError(f"{path}: holds values of type {kind[:40] or 'none'}; convert it to integers or real numbers")
    shape = _numbers(path, fields, "dimsize")
    if fields.get("ndims") != str(len(shape)):
        raise ImageError(f"{path}: claims {fields.get('ndims')} axes, but sizes of {len(shape)}; restore the file")
    shape = (
        *shape,
        *(_numbers(path, fields, "elementnumberofchannels") if "elementnumberofchannels" in fields else ()),
    )
    if _flag(fields, "binarydata", "true") == "false" or fields.get("headersize", "0") != "0":
        raise ImageError(f"{path}: stores values as text or after bytes to leave out; store it in one binary .mha")
    compressed = _flag(fields, "compresseddata", "false") == "true"
    source = fields["elementdatafile"]
    if source.upper() == "LOCAL":
        stored = size - file.tell()
        used = _check_values(path, file, shape, _META_TYPES[kind], stored, compressed)
        _check_stated(path, fields, used, compressed)
        return fields, _more(path, kind, stored, used)
    if source != Path(source).name or source.upper().startswith("LIST") or "%" in source:
        raise ImageError(f"{path}: takes its values from {source[:80]!r}; name one file beside it, or store one .mha")
    values = path.with_name(source)
    length = file_size(values)
    with values.open("rb") as beside:
        used = _check_values(values, beside, shape, _META_TYPES[kind], length, compressed)
    if "compresseddatasize" in fields:
        _check_stated(path, fields, used, compressed)
    return fields, _more(path, kind, length, used)


def _more(path: Path, kind: str, stored: int, used: int) -> int:
    """Return how many bytes stand behind the values, unless those are longs of 8 bytes, as some machines have them."""
    if kind in ("MET_LONG", "MET_ULONG") and stored == 2 * used:
        raise ImageError(
            f"{path}: holds 8 bytes a value, and {kind} has 4; correct ElementType to {kind}_LONG, or store it again"
        )
    return stored - used


def _check_stated(path: Path, fields: Mapping[str, str], used: int, compressed: bool) -> None:
    """ITK unpacks as many bytes as the header states; where these are too few it hands over whatever memory held."""
    if not compressed:
        return
    stated = fields.get("compresseddatasize", "")
    if not stated.isascii() or not stated.isdigit() or int(stated[:18]) < used:
        raise ImageError(
            f"{path}: states {shown(stated[:20]) or 'no'} CompressedDataSize, but its values take {used} bytes; "
            "correct the header, or store it again"
        )


def _check_values(path: Path, file: BinaryIO, shape: tuple[int, ...], width: int, stored: int, compressed: bool) -> int:
    """The values must be there: all of them, and where they are compressed with the right checksum at the end.

    Returns:
        How many bytes of the file they take.
    """
    claimed, start = math.prod(shape) * width, file.tell()
    check_claim(path, shape, claimed, stored, DEFLATE_RATIO if compressed else 1)
    if not compressed:
        return claimed
    unpack, found = zlib.decompressobj(47), 0  # 47: gzip or zlib, which it tells by the first bytes
    while not unpack.eof and found <= claimed and (packed := unpack.unconsumed_tail or file.read(_CHUNK)):
        found += len(unpack.decompress(packed, _CHUNK))
    if found != claimed or not unpack.eof:
        raise ImageError(f"{path}: unpacks to {found} bytes, but claims {claimed}; it is damaged, restore the file")
    return file.tell() - start - len(unpack.unused_data)


def _line(path: Path, file: BinaryIO) -> str:
    line = file.readline(_MAX_HEADER)
    if file.tell() > _MAX_HEADER:
        raise ImageError(f"{path}: its header has no end; restore the file")
    return line.decode("latin-1").strip()


def _flag(fields: Mapping[str, str], key: str, default: str) -> str:
    return "true" if fields.get(key, default).lower()[:1] in ("t", "1", "y") else "false"


def _numbers(path: Path, fields: Mapping[str, str], key: str) -> tuple[int, ...]:
    words = fields.get(key, "").split()
    if not 1 <= len(words) <= 16 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise ImageError(f"{path}: claims the {key} {fields.get(key, '')[:40]!r}; restore the file")
    return tuple(int(word) for word in words)
