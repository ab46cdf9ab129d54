"""A DICOM series as a volume: pydicom reads tags and plain values, ITK (GDCM) decodes compressed ones.

Slices are put in order by where they lie in the patient, never by name or number. What cannot be one volume is refused:
several series in a folder, slices that miss, repeat or lie unevenly.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom_pixels import read_pixels, result_type
from medseg.io.image_file import Affine, ImageError, ImageFile
from medseg.io.integrity import check_count, file_size
from medseg.io.itk_formats import LPS_TO_RAS
from medseg.io.nifti import check_affine

__all__ = ["SUFFIXES", "Plane", "is_dicom", "read_dicom", "series_files", "series_planes"]

SUFFIXES = (".dcm", ".dicom", ".ima")

_SAME = 1e-3  # mm; slices nearer than this are at one place
_UNEVEN = 0.02  # of the distance between slices: rounding of the position's decimal text stays below
_TURN = 1e-3  # difference of direction cosines; they are often stored with four digits
_TILT = 1.0  # degrees
_NO_IMAGE = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "FID", "DOC", "AU", "ECG")


@dataclass(frozen=True)
class Plane:
    """One slice: where its values are and where it lies, in DICOM's patient axes (LPS) and mm.

    Args:
        path: of the file.
        frame: number of the frame in it, ``None`` where the file has only one.
        position: centre of the first pixel.
        along_row: direction of growing column number; `along_column`: of growing row number.
        along_column: see `along_row`.
        spacing: distance between rows, then between columns.
        thickness: of the slice, or the stated distance between slices; ``None`` where none is stated.
    """

    path: Path
    frame: int | None
    position: npt.NDArray[np.float64]
    along_row: npt.NDArray[np.float64]
    along_column: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Direction at right angles to the slice."""
        return np.cross(self.along_row, self.along_column)

    @property
    def name(self) -> str:
        """Of the file and, where it has several, the frame, for messages."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"


def is_dicom(path: Path) -> bool:
    """Return whether a regular file has DICOM's mark behind its preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


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
    heads = _series(path)
    first = next(iter(heads.values()))
    lossy = any(_is_lossy(head) for head in heads.values())
    notes = []
    if str(first.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        notes.append("says that small values are white (MONOCHROME1); values are taken as they are stored")
    if len(heads) == 1 and int(first.get("NumberOfFrames") or 1) == 1 and "ImagePositionPatient" not in first:
        file = next(iter(heads))
        array = read_pixels(file, result_type(heads))[0]
        channels = array.shape[2] if array.ndim == 3 else 1
        return ImageFile(array, channels, lossy=lossy, notes=tuple(notes))
    planes = series_planes(path, heads)
    affine, step_notes = _stack(path, planes)
    array = _values(path, planes, heads)
    channels = array.shape[3] if array.ndim == 4 else 1
    spacing = tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return ImageFile(
        array, channels, spacing=spacing, affine=affine, kind="volume", lossy=lossy, notes=(*notes, *step_notes)
    )


def series_files(path: Path) -> tuple[Path, ...]:
    """Return the files of the one series that a folder holds or a file belongs to, sorted.

    Raises:
        ImageError: as `read_dicom`.
    """
    return tuple(sorted(_series(path)))


def _head(path: Path) -> Any:
    import pydicom

    file_size(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on the form of tags that are not used here
        return pydicom.dcmread(path, stop_before_pixels=True)


def _series(path: Path) -> dict[Path, Any]:
    """Return file and tags of each image of the one series that is meant."""
    wanted = None
    if not path.is_dir():
        file_size(path)
        if not is_dicom(path):
            raise ImageError(f"{path}: is no DICOM file (no mark after its preamble); restore the file")
        _check_image(path, own := _head(path))
        wanted = own.get("SeriesInstanceUID")
        placed = "ImagePositionPatient" in own or "PerFrameFunctionalGroupsSequence" in own
        if wanted is None or not placed:  # the views of one X-ray study share a series, but are no volume
            return {path: own}
    found: dict[Any, dict[Path, Any]] = defaultdict(dict)
    for file in sorted((path if path.is_dir() else path.parent).iterdir()):
        head = _head_or_none(file, needed=wanted is None or file == path)
        if head is not None and _is_image(head) and wanted in (None, head.get("SeriesInstanceUID")):
            found[head.get("SeriesInstanceUID")][file] = head
    if not found:
        raise ImageError(f"{path}: is a folder without a DICOM image; name a folder that holds one series")
    if len(found) > 1:
        named = ", ".join(f"{len(files)} files from {next(iter(files)).name}" for files in found.values())
        raise ImageError(f"{path}: holds {len(found)} series ({named}); name one file of the series that is meant")
    return next(iter(found.values()))


def _head_or_none(file: Path, *, needed: bool) -> Any:
    """Return the tags of a DICOM file, ``None`` of any other, and of a damaged one that need not belong here."""
    if not is_dicom(file):
        return None
    try:
        return _head(file)
    except Exception as error:  # pydicom raises nearly every type on damaged bytes
        if needed:
            raise ImageError(f"{file}: damaged DICOM file ({error}); restore or remove it") from error
        return None


def _is_image(head: Any) -> bool:
    return head.get("Modality") not in _NO_IMAGE and "Rows" in head and "Columns" in head


def _check_image(path: Path, head: Any) -> None:
    if not _is_image(head):
        kind = str(head.get("Modality", "none"))[:20]
        raise ImageError(f"{path}: is a DICOM file without an image of its own (modality {kind}); name an image")


def _is_lossy(head: Any) -> bool:
    syntax = str(getattr(head.file_meta, "TransferSyntaxUID", ""))
    lossy = [f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 81, 91, 93, 203)]
    return syntax in lossy or str(head.get("LossyImageCompression", "00")) == "01"


def series_planes(path: Path, heads: dict[Path, Any]) -> list[Plane]:
    """Return the slices of a series in the order in which they lie, along the normal of the first.

    Args:
        path: for messages.
        heads: tags by file.

    Raises:
        ImageError: if one states no place, or they differ in direction, size or spacing.
    """
    planes: list[Plane] = []
    for file, head in heads.items():
        frames = int(head.get("NumberOfFrames") or 1)
        if "PerFrameFunctionalGroupsSequence" in head:
            planes += [_plane_of_frame(file, head, frame, frames) for frame in range(frames)]
        elif frames > 1:
            raise ImageError(f"{file}: holds {frames} frames without a place in the patient; store them as pictures")
        else:
            planes.append(_plane(file, None, head, head, head, head))
    first = planes[0]
    for plane in planes:
        turned = max(
            np.abs(plane.along_row - first.along_row).max(), np.abs(plane.along_column - first.along_column).max()
        )
        if turned > _TURN:
            raise ImageError(
                f"{path}: slices {first.name} and {plane.name} lie in different directions; split the series"
            )
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3, atol=0):
            raise ImageError(
                f"{path}: slices {first.name} and {plane.name} differ in pixel spacing, {first.spacing} and "
                f"{plane.spacing} mm; split the series"
            )
    sizes = {(int(head.Rows), int(head.Columns), int(head.get("SamplesPerPixel") or 1)) for head in heads.values()}
    if len(sizes) > 1:
        raise ImageError(f"{path}: slices differ in size ({', '.join(map(str, sorted(sizes)[:3]))}); split the series")
    return sorted(planes, key=lambda plane: float(plane.position @ first.normal))


