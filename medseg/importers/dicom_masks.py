"""Masks from DICOM SEG (read by highdicom) and RTSTRUCT (drawn here) on the grid of their image.

Contours of RTSTRUCT: a voxel belongs to a region if its centre lies inside an odd number of the region's contours in
its slice, so that a contour inside another one is a hole; a centre exactly on a contour may fall on either side. A
contour belongs to the slice that its plane lies in, at most a tenth of the distance of slices away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.coding import ANATOMY
from medseg.errors import shown
from medseg.importers.drawing import Mask, Segment
from medseg.importers.layout import ImportingError
from medseg.io.dicom_heads import quiet
from medseg.io.image_file import ImageFile
from medseg.io.itk_formats import LPS_TO_RAS
from medseg.io.placement import ROUNDING

__all__ = ["Roi", "draw_structures", "draw_volume", "is_striped", "rois_of", "segments_of"]

_TOLERANCE = 1e-2  # of highdicom: how far from whole voxels and equal directions
_ANATOMY = (ANATOMY["value"], "123037004", "T-D0050")  # also as it was called before 2020, and in SNOMED RT
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class Roi:
    """A segment or region of interest.

    Args:
        number: in its file.
        name: of its class.
        code: coded concept for the datalist, empty where there is none.
        area: whether it has one: a marker is points alone.
    """

    number: int
    name: str
    code: dict[str, Any]
    area: bool = True


def _segmentation(path: Path, grid: npt.NDArray[np.float64] | None = None) -> Any:
    """Return a DICOM SEG as highdicom reads it.

    Args:
        path: of its file.
        grid: of its series, voxel to patient in mm as DICOM has it; frames in its slices are as far apart as these,
            whatever the header says.
    """
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        raise ImportingError(
            f"{shown(path)}: reading DICOM SEG needs highdicom; install it: pip install 'medseg[dicom]'"
        ) from error
    try:
        with quiet():
            if grid is None:
                return highdicom.seg.segread(path)
            stored = pydicom.dcmread(path)
            _space(stored, grid)
            return highdicom.seg.Segmentation.from_dataset(stored, copy=False)
    except Exception as error:  # highdicom raises nearly every type on damaged or odd files
        raise ImportingError(
            f"{shown(path)}: cannot be read as DICOM SEG ({_brief(error)}); export it again"
        ) from error


def _space(seg: Any, grid: npt.NDArray[np.float64]) -> None:
    """Write the distance of a series' slices into a SEG of the same planes: highdicom goes by it, not by the frames.

    It is optional, often copied from the series, and there often the thickness of a slice.
    """
    groups = [*seg.get("SharedFunctionalGroupsSequence", []), *seg.get("PerFrameFunctionalGroupsSequence", [])]
    turns = [item.ImageOrientationPatient for group in groups for item in group.get("PlaneOrientationSequence", [])]
    apart = float(np.linalg.norm(grid[:3, 2]))
    normals = [np.cross(*np.reshape([float(part) for part in turn], (2, 3))) for turn in turns]
    if all(abs(normal @ grid[:3, 2]) > (1 - _TOLERANCE) * apart for normal in normals):
        for measures in (item for group in groups for item in group.get("PixelMeasuresSequence", [])):
            measures.SpacingBetweenSlices = f"{apart:.10g}"


def segments_of(path: Path) -> list[Roi]:
    """Return the segments of a DICOM SEG.

    Raises:
        ImportingError: if it cannot be read, or holds fractions.
    """
    seg = _segmentation(path)
    if str(seg.SegmentationType) == "FRACTIONAL":
        raise ImportingError(f"{shown(path)}: holds fractions, not classes; export it as a binary segmentation")
    made = []
    for number in seg.segment_numbers:
        description = seg.get_segment_description(number)
        made.append(Roi(int(number), str(description.segment_label).strip(), _code_of(description)))
    return made


def _code_of(description: Any, kind: str = "SegmentedPropertyTypeCodeSequence") -> dict[str, Any]:
    """Return what a segment or a region is for the datalist: its type, and what stands beside that."""
    made = _coded(description, kind)
    category = _coded(description, "SegmentedPropertyCategoryCodeSequence")
    beside = {
        "category": {} if category.get("value") in _ANATOMY else category,
        "modifier": _modifier(description, kind, "SegmentedPropertyTypeModifier"),
        "region": _coded(description, "AnatomicRegionSequence"),
    }
    if beside["region"]:
        modifier = _modifier(description, "AnatomicRegionSequence", "AnatomicRegionModifier")
        beside["region"] |= {"modifier": modifier} if modifier else {}
    return {**made, **{name: found for name, found in beside.items() if found}} if made else {}


def _modifier(tags: Any, sequence: str, kind: str) -> dict[str, Any]:
    """Return a modifier where the standard has it, inside the sequence that it modifies."""
    names = (f"{kind}CodeSequence", f"{kind}Sequence")
    return next((found for item in tags.get(sequence, []) for name in names if (found := _coded(item, name))), {})


def _coded(tags: Any, sequence: str) -> dict[str, Any]:
    """Return the first code of a sequence; empty where there is none, or one that a datalist has no room for."""
    for item in tags.get(sequence, []):
        value = str(item.get("CodeValue") or "")
        made = {"value": value, "scheme": str(item.get("CodingSchemeDesignator") or "")}
        made["meaning"] = str(item.get("CodeMeaning") or "")[:64]
        if all(made.values()) and all(text.isprintable() for text in made.values()) and len(value) <= 16:
            return made
    return {}


def draw_volume(path: Path, rois: Sequence[Roi], image: ImageFile) -> list[Segment]:
    """Return the segments of a DICOM SEG on the grid of an image.

    Args:
        path: the SEG.
        rois: its segments.
        image: a volume, ``(X, Y, Z)``.

    Raises:
        ImportingError: if the two grids are not one but for slices that are missing in the SEG, or something lies where
            the image has no voxel.
    """
    import highdicom

    grid = LPS_TO_RAS @ _placed(path, image)
    seg = _segmentation(path, grid)
    lps = grid[:, [2, 1, 0, 3]]  # highdicom's axes are slices, rows, columns
    shape = tuple(image.shape)[::-1]
    one = str(seg.SegmentationType) == "LABELMAP"  # of which highdicom would split off numbers above 255 as others
    try:
        with quiet():
            geometry = highdicom.VolumeGeometry(lps, shape, "PATIENT")
            volume = seg.get_volume(combine_segments=one, allow_missing_positions=True, rtol=0.02)
            matched = volume.match_geometry(geometry, tol=_TOLERANCE)
    except Exception as error:
        raise ImportingError(
            f"{shown(path)}: does not lie on the grid of its series ({_brief(error)}); resample it to the series"
        ) from error
    held, kept = (np.count_nonzero(each.array) for each in (volume, matched))
    if kept < held:
        raise ImportingError(
            f"{shown(path)}: {held - kept} of its {held} voxels lie outside of its series of {shape[0]} slices; "
            "restore the slices that are missing"
        )
    array = np.asarray(matched.array)
    if one:
        return [_of_map(roi, array.transpose(2, 1, 0)) for roi in rois]
    masks: npt.NDArray[Any] = array.transpose(2, 1, 0, 3) > 0
    names = {int(number): place for place, number in enumerate(seg.segment_numbers)}
    return [_solid(roi.name, masks[..., names[roi.number]]) for roi in rois]


def is_striped(mask: Mask) -> bool:
    """Return whether a region lies in three slices or more, of which no two follow each other.

    Contours are often drawn in every second or third slice, for a program that interpolates them.

    Args:
        mask: ``(X, Y, Z)``.
    """
    apart = np.diff(np.flatnonzero(mask.any(axis=(0, 1))))
    return len(apart) > 1 and bool(apart.min() > 1)


def _of_map(roi: Roi, numbers: npt.NDArray[Any]) -> Segment:
    return Segment(roi.name, lambda shape: numbers == roi.number)


def _solid(name: str, mask: Mask) -> Segment:
    return Segment(name, lambda shape: mask)


def _read_structures(path: Path) -> Any:
    import pydicom

    try:
        with quiet():
            return pydicom.dcmread(path)
    except Exception as error:
        raise ImportingError(f"{shown(path)}: damaged DICOM file ({_brief(error)}); restore it") from error


def rois_of(path: Path) -> list[Roi]:
    """Return the regions of an RTSTRUCT that have contours.

    Raises:
        ImportingError: if it cannot be read or has none.
    """
    head = _read_structures(path)
    drawn = {
        int(item.ReferencedROINumber): any(str(each.get("ContourGeometricType")) != "POINT" for each in contours)
        for item in head.get("ROIContourSequence", [])
        if (contours := item.get("ContourSequence"))
    }
    codes = {
        int(item.ReferencedROINumber): _code_of(item, "RTROIIdentificationCodeSequence")
        for item in head.get("RTROIObservationsSequence", [])
    }
    made = [
        Roi(number, str(item.ROIName).strip(), codes.get(number, {}), drawn[number])
        for item in head.get("StructureSetROISequence", [])
        if (number := int(item.ROINumber)) in drawn
    ]
    if not made:
        raise ImportingError(f"{shown(path)}: no region has a contour; export the contours too")
    return made


def draw_structures(path: Path, rois: Sequence[Roi], image: ImageFile) -> list[Segment]:
    """Return the regions of an RTSTRUCT on the grid of an image.

    Args:
        path: the RTSTRUCT.
        rois: its regions.
        image: a volume, ``(X, Y, Z)``.

    Raises:
        ImportingError: if a contour is not closed, or lies in no slice.
    """
    head = _read_structures(path)
    lps = LPS_TO_RAS @ _placed(path, image)
    contours = {int(item.ReferencedROINumber): item.get("ContourSequence", []) for item in head.ROIContourSequence}
    return [_solid(roi.name, _fill(path, roi.name, contours[roi.number], lps, tuple(image.shape))) for roi in rois]


def _fill(path: Path, name: str, contours: Sequence[Any], lps: npt.NDArray[Any], shape: tuple[int, ...]) -> Mask:
    from skimage.draw import polygon

    mask = np.zeros(shape, bool)
    to_voxel = np.linalg.inv(lps)
    where = f"{shown(path)}: region {shown(name)}"
    drawn: set[bytes] = set()
    for contour in contours:
        kind = str(contour.get("ContourGeometricType"))
        if kind == "POINT":
            continue  # a marker, without an area
        if kind not in _CLOSED:
            raise ImportingError(f"{where}: a contour is {kind}, which encloses nothing; close it")
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        if points.tobytes() in drawn:
            continue  # exported twice: no hole of its own
        drawn.add(points.tobytes())
        voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        place = round(float(voxels[:, 2].mean()))
        if np.abs(voxels[:, 2] - place).max() > ROUNDING or not 0 <= place < shape[2]:
            raise ImportingError(
                f"{where}: a contour at z = {points[0, 2]:.4g} mm lies in no slice of its series (slices 0 to "
                f"{shape[2] - 1}, "
                f"it is at {voxels[:, 2].mean():.4g}); take the series that it was drawn on"
            )
        inside = np.zeros(shape[:2], bool)
        inside[polygon(voxels[:, 0], voxels[:, 1], shape[:2])] = True
        mask[:, :, place] ^= inside
    return mask


def _placed(path: Path, image: ImageFile) -> npt.NDArray[np.float64]:
    if image.affine is None or len(image.shape) != 3:
        raise ImportingError(f"{shown(path)}: its series is no volume with a place in the patient; take one that is")
    return image.affine


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
