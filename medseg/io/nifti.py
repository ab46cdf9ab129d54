"""NIfTI-1 and NIfTI-2: one file, compressed or not, or a pair of header and values.

nibabel reads the header; the values are read here, so that their number is checked against the file before memory is
asked for, and gzip's checksum, which stands behind the last value, is verified.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medseg.affines import voxel_edges
from medseg.io.image_file import Affine, FourthAxis, ImageError, ImageFile
from medseg.io.integrity import DEFLATE_RATIO, check_claim, file_size, open_stream, read_bytes

__all__ = ["SUFFIXES", "check_affine", "fourth_axis_of", "header_of", "qform_of", "read_nifti"]

SUFFIXES = (".nii", ".nii.gz", ".hdr")

_GZIP = b"\x1f\x8b"
_NIFTI_1, _NIFTI_2 = 348, 540  # bytes of a header, which begins with this number
_DIFFERENCE = 0.1  # voxels; less is rounding of the stored quaternion
_SPACING = 1e-2
_ROUNDED = 1e-3
_UNITS = {1: "metres", 3: "micrometres"}
_TIMES = {8: "s", 16: "ms", 24: "us"}
_CODES = range(6)
_UNHEARD = logging.Logger("what nibabel mends", logging.CRITICAL + 1)  # it names no file; what matters is told here


def read_nifti(path: Path, label: bool) -> ImageFile:
    """Read a NIfTI file, or the header of a pair (``.hdr``, its values in ``.img`` beside it).

    Values are scaled as the header says: to float32 from integers of up to 16 bits and from float32, otherwise to
    float64. A fourth axis, or a fifth where the fourth is 1, is channels; colours (RGB24, RGBA32) are channels, too.

    Args:
        path: the file.
        label: not used; a label reads as any volume does.

    Shape:
        ``(X, Y)``, ``(X, Y, Z)`` or, last, with channels.

    Raises:
        ImageError: if it cannot be used.
    """
    size = file_size(path)
    name = path.name.lower()
    with open_stream(path, compressed=name.endswith(".gz")) as stream:
        header, begun = _read_header(path, stream)
        pair = name.endswith(".hdr")
        offset = int(header.get_data_offset())
        if not pair and offset < int(header["sizeof_hdr"]) + 4:
            raise ImageError(f"{path}: claims that values begin at byte {offset}, inside its header; restore the file")
        shape, dtype = _claims(path, header)
        claimed = math.prod(shape) * dtype.itemsize
        if not pair:
            ratio = DEFLATE_RATIO if name.endswith(".gz") else 1
            check_claim(path, shape, claimed + (offset if ratio == 1 else 0), size, ratio)
            values, more = read_bytes(path, stream, offset - begun, claimed)
    if pair:
        values, more = _read_pair(path, shape, claimed, offset)
    notes = [f"holds {more} bytes more than its header claims"] if more else []
    array = values.view(dtype).reshape(shape, order="F")
    array = _scale(array, *header.get_slope_inter())
    affine = check_affine(path, _best_affine(path, header))
    notes += _geometry_notes(header, shape)
    fourth = fourth_axis_of(header)
    notes += fourth.notes() if fourth else []
    array, channels, spatial = _arrange(path, array)
    lengths = voxel_edges(affine)[:spatial]
    spacing = tuple(float(length) for length in lengths)
    return ImageFile(array, channels, spacing=spacing, affine=affine, kind="volume", notes=tuple(notes))


def header_of(path: Path) -> Any:
    """Return the header of a NIfTI file, as nibabel's, without its extensions.

    Raises:
        ImageError: if it is none.
    """
    with open_stream(path, compressed=path.name.lower().endswith(".gz")) as stream:
        return _read_header(path, stream)[0]


def qform_of(header: Any) -> Affine | None:
    """Return the qform; ``None`` where the header has none, or its numbers place nothing."""
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(all="ignore"):  # what is not finite is judged below
            affine = header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # a quaternion that is no turn, edges below 0
        return None
    return None if affine is None or not np.isfinite(affine).all() else affine


def fourth_axis_of(header: Any) -> FourthAxis | None:
    """Return the fourth axis of a file; ``None`` where it has none, or only one value along it.

    A unit of time alone says little: ITK states seconds in every file, 1 apart. Steps of another length are time.

    Args:
        header: as `header_of` returns it.
    """
    shape = header.get_data_shape()
    if len(shape) < 4 or shape[3] < 2:
        return None
    unit, step = _TIMES.get(int(header["xyzt_units"]) & 56, ""), float(header["pixdim"][4])
    time = f"{step:.4g} {unit} apart" if unit and math.isfinite(step) and step > 0 and step != 1 else ""
    return FourthAxis(int(shape[3]), time)


def check_affine(path: Path, affine: Any) -> Affine:
    """Return an affine as float64.

    Raises:
        ImageError: if it is not finite or flattens space.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    lengths = voxel_edges(matrix)
    if not np.isfinite(matrix).all() or not lengths.all() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise ImageError(f"{path}: its affine {np.round(matrix[:3], 4).tolist()} flattens space; correct the header")
    return matrix


