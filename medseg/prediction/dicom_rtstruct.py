"""Predictions as RTSTRUCT: the outlines of each class on the source's slices, by scikit-image and pydicom.

An outline runs half way between the centres of voxels inside and outside, so that whoever fills it gets the mask again.
A hole is joined to its outline by a channel without width (the keyhole of PS3.3, C.8.8.6.3): every contour is one
CLOSED_PLANAR polygon and means the same to readers that know holes by their own contours and to those that do not.
Voxels that touch at a corner alone are outlined apart.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.io.dicom import Slices
from medseg.io.dicom_planes import Plane
from medseg.prediction.dicom_objects import (
    CHARACTERS,
    MANUFACTURER,
    Algorithm,
    Segment,
    check_grid,
    coded,
    name_patient,
    numbered,
    said_by,
    sources_of,
    stable_uid,
)

__all__ = ["outlines", "structure_set"]

Points = npt.NDArray[np.float64]

_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"
_IMPLICIT = "1.2.840.10008.1.2"  # explicit syntaxes have no room for an outline of more than about 1,500 points
_SERIES = 901  # added to the source's number
_LINE = 0.25  # of a row, above its voxels' centres: where channels run, which meet no centre and no other outline
_FROM_SOURCE = (
    *("PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)


def outlines(mask: npt.NDArray[np.bool_]) -> list[Points]:
    """Return the outlines of a mask in one slice, holes joined to them.

    Args:
        mask: of one class.

    Returns:
        Polygons, each an array of places (row, column) in voxels, where 0 is the first voxel's centre; the last point
        is joined to the first.

    Shape:
        mask ``(rows, columns)`` to arrays ``(points, 2)``.
    """
    from skimage.measure import find_contours

    rings = [ring[:-1] - 1 for ring in find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="low")]
    holes = {number for number, ring in enumerate(rings) if _area(ring) < 0}
    channels = _channels(rings, holes)
    return [_simplified(_joined(number, rings, channels)) for number in range(len(rings)) if number not in holes]


def _area(ring: Points) -> float:
    """Return the area; positive where the ring runs around voxels of the mask, as find_contours turns it."""
    row, column = ring.T
    return float(np.dot(column, np.roll(row, -1)) - np.dot(row, np.roll(column, -1))) / 2


@dataclass(frozen=True)
class _Channel:
    """A line along a row from a hole to the next outline on its left.

    Args:
        ring: number of that outline.
        edge: number of its edge that the channel ends on, and `end` where.
        end: see `edge`.
        hole: number of the hole.
        start_edge: number of its edge that the channel begins on, and `start` where.
        start: see `start_edge`.
    """

    ring: int
    edge: int
    end: Points
    hole: int
    start_edge: int
    start: Points


def _channels(rings: Sequence[Points], holes: set[int]) -> dict[int, dict[int, _Channel]]:
    """Return the channels by the ring that they end on, and its edge.

    A hole's channel begins where the hole is furthest to the left, so that it ends on the outline around the hole, or
    on a hole that reaches further to the left: all of them hang on the outline.
    """
    if not holes:
        return {}
    crossings: dict[float, list[tuple[float, int, int]]] = defaultdict(list)
    leftmost: dict[int, tuple[float, float, int]] = {}
    for number, ring in enumerate(rings):
        lines, columns, edges = _crossed(ring)
        for line, column, edge in zip(lines.tolist(), columns.tolist(), edges.tolist(), strict=True):
            crossings[line].append((column, number, edge))
        if number in holes:
            first = int(columns.argmin())
            leftmost[number] = float(columns[first]), float(lines[first]), int(edges[first])
    for several in crossings.values():
        several.sort()
    found: dict[int, dict[int, _Channel]] = defaultdict(dict)
    for hole, (column, line, start_edge) in leftmost.items():
        end, ring_number, edge = crossings[line][bisect_left(crossings[line], (column, -1, -1)) - 1]
        places = np.array([line, end]), np.array([line, column])
        found[ring_number][edge] = _Channel(ring_number, edge, places[0], hole, start_edge, places[1])
    return found


def _crossed(ring: Points) -> tuple[Points, Points, npt.NDArray[np.intp]]:
    """Return where a ring crosses the lines that channels run on: rows, columns and numbers of its edges."""
    after = np.roll(ring, -1, axis=0)
    low, high = np.minimum(ring[:, 0], after[:, 0]), np.maximum(ring[:, 0], after[:, 0])
    lines = np.ceil(low - _LINE) + _LINE
    (edges,) = np.nonzero((low < lines) & (lines < high))
    start, step, lines = ring[edges], (after - ring)[edges], lines[edges]
    return lines, start[:, 1] + (lines - start[:, 0]) / step[:, 0] * step[:, 1], edges


def _joined(outer: int, rings: Sequence[Points], channels: Mapping[int, Mapping[int, _Channel]]) -> Points:
    """Walk along an outline, and at each channel to its hole, around it, and back."""
    if outer not in channels:
        return rings[outer]
    parts: list[Points] = []
    waiting: list[tuple[int, int, int]] = [(outer, 0, len(rings[outer]))]  # ring, its edge to go on with, edges left
    back: list[tuple[Points, Points]] = []
    while waiting:
        number, edge, left = waiting.pop()
        ring, ends = rings[number], channels.get(number, {})
        while left:
            parts.append(ring[edge])
            channel = ends.get(edge)
            edge, left = (edge + 1) % len(ring), left - 1
            if channel is not None:
                parts += [channel.end, channel.start]
                waiting.append((number, edge, left))
                back.append((channel.start, channel.end))
                first = (channel.start_edge + 1) % len(rings[channel.hole])
                waiting.append((channel.hole, first, len(rings[channel.hole])))
                break
        else:
            if back:
                parts += back.pop()
    return np.array(parts)


def _simplified(ring: Points) -> Points:
    """Leave out points on the straight line between their neighbours; a line that turns back is kept."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    across = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    kept: Points = ring[(np.abs(across) > 1e-9) | ((before * after).sum(axis=1) <= 0)]
    return kept


