"""Predictions as RTSTRUCT: the outlines of each class on the source's slices, written by pydicom.

An outline runs along the edges of voxels (`medseg.prediction.outlines`), so that whoever fills it gets the mask again
and finds the same area. A hole is joined to its outline by a channel without width (the keyhole of PS3.3, C.8.8.6.3):
every contour is one CLOSED_PLANAR polygon, and means the same to readers that know holes by contours of their own and
to those that do not. Voxels that touch at a corner alone have contours of their own.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.data.coding import ANATOMY
from medseg.io.dicom import Slices
from medseg.io.dicom_planes import Plane
from medseg.prediction.dicom_objects import (
    CHARACTERS,
    MANUFACTURER,
    Algorithm,
    Segment,
    check_grid,
    coded,
    made_by,
    meaning_of,
    name_patient,
    numbered,
    put_modifiers,
    said_by,
    series_number,
    sources_of,
    stable_uid,
)
from medseg.prediction.keyhole import keyhole
from medseg.prediction.outlines import outlines

__all__ = ["structure_set"]

_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"
_IMPLICIT = "1.2.840.10008.1.2"  # explicit syntaxes have no room for an outline of more than about 1,500 points
_FROM_SOURCE = (
    *("PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
)
_FROM_SOURCE_IF_THERE = (  # whose number a patient's and a study's is, and what else an archive shows of them
    *("IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence"),
    *("PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "IssuerOfAccessionNumberSequence"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID"),
)


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
        held = [name for name in _FROM_SOURCE_IF_THERE if name in sources[0]]
        made = _item(**{name: sources[0].get(name) for name in (*_FROM_SOURCE, *held)})
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = _IMPLICIT
        made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = _STRUCTURES
        made.SOPInstanceUID = stable_uid("structures", *about, digest, meaning_of(segments))
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        made.SpecificCharacterSet = CHARACTERS
        made.SeriesInstanceUID = stable_uid("series", *about, "RTSTRUCT")
        made.SeriesNumber = series_number(sources[0], 1)
        made.SeriesDescription, made.Modality = f"{algorithm.name} structures"[:64], "RTSTRUCT"
        made.InstanceNumber, made.OperatorsName = 1, None
        equipment = made_by(algorithm)
        made.Manufacturer, made.ManufacturerModelName = equipment["manufacturer"], equipment["manufacturer_model_name"]
        made.SoftwareVersions = equipment["software_versions"]
        made.DeviceSerialNumber = equipment["device_serial_number"]
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
        ROIName=segment.tag,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=f"{MANUFACTURER} {algorithm.version}, {algorithm.name}"[:64],
    )


def _contours(segment: Segment, mask: npt.NDArray[Any], slices: Slices) -> Any:
    made = []
    for place, plane in enumerate(slices.stack.planes):
        inside = (mask[:, :, place] == segment.index).T
        if inside.any():
            polygons = [polygon for part in outlines(inside) for polygon in part]
            made += [_contour(keyhole(polygon), plane, slices) for polygon in polygons]
    item = _item(ROIDisplayColor=list(segment.colour), ReferencedROINumber=segment.number)
    if made:
        item.ContourSequence = made
    return item


def _contour(ring: npt.NDArray[np.float64], plane: Plane, slices: Slices) -> Any:
    column, row = (ring - 0.5).T[:, :, None]  # from the first voxel's corner to its centre
    points = plane.position + column * plane.spacing[1] * plane.along_row + row * plane.spacing[0] * plane.along_column
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
    what, region = coded(segment.code), segment.code.get("region")
    where = coded(region) if region else None
    put_modifiers(segment.code, what, where)
    made = _item(
        ObservationNumber=segment.number,
        ReferencedROINumber=segment.number,
        SegmentedPropertyCategoryCodeSequence=[coded(segment.code.get("category", ANATOMY))],
        RTROIIdentificationCodeSequence=[what],
        RTROIInterpretedType=None,
        ROIInterpreter=None,
    )
    if where is not None:
        made.AnatomicRegionSequence = [where]
    return made
