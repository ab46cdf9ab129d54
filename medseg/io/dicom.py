"""A DICOM series as a volume: pydicom reads tags and plain values, ITK (GDCM) decodes compressed ones.

Slices are put in order by where they lie in the patient, never by name or number. What cannot be one volume is refused:
several series in a folder, slices that miss, repeat or lie unevenly. Localisers and secondary captures that lie beside
a series are left out, and said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.affines import voxel_edges
from medseg.io.dicom_heads import (
    SUFFIXES,
    claims_dicom,
    is_dicom,
    is_image,
    is_lossy,
    is_picture,
    kind_of,
    quiet,
    read_head,
    why_beside,
)
from medseg.io.dicom_pixels import padding_note, read_pixels, rescales, result_type
from medseg.io.dicom_planes import Plane, Stack, series_planes, stack_planes
from medseg.io.image_file import ImageError, ImageFile
from medseg.io.integrity import check_count, file_size

__all__ = ["SUFFIXES", "Slices", "is_dicom", "read_dicom", "read_slices", "series_files", "stack_series"]

_Heads = dict[Path, Any]


@dataclass(frozen=True)
class Slices:
    """A series without its pixels.

    Args:
        heads: all tags by file.
        stack: the slices in order; plane k holds voxels ``[:, :, k]`` of the volume that `read_dicom` returns.
        notes: what a reader should be told of, each in one line.
    """

    heads: Mapping[Path, Any]
    stack: Stack
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the volume: columns, rows, slices."""
        head = next(iter(self.heads.values()))
        return int(head.Columns), int(head.Rows), len(self.stack.planes)


def read_dicom(path: Path, label: bool) -> ImageFile:
    """Read the series of a folder, or the series that a file belongs to, from its own folder.

    A file of one frame that states no position in a patient (ultrasound, endoscopy, plain X-ray) is a picture.

    Args:
        path: folder or file.
        label: not used: indices of a palette are not told apart from values in DICOM.

    Shape:
        ``(X, Y, Z)`` or ``(X, Y, Z, C)``, X along the rows of a slice; a picture ``(H, W)`` or ``(H, W, C)``.

    Raises:
        ImageError: if it cannot be used as one volume.
    """
    with quiet():
        return _read(path)


def _read(path: Path) -> ImageFile:
    heads, beside = _series(path)
    lossy = any(is_lossy(head) for head in heads.values())
    first = next(iter(heads.values()))
    if len(heads) == 1 and is_picture(first):
        file = next(iter(heads))
        array = read_pixels(file, result_type(heads))[0]
        channels = array.shape[2] if array.ndim == 3 else 1
        notes = (*_notes(heads), *_shape_note(first), *padding_note(heads, array), *beside)
        return ImageFile(array, channels, lossy=lossy, notes=notes)
    slices = stack_series(path, heads, beside)
    array = _values(path, slices.stack.planes, heads)
    channels = array.shape[3] if array.ndim == 4 else 1
    affine = slices.stack.affine
    spacing = tuple(float(length) for length in voxel_edges(affine))
    notes = (*slices.notes, *padding_note(heads, array))
    return ImageFile(array, channels, spacing=spacing, affine=affine, kind="volume", lossy=lossy, notes=notes)