def _read_header(path: Path, stream: BinaryIO) -> tuple[Any, int]:
    """Return the header and how many bytes of it were read."""
    start = stream.read(_NIFTI_1)
    if b"\x5c" not in (start[:1], start[3:4]):  # 348 = 0x15c; otherwise perhaps NIfTI-2, whose header is longer
        start += stream.read(_NIFTI_2 - _NIFTI_1)
    header = _parse(path, start)
    turn = [header[f"quatern_{part}"].astype(float) for part in "bcd"]
    length = math.sqrt(sum(float(part) ** 2 for part in turn))
    if 1 < length < 1 + _ROUNDED:  # rounded by who wrote it; nibabel refuses what is longer than 1 by 2e-7
        for name, part in zip("bcd", turn, strict=True):
            header[f"quatern_{name}"] = part / length
    return header, len(start)


def _parse(path: Path, start: bytes) -> Any:
    import nibabel

    kinds = {_NIFTI_1: nibabel.Nifti1Header, _NIFTI_2: nibabel.Nifti2Header}
    found = [kinds[n] for n in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")) if n in kinds]
    if not found or len(start) < found[0].template_dtype.itemsize:
        if start.startswith(_GZIP):
            twice = path.name.lower().endswith(".gz")
            remedy = "twice; decompress it once" if twice else "; call it .nii.gz, or restore the file"
            raise ImageError(f"{path}: is compressed{' ' * twice}{remedy}")
        raise ImageError(f"{path}: damaged or not what its name says (no NIfTI header); restore the file")
    header = found[0](start[: found[0].template_dtype.itemsize], check=False)
    magic = bytes(header["magic"])[:3]
    wanted = (b"ni1", b"ni2") if path.name.lower().endswith(".hdr") else (b"n+1", b"n+2")
    if magic not in wanted:
        pair = magic in (b"ni1", b"ni2")
        kind = "the header of a pair" if pair else "no NIfTI (perhaps Analyze, which does not say where left is)"
        raise ImageError(f"{path}: is {kind}; convert it to NIfTI (.nii.gz)")
    codes = int(header["qform_code"]), int(header["sform_code"])
    if not all(code in _CODES for code in codes):  # nibabel takes such a code for 0, ITK for one that counts
        raise ImageError(
            f"{path}: its qform and sform have the codes {codes[0]} and {codes[1]}, and those above 5 or below 0 mean "
            "nothing: where it lies is not known; correct the header"
        )
    # the qform's handedness, as NIfTI's own library reads it: nibabel takes -2 for 1
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    header.check_fix(logger=_UNHEARD, error_level=40)
    return header


def _claims(path: Path, header: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape = tuple(int(edge) for edge in header.get_data_shape())
    dtype = np.dtype(header.get_data_dtype())
    if not shape:
        raise ImageError(f"{path}: claims no axis; restore the file")
    if dtype.kind == "c":
        raise ImageError(f"{path}: holds complex values; store magnitude or phase as real numbers")
    if dtype.kind not in "biufV" or dtype.itemsize == 0 or (dtype.kind == "V" and not dtype.names):
        raise ImageError(f"{path}: holds values of type {dtype}; convert it to integers or real numbers")
    return shape, dtype


def values_of_pair(path: Path) -> Path:
    """Return the file of a pair's values, by its header."""
    return path.with_suffix(".IMG" if path.suffix.isupper() else ".img")


def _read_pair(path: Path, shape: tuple[int, ...], claimed: int, offset: int) -> tuple[npt.NDArray[np.uint8], int]:
    values = values_of_pair(path)
    check_claim(values, shape, claimed + offset, file_size(values))
    with open_stream(values, compressed=False) as stream:
        return read_bytes(values, stream, offset, claimed)


def _scale(array: npt.NDArray[Any], slope: float | None, inter: float | None) -> npt.NDArray[Any]:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.names:  # RGB24 and RGBA32, which no header scales
        return array
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if slope is None or (slope, inter) == (1, 0):
        return array
    small = array.dtype.itemsize <= 2 or array.dtype == np.float32
    scaled: npt.NDArray[Any] = array.astype(np.float32 if small else np.float64)
    np.multiply(scaled, slope, out=scaled)
    np.add(scaled, inter or 0, out=scaled)
    return scaled


def _arrange(path: Path, array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int, int]:
    """Bring channels to the end; return the array, their number and that of the spatial axes."""
    spatial, rest = array.shape[:3], [edge for edge in array.shape[3:] if edge > 1]
    if len(rest) > 1 or (rest and array.dtype.names):
        claim = "x".join(map(str, array.shape))
        raise ImageError(f"{path}: has the shape {claim}; store one volume of one list of channels a file")
    if array.dtype.names:
        colours = [array[name].reshape(spatial, order="F") for name in array.dtype.names]
        return np.stack(colours, axis=-1), len(colours), len(spatial)
    return array.reshape(*spatial, *rest, order="F"), math.prod(rest), len(spatial)


def _geometry_notes(header: Any, shape: tuple[int, ...]) -> list[str]:
    notes = []
    units = int(header["xyzt_units"]) & 7
    if units in _UNITS:
        notes.append(f"states lengths in {_UNITS[units]}; they are taken as mm")
    sform, qform = header.get_sform(coded=True)[0], qform_of(header)
    if qform is None and header["qform_code"] > 0:
        notes.append("its qform places nothing (its numbers are no turn, or not finite); the sform counts")
    if sform is None and qform is None:
        notes.append("does not say where it lies (qform and sform have code 0): left and right are a guess")
    if sform is None or qform is None:
        return notes + _spacing_notes(header, sform)
    edges = (*shape[:3], 1, 1)[:3]
    corners = np.array([[i, j, k, 1] for i in (0, edges[0] - 1) for j in (0, edges[1] - 1) for k in (0, edges[2] - 1)])
    apart = float(np.linalg.norm((sform - qform) @ corners.T, axis=0).max())
    voxel = float(voxel_edges(sform).min())
    if apart > _DIFFERENCE * voxel:
        notes.append(f"qform and sform disagree by up to {apart:.3g} mm; the sform counts")
    return notes


def _best_affine(path: Path, header: Any) -> Any:
    try:
        with np.errstate(all="ignore"):  # what is not finite, `check_affine` refuses
            return header.get_best_affine()
    except ValueError as error:
        raise ImageError(f"{path}: its qform is no turn ({error}), and it has no sform; correct the header") from error


def _spacing_notes(header: Any, sform: Affine | None) -> list[str]:
    """Tell of voxel sizes that are not the sform's, where no qform needs them: ITK takes the spacing from them."""
    if sform is None:
        return []
    stated, edges = np.abs(header["pixdim"][1:4]).astype(float), voxel_edges(sform)
    axes = min(int(header["dim"][0]), 3)
    if np.allclose(stated[:axes], edges[:axes], rtol=_SPACING):
        return []
    sizes = [" x ".join(f"{edge:.4g}" for edge in each[:axes]) for each in (stated, edges)]
    return [f"states voxels of {sizes[0]} mm in pixdim, of {sizes[1]} mm in the sform; the sform counts"]