def structure_set(
    mask: npt.NDArray[Any], slices: Slices, segments: Sequence[Segment], algorithm: Algorithm, *, where: str
) -> Any:
    """Return a mask as an RTSTRUCT.

    Args:
        mask: class indices.
        slices: the series that the mask lies on.
        segments: see `medseg.prediction.dicom_objects.segments_of`; each is a region, with or without an outline.
        algorithm: what made it.
        where: what the series is called, for messages.

    Shape:
        mask ``(X, Y, Z)`` as `medseg.io.dicom.read_dicom` gives the series.

    Raises:
        DicomError: if the mask does not lie on the series, or tags of it are not sound.
    """
    from pydicom.dataset import FileMetaDataset

    check_grid(mask.shape, slices, where)
    sources = sources_of(slices, where)
    digest = hashlib.sha256(np.ascontiguousarray(numbered(mask, segments)).data).hexdigest()
    about = (sources[0].SeriesInstanceUID, algorithm.name, algorithm.digest)
    now = datetime.datetime.now()
    with said_by(where):
        made = _item(**{name: sources[0].get(name) for name in _FROM_SOURCE})
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = _IMPLICIT
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = _STRUCTURES
        made.SOPInstanceUID = stable_uid("structures", *about, digest)
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        made.SpecificCharacterSet = CHARACTERS
        made.SeriesInstanceUID = stable_uid("series", *about, "RTSTRUCT")
        made.SeriesNumber = max(int(sources[0].get("SeriesNumber") or 0), 0) + _SERIES
        made.SeriesDescription, made.Modality = f"{algorithm.name} structures"[:64], "RTSTRUCT"
        made.InstanceNumber, made.OperatorsName = 1, None
        made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, algorithm.name[:64]
        made.SoftwareVersions, made.DeviceSerialNumber = algorithm.version, algorithm.digest[:64]
        made.StructureSetLabel = algorithm.name[:16]
        made.InstanceCreationDate = made.StructureSetDate = now.strftime("%Y%m%d")
        made.InstanceCreationTime = made.StructureSetTime = now.strftime("%H%M%S")
        made.ApprovalStatus = "UNAPPROVED"
        made.ReferencedFrameOfReferenceSequence = [_referred(sources)]
        made.StructureSetROISequence = [_region(segment, sources[0], algorithm) for segment in segments]
        made.ROIContourSequence = [_contours(segment, mask, slices) for segment in segments]
        made.RTROIObservationsSequence = [_observation(segment) for segment in segments]
        name_patient(made, slices)
    return made


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _referred(sources: Sequence[Any]) -> Any:
    """Return where the source lies: frame of reference, study, series, instances."""
    first = sources[0]
    instances = [
        _item(ReferencedSOPClassUID=head.SOPClassUID, ReferencedSOPInstanceUID=head.SOPInstanceUID) for head in sources
    ]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=instances)
    study = _item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _region(segment: Segment, source: Any, algorithm: Algorithm) -> Any:
    return _item(
        ROINumber=segment.number,
        ReferencedFrameOfReferenceUID=source.FrameOfReferenceUID,
        ROIName=segment.label[:64],
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=f"{MANUFACTURER} {algorithm.version}, {algorithm.name}"[:64],
    )


def _contours(segment: Segment, mask: npt.NDArray[Any], slices: Slices) -> Any:
    made = []
    for place, plane in enumerate(slices.stack.planes):
        inside = (mask[:, :, place] == segment.index).T
        if inside.any():
            made += [_contour(ring, plane, slices) for ring in outlines(inside)]
    item = _item(ROIDisplayColor=list(segment.colour), ReferencedROINumber=segment.number)
    if made:
        item.ContourSequence = made
    return item


def _contour(ring: Points, plane: Plane, slices: Slices) -> Any:
    row, column = ring.T[:, :, None] * np.array(plane.spacing)[:, None, None]
    points = plane.position + row * plane.along_column + column * plane.along_row
    digits = max(4, min(8, math.ceil(3 - math.log10(min(plane.spacing)))))  # a thousandth of a voxel
    head = slices.heads[plane.path]
    source = _item(ReferencedSOPClassUID=head.SOPClassUID, ReferencedSOPInstanceUID=head.SOPInstanceUID)
    if plane.frame is not None:
        source.ReferencedFrameNumber = plane.frame + 1
    return _item(
        ContourImageSequence=[source],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.{digits}f}"[:16] for value in points.ravel()],
    )


def _observation(segment: Segment) -> Any:
    return _item(
        ObservationNumber=segment.number,
        ReferencedROINumber=segment.number,
        RTROIIdentificationCodeSequence=[coded(segment.code)],
        RTROIInterpretedType=None,
        ROIInterpreter=None,
    )
