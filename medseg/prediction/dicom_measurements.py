"""Measurements of what was found as a DICOM structured report (TID 1500), by highdicom.

A group of measurements a class refers to its segment of the DICOM SEG: volume, largest cross-section, longest diameter
and, of CT and MR, the mean of the image; a class without a voxel has a volume of 0. Where a class has several connected
parts, their number stands in its group, and the largest of them have groups of their own, whose outlines are drawn on
the source's slices. A comment in the report itself, to which TID 1500 is open, says how the case is unlike what the
model was trained on. What is measured, and how, says `medseg.prediction.measurements`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.data.coding import code
from medseg.io.dicom import Slices
from medseg.prediction.dicom_objects import (
    CHARACTERS,
    Algorithm,
    Segment,
    category_of,
    check_grid,
    concept,
    made_by,
    name_patient,
    require_highdicom,
    said_by,
    series_number,
    sources_of,
    stable_uid,
)
from medseg.prediction.dicom_seg import tracking_uid
from medseg.prediction.keyhole import keyhole
from medseg.prediction.measurements import Measured, parts_of
from medseg.prediction.outlines import outlines

__all__ = ["MOST_PARTS", "measurement_report"]

MOST_PARTS = 20
"""Parts of a class that have groups of their own; `measurements.csv` has all."""

_IMPLICIT = "1.2.840.10008.1.2"  # explicit syntaxes have no room for an outline of more than 8,000 points
_PROCEDURES = {
    "CT": code("25045-6", "CT unspecified body region", "LN"),
    "MR": code("25056-3", "MRI unspecified body region", "LN"),
    "PT": code("44136-0", "PET unspecified body region", "LN"),
    "NM": code("49118-3", "NM unspecified body region", "LN"),
}
_PROCEDURE = code("363679005", "Imaging procedure")
_VOLUME, _AREA = code("118565006", "Volume"), code("42798000", "Area")
_DIAMETER = code("L0JK", "Maximum 3D Diameter of a Mesh", "IBSI")
_PARTS = code("parts", "Number of connected parts", "99MEDSEG")
_MEAN = code("373098007", "Mean")
_COMMENT = code("121106", "Comment", "DCM")
_INTENSITY = {  # by modality: what the values are, and their unit
    "CT": (code("112031", "Attenuation Coefficient", "DCM"), code("[hnsf'U]", "Hounsfield unit", "UCUM")),
    "MR": (code("110852", "MR signal intensity", "DCM"), code("1", "no units", "UCUM")),
}
_ML, _MM = code("ml", "milliliter", "UCUM"), code("mm", "millimeter", "UCUM")
_MM2, _COUNT = code("mm2", "square millimeter", "UCUM"), code("1", "no units", "UCUM")


def measurement_report(
    measured: Sequence[Measured],
    mask: npt.NDArray[Any],
    slices: Slices,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    *,
    segmentation: Any,
    where: str,
    doubts: Sequence[str] = (),
) -> Any:
    """Return measurements as a Comprehensive SR.

    Args:
        measured: of `medseg.prediction.measurements.measure`, parts and classes.
        mask: class indices, which were measured.
        slices: the series that the mask lies on.
        segments: see `medseg.prediction.dicom_objects.segments_of`.
        algorithm: what made the mask.
        segmentation: the DICOM SEG of the mask, of `medseg.prediction.dicom_seg.segmentation`.
        where: what the series is called, for messages.
        doubts: how the case is unlike what the model was trained on, a phrase each.

    Shape:
        mask ``(X, Y, Z)`` as `medseg.io.dicom.read_dicom` gives the series.

    Raises:
        DicomError: if highdicom is not there, the mask does not lie on the series, or tags of it are not sound.
    """
    check_grid(mask.shape, slices, where)
    highdicom = require_highdicom("writing measurements as DICOM")
    sources = sources_of(slices, where)
    parts, wholes = defaultdict(list), {}
    for each in measured:
        if each.part is None:
            wholes[each.index] = each
        else:
            parts[each.index].append(each)
    about = (segmentation.SOPInstanceUID, algorithm.name, algorithm.digest)
    with said_by(where):
        modality = str(sources[0].get("Modality", ""))
        groups = []
        for segment in segments:
            own = _Groups(segment, slices, algorithm, modality)
            groups.append(own.whole(wholes[segment.index], len(parts[segment.index]), segmentation, sources[0]))
            groups += own.parts(parts[segment.index], mask)
        framed = any("PerFrameFunctionalGroupsSequence" in head for head in sources)
        report = highdicom.sr.MeasurementReport(
            observation_context=_observed_by(algorithm),
            procedure_reported=concept(_PROCEDURES.get(modality, _PROCEDURE)),
            imaging_measurements=groups,
            referenced_images=None if framed else sources,  # what describes them there is of one frame
        )
        if doubts:
            said = f"Unlike what the model was trained on: {'; '.join(doubts)}"
            report[0].ContentSequence.append(
                highdicom.sr.TextContentItem(concept(_COMMENT), said, highdicom.sr.RelationshipTypeValues.CONTAINS)
            )
        made = highdicom.sr.ComprehensiveSR(
            evidence=[*sources, segmentation],
            content=report[0],
            series_instance_uid=stable_uid("series", sources[0].SeriesInstanceUID, *about[1:], "SR"),
            series_number=series_number(sources[0], 2),
            sop_instance_uid=stable_uid("measurements", *about, *doubts, *map(_said, measured)),
            instance_number=1,
            is_complete=True,
            is_final=False,
            transfer_syntax_uid=_IMPLICIT,
            series_description=f"{algorithm.name} measurements"[:64],
            specific_character_set=CHARACTERS,
            **made_by(algorithm),
        )
        name_patient(made, slices)
    return made


def _said(measured: Measured) -> str:
    """Return what a report says of a part, as exactly as it does."""
    numbers = (measured.size, measured.area, measured.diameter, *measured.mean)
    return " ".join(map(str, (measured.index, measured.part, measured.voxels, *(f"{each:.9g}" for each in numbers))))


def _observed_by(algorithm: Algorithm) -> Any:
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=stable_uid("device", algorithm.name, algorithm.digest, algorithm.version),
        name=algorithm.name[:64],
        manufacturer_name=made_by(algorithm)["manufacturer"],
        model_name=algorithm.version,
        serial_number=algorithm.digest[:64],
    )
    context = sr.ObserverContext(
        observer_type=concept(code("121007", "Device", "DCM")), observer_identifying_attributes=device
    )
    return sr.ObservationContext(observer_device_context=context)


class _Groups:
    """The groups of measurements of one class.

    Args:
        segment: of the class.
        slices: the series.
        algorithm: what made the mask.
        modality: of the series.
    """

    def __init__(self, segment: Segment, slices: Slices, algorithm: Algorithm, modality: str) -> None:
        self.segment, self.slices, self.algorithm, self.modality = segment, slices, algorithm, modality

    def whole(self, measured: Measured, parts: int, segmentation: Any, source: Any) -> Any:
        """Return the group of all of the class, which refers to its segment."""
        from highdicom import sr

        reference = sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=self.segment.number,
            source_series=sr.SourceSeriesForSegmentation(source.SeriesInstanceUID),
        )
        numbers = self._numbers(measured)
        if parts > 1:
            numbers.append(_number(_PARTS, parts, _COUNT))
        uid = tracking_uid(self.slices, self.segment, self.algorithm)
        return self._group(uid, self.segment.label, numbers, referenced_segment=reference)

    def parts(self, measured: Sequence[Measured], mask: npt.NDArray[Any]) -> Iterator[Any]:
        """Yield the groups of its largest parts, the largest first, as they are numbered; of a single part none."""
        if len(measured) < 2:
            return
        labels, _ = parts_of(mask == self.segment.index)
        boxes = ndimage.find_objects(labels)
        for each in measured[:MOST_PARTS]:
            assert each.part is not None
            uid = tracking_uid(self.slices, self.segment, self.algorithm, each.part)
            regions = list(self._regions(labels, each.part, boxes[each.part - 1]))
            label = f"{self.segment.label}, part {each.part}"
            yield self._group(uid, label, self._numbers(each), referenced_regions=regions)

    def _regions(self, labels: npt.NDArray[Any], part: int, box: tuple[slice, ...]) -> Iterator[Any]:
        from highdicom import sr

        corner = np.array([box[0].start, box[1].start])
        for place in range(box[2].start, box[2].stop):
            plane = self.slices.stack.planes[place]
            head = self.slices.heads[plane.path]
            frames = None if plane.frame is None else [plane.frame + 1]
            source = sr.SourceImageForRegion(str(head.SOPClassUID), str(head.SOPInstanceUID), frames)
            found = labels[box[0], box[1], place] == part
            for polygon in (each for several in outlines(found.T) for each in several):
                ring = keyhole(polygon) + corner
                yield sr.ImageRegion("POLYLINE", np.concatenate([ring, ring[:1]]), source)

    def _numbers(self, measured: Measured) -> list[Any]:
        made = [_number(_VOLUME, measured.size / 1000, _ML)]
        if not measured.voxels:
            return made
        made += [_number(_DIAMETER, measured.diameter, _MM), _number(_AREA, measured.area, _MM2)]
        if self.modality in _INTENSITY and len(measured.mean) == 1:
            made.append(_number(_INTENSITY[self.modality][0], measured.mean[0], _INTENSITY[self.modality][1], _MEAN))
        return made

    def _group(self, uid: str, label: str, numbers: list[Any], **region: Any) -> Any:
        from highdicom import sr

        found = self.segment.code
        place = found.get("region", found)
        side = concept(place["modifier"]) if "modifier" in place else None
        made_with = sr.AlgorithmIdentification(
            self.algorithm.name, self.algorithm.version, [f"weights_sha256={self.algorithm.digest}"]
        )
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=label),
            finding_category=category_of(found),
            finding_type=concept(found),
            finding_sites=[_site(place, side)] if "region" in found or side else None,
            algorithm_id=made_with,
            measurements=numbers,
            **region,
        )


def _site(place: Any, side: Any) -> Any:
    """Return where a finding is: laterality where the modifier is a side, else a topographical modifier."""
    from highdicom import sr

    if side is None:
        return sr.FindingSite(concept(place))
    lateral = side.meaning in ("Left", "Right")
    return sr.FindingSite(concept(place), *((side, None) if lateral else (None, side)))


def _number(name: Any, value: float, unit: Any, derivation: Any = None) -> Any:
    from highdicom import sr

    how = None if derivation is None else concept(derivation)
    return sr.Measurement(name=concept(name), value=float(f"{value:.9g}"), unit=concept(unit), derivation=how)
