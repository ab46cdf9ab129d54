"""Where DICOM slices lie in the patient, in which order, and why a set of them is no volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom_heads import is_mosaic
from medseg.io.dicom_kinds import check_kinds, kinds_of_frame, tell_apart
from medseg.io.image_file import Affine, ImageError
from medseg.io.itk_formats import LPS_TO_RAS
from medseg.io.nifti import check_affine

__all__ = ["TILT", "GapError", "Plane", "Stack", "series_planes", "stack_planes"]

TILT = 1.0
"""Degrees between the line of the slices and their normal from which on a gantry was tilted."""

_SAME = 1e-3  # mm; slices nearer than this are at one place
_UNEVEN = 0.02  # of the distance between slices: rounding of the position's decimal text stays below
_TURN = 1e-3  # difference of direction cosines; they are often stored with four digits


class GapError(ImageError):
    """Slices among which some are missing."""


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
        kinds: what is told of its kind, from `medseg.io.dicom_kinds`.
        uid: of the image, empty where none is stated.
    """

    path: Path
    frame: int | None
    position: npt.NDArray[np.float64]
    along_row: npt.NDArray[np.float64]
    along_column: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    kinds: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Direction at right angles to the slice."""
        return np.cross(self.along_row, self.along_column)

    @property
    def name(self) -> str:
        """Of the file and, where it has several, the frame, for messages."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"


@dataclass(frozen=True)
class Stack:
    """Slices as one volume.

    Args:
        planes: in order along the normal of the first.
        affine: ``(4, 4)``, indices of column, row and slice to patient mm, RAS+.
        tilt: degrees between the line of the slices and their normal, 0 where they stand upright.
        notes: what is odd about them, each in one line.
    """

    planes: tuple[Plane, ...]
    affine: Affine
    tilt: float = 0.0
    notes: tuple[str, ...] = ()


def series_planes(path: Path, heads: Mapping[Path, Any]) -> list[Plane]:
    """Return the slices of a series in the order in which they lie, along the normal of the first.

    Args:
        path: for messages.
        heads: tags by file.

    Raises:
        ImageError: if one states no place, or they differ in patient, direction, size, colour or spacing.
    """
    planes: list[Plane] = []
    for file, head in heads.items():
        frames = int(head.get("NumberOfFrames") or 1)
        if is_mosaic(head):
            raise ImageError(
                f"{file}: is a mosaic, all slices of a volume side by side in one picture; convert it with dcm2niix, "
                "and name what that writes"
            )
        if "PerFrameFunctionalGroupsSequence" in head:
            planes += [_plane_of_frame(file, head, frame, frames) for frame in range(frames)]
        elif frames > 1:
            raise ImageError(f"{file}: holds {frames} frames without a place in the patient; store them as pictures")
        else:
            planes.append(_plane(file, None, (head, head, head, head), head))
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
    _check_alike(path, heads)
    check_kinds(path, heads, [(plane.name, plane.kinds) for plane in planes])
    return sorted(planes, key=lambda plane: float(plane.position @ first.normal))


def _check_alike(path: Path, heads: Mapping[Path, Any]) -> None:
    colours = {_is_colour(head): file.name for file, head in heads.items()}
    if len(colours) > 1:
        raise ImageError(
            f"{path}: slice {colours[True]} is in colour and {colours[False]} is not; take the coloured ones out"
        )
    grey = {str(head.get("PhotometricInterpretation")) == "MONOCHROME1": file.name for file, head in heads.items()}
    if len(grey) > 1:
        raise ImageError(
            f"{path}: in slice {grey[True]} small values are white (MONOCHROME1) and in {grey[False]} they are black; "
            "store all slices in one way"
        )
    sizes = {(int(head.Rows), int(head.Columns)): file.name for file, head in heads.items()}
    if len(sizes) > 1:
        named = ", ".join(f"{rows} x {columns} in {name}" for (rows, columns), name in sorted(sizes.items())[:3])
        raise ImageError(f"{path}: slices differ in size ({named}); split the series")


def _is_colour(head: Any) -> bool:
    return int(head.get("SamplesPerPixel") or 1) > 1 or str(head.get("PhotometricInterpretation")) == "PALETTE COLOR"


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
    return _plane(file, frame if frames > 1 else None, parts, head, (groups[frame], shared))


def _plane(
    file: Path, frame: int | None, parts: tuple[Any, Any, Any, Any], head: Any, groups: tuple[Any, ...] = ()
) -> Plane:
    place, turn, pixels, slices = parts
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
    kinds, uid = kinds_of_frame(head, groups), str(head.get("SOPInstanceUID") or "")
    return Plane(file, frame, position, row, column, (float(rows), float(columns)), stated or None, kinds, uid)


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


def stack_planes(path: Path, planes: Sequence[Plane]) -> Stack:
    """Return slices in order as one volume.

    Args:
        path: for messages.
        planes: from `series_planes`.

    Raises:
        ImageError: if slices miss, repeat, or lie unevenly or beside their line.
    """
    first, last = planes[0], planes[-1]
    notes: tuple[str, ...] = ()
    tilt = 0.0
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
        tilt = float(np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))))
        if tilt > TILT:
            notes = (
                f"slices are stacked {tilt:.1f} degrees off their normal (a tilted gantry); the affine is sheared",
            )
    matrix = np.eye(4)
    matrix[:3, 0] = first.along_row * first.spacing[1]
    matrix[:3, 1] = first.along_column * first.spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = first.position
    return Stack(tuple(planes), check_affine(path, LPS_TO_RAS @ matrix), tilt, notes)


def _twice(one: Plane, other: Plane) -> str:
    told = f"slices {one.name} and {other.name} lie at the same place"
    if one.uid and one.uid == other.uid and one.path != other.path:
        return f"{told} and are one image (SOPInstanceUID) twice; remove one"
    if apart := tell_apart(one.kinds, other.kinds):
        return f"{told} and differ in {apart}: the series holds several volumes; split it by that"
    return f"{told}; remove one, or split the series if it holds several volumes"


def _check_gaps(path: Path, planes: Sequence[Plane]) -> None:
    places = np.array([plane.position @ planes[0].normal for plane in planes])
    gaps = np.diff(places)
    if gaps.min() < _SAME:
        at = int(gaps.argmin())
        raise ImageError(f"{path}: {_twice(planes[at], planes[at + 1])}")
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    if gaps[widest] > 1.5 * usual and len(gaps) > 1:
        missing = round(gaps[widest] / usual) - 1 or 1
        said = "1 slice is" if missing == 1 else f"{missing} slices are"
        raise GapError(
            f"{path}: {said} missing between {planes[widest].name} and {planes[widest + 1].name} "
            f"(gap {gaps[widest]:.4g} mm, usually {usual:.4g} mm); restore what is missing"
        )
    if gaps.max() - gaps.min() > max(_UNEVEN * usual, 2 * _SAME):
        raise ImageError(
            f"{path}: slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart; split the series where that changes"
        )