def _shape_note(head: Any) -> list[str]:
    """Return a note of a picture whose pixels are no squares."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        sides = head.get(name)
        if (
            sides is not None
            and hasattr(sides, "__len__")
            and len(sides) == 2
            and all(float(side) > 0 for side in sides)
        ):
            rows, columns = (float(side) for side in sides)
            unlike = abs(rows - columns) > 0.01 * max(rows, columns)
            return [f"its pixels are {rows:g} high to {columns:g} wide ({name}); they are taken as squares"] * unlike
    return []


def series_files(path: Path) -> tuple[Path, ...]:
    """Return the files of the one series that a folder holds or a file belongs to, sorted.

    Raises:
        ImageError: as `read_dicom`.
    """
    with quiet():
        return tuple(_series(path)[0])


def read_slices(path: Path) -> Slices:
    """Read what `read_dicom` reads, without the pixels.

    Raises:
        ImageError: if it cannot be used as one volume.
    """
    with quiet():
        heads, beside = _series(path)
        return stack_series(path, heads, beside)


def stack_series(path: Path, heads: Mapping[Path, Any], notes: Sequence[str] = ()) -> Slices:
    """Put the files of one series in order.

    Args:
        path: for messages.
        heads: tags by file.
        notes: what is said already.

    Raises:
        ImageError: if they are no volume.
    """
    stack = stack_planes(path, series_planes(path, heads))
    return Slices(heads, stack, (*_notes(heads), *stack.notes, *notes))


def _notes(heads: Mapping[Path, Any]) -> list[str]:
    notes = []
    if any(str(head.get("PhotometricInterpretation", "")) == "MONOCHROME1" for head in heads.values()):
        notes.append("says that small values are white (MONOCHROME1); values are taken as they are stored")
    slopes = {slope for head in heads.values() for slope, _ in rescales(head)}
    if len(slopes) > 1:
        notes.append(
            f"slices have {len(slopes)} different rescale slopes ({min(slopes):.4g} to {max(slopes):.4g}); each is "
            "applied to its own slice"
        )
    return notes


def _series(path: Path) -> tuple[_Heads, list[str]]:
    """Return the tags of each image of the one series that is meant, and a note on what lies beside them."""
    wanted = None
    if not path.is_dir():
        own = _named(path)
        wanted = own.get("SeriesInstanceUID")
        placed = "ImagePositionPatient" in own or "PerFrameFunctionalGroupsSequence" in own
        if wanted is None or not placed:  # the views of one X-ray study share a series, but are no volume
            return {path: own}, []
    found: _Heads = {}
    for file in sorted((path if path.is_dir() else path.parent).iterdir()):
        head = _head_or_none(file, needed=wanted is None or file == path)
        if head is not None and is_image(head) and wanted in (None, head.get("SeriesInstanceUID")):
            found[file] = head
    if not found:
        raise ImageError(f"{path}: is a folder without a DICOM image; name a folder that holds one series")
    beside = {file: why for file, head in found.items() if (why := why_beside(head))}
    if len(beside) == len(found) or path in beside:
        beside = {}  # they are what is meant
    series: dict[Any, _Heads] = defaultdict(dict)
    for file in found.keys() - beside.keys():
        series[found[file].get("SeriesInstanceUID")][file] = found[file]
    if len(series) > 1:
        named = ", ".join(f"{len(files)} files from {min(files).name}" for files in sorted(series.values(), key=min))
        raise ImageError(f"{path}: holds {len(series)} series ({named}); name one file of the series that is meant")
    (files,) = series.values()
    return dict(sorted(files.items())), _beside_note(beside)


def _named(path: Path) -> Any:
    file_size(path)
    if not is_dicom(path):
        raise ImageError(f"{path}: is no DICOM file (no mark after its preamble); restore the file")
    head = read_head(path)
    if not is_image(head):
        raise ImageError(f"{path}: is a DICOM file with {kind_of(head)}; name an image")
    return head


def _beside_note(beside: Mapping[Path, str]) -> list[str]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for file, why in beside.items():
        kinds[why].append(file.name)
    return [
        f"{len(names)} files beside the slices are left out ({why}, such as {names[0]})"
        for why, names in sorted(kinds.items())
    ]


def _head_or_none(file: Path, *, needed: bool) -> Any:
    """Return the tags of a DICOM file, ``None`` of any other, and of a damaged one that need not belong here."""
    try:
        return read_head(file) if claims_dicom(file) else None
    except ImageError:
        if needed:
            raise
        return None


def _values(path: Path, planes: Sequence[Plane], heads: Mapping[Path, Any]) -> npt.NDArray[Any]:
    dtype = result_type(heads)
    head = next(iter(heads.values()))
    check_count(path, (int(head.Columns), int(head.Rows), len(planes)))
    volume: npt.NDArray[Any] | None = None
    opened: tuple[Path, npt.NDArray[Any]] | None = None
    for number, plane in enumerate(planes):
        if opened is None or opened[0] != plane.path:
            opened = plane.path, read_pixels(plane.path, dtype)
        pixels = opened[1][plane.frame or 0].swapaxes(0, 1)
        if volume is None:
            volume = np.empty((*pixels.shape[:2], len(planes), *pixels.shape[2:]), dtype)
        if pixels.shape != (*volume.shape[:2], *volume.shape[3:]):
            raise ImageError(
                f"{plane.path}: decodes to {pixels.shape[::-1]}, unlike the other slices; restore the file"
            )
        volume[:, :, number] = pixels
    assert volume is not None
    return volume