def _plane_of_frame(file: Path, head: Any, frame: int, frames: int) -> Plane:
    groups = head.PerFrameFunctionalGroupsSequence
    if len(groups) != frames:
        raise ImageError(f"{file}: describes {len(groups)} frames of {frames}; restore the file")
    shared = (head.get("SharedFunctionalGroupsSequence") or [{}])[0]

    def group(name: str) -> Any:
        items = groups[frame].get(name) or shared.get(name)
        return items[0] if items else {}

    measures = group("PixelMeasuresSequence")
    parts = (group("PlanePositionSequence"), group("PlaneOrientationSequence"), measures, measures)
    return _plane(file, frame if frames > 1 else None, *parts)


def _plane(file: Path, frame: int | None, place: Any, turn: Any, pixels: Any, slices: Any) -> Plane:
    position = _floats(file, place, "ImagePositionPatient", 3)
    turned = _floats(file, turn, "ImageOrientationPatient", 6)
    rows, columns = _floats(file, pixels, "PixelSpacing", 2)
    row, column = turned[:3], turned[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise ImageError(f"{file}: its ImageOrientationPatient {turned.tolist()} is no pair of directions; correct it")
    if rows <= 0 or columns <= 0:
        raise ImageError(f"{file}: its PixelSpacing is {rows} x {columns} mm; correct it")
    thickness = slices.get("SpacingBetweenSlices") or slices.get("SliceThickness")
    stated = abs(float(thickness)) if thickness else None
    return Plane(file, frame, position, row, column, (float(rows), float(columns)), stated or None)


def _floats(file: Path, tags: Any, name: str, count: int) -> npt.NDArray[np.float64]:
    values = tags.get(name)
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        raise ImageError(
            f"{file}: states no {name}, so its place is unknown; store it as a picture or correct the tags"
        )
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        raise ImageError(f"{file}: its {name} is {numbers.tolist()}; correct it")
    return numbers


def _stack(path: Path, planes: Sequence[Plane]) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine of slices in order, RAS+, and what is odd about their stack."""
    first, last = planes[0], planes[-1]
    notes: tuple[str, ...] = ()
    if len(planes) == 1:
        if first.thickness is None:
            notes = ("one slice of unstated thickness; 1 mm is taken",)
        step = first.normal * (first.thickness or 1.0)
    else:
        _check_gaps(path, planes)
        step = (last.position - first.position) / (len(planes) - 1)
        expected = first.position + np.arange(len(planes))[:, None] * step
        off = np.linalg.norm(np.array([plane.position for plane in planes]) - expected, axis=1)
        if off.max() > 0.1 * min(*first.spacing, float(np.linalg.norm(step))):
            worst = planes[int(off.argmax())]
            raise ImageError(f"{path}: slice {worst.name} lies {off.max():.3g} mm off the line of the others; split it")
        tilt = np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1)))
        if tilt > _TILT:
            notes = (
                f"slices are stacked {tilt:.1f} degrees off their normal (a tilted gantry); the affine is sheared",
            )
    matrix = np.eye(4)
    matrix[:3, 0] = first.along_row * first.spacing[1]
    matrix[:3, 1] = first.along_column * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return check_affine(path, LPS_TO_RAS @ matrix), notes


def _check_gaps(path: Path, planes: Sequence[Plane]) -> None:
    places = np.array([plane.position @ planes[0].normal for plane in planes])
    gaps = np.diff(places)
    if gaps.min() < _SAME:
        at = int(gaps.argmin())
        raise ImageError(
            f"{path}: slices {planes[at].name} and {planes[at + 1].name} lie at the same place; remove one, or split "
            "the series if it holds several volumes"
        )
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    if gaps[widest] > 1.5 * usual and len(gaps) > 1:
        raise ImageError(
            f"{path}: {round(gaps[widest] / usual) - 1 or 1} slices are missing between {planes[widest].name} and "
            f"{planes[widest + 1].name} (gap {gaps[widest]:.4g} mm, usually {usual:.4g} mm); restore them"
        )
    if gaps.max() - gaps.min() > max(_UNEVEN * usual, 2 * _SAME):
        raise ImageError(
            f"{path}: slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart; split the series where that changes"
        )


def _values(path: Path, planes: Sequence[Plane], heads: dict[Path, Any]) -> npt.NDArray[Any]:
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
