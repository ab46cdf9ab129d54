"""What DICOM objects that were written say: whether they are those that would be written now, or have other codes.

Codes make no other mask, so that its record does not speak of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.data.coding import ANATOMY
from medseg.io.dicom_heads import quiet
from medseg.prediction.dicom_objects import Segment

__all__ = ["Codes", "codes_of", "codes_said", "refers_to"]

Codes = frozenset[tuple[str, ...]]
"""Values, schemes and meanings."""


def codes_of(segment: Segment) -> Codes:
    """Return the coded concepts by which an object says what a segment is.

    Args:
        segment: one of a model's.
    """
    region = segment.code.get("region", {})
    beside = (segment.code.get("modifier"), region, region.get("modifier"))
    found = [segment.code, segment.code.get("category", ANATOMY), *(each for each in beside if each)]
    return frozenset(tuple(each[key].strip() for key in ("value", "scheme", "meaning")) for each in found)


def codes_said(path: Path, sequence: str) -> list[Codes]:
    """Return the coded concepts of each segment of an object that was written; none of what cannot be read.

    Args:
        path: of the object.
        sequence: keyword of the one whose items are segments.
    """
    import pydicom

    try:
        with quiet():
            items = pydicom.dcmread(path, specific_tags=[sequence]).get(sequence) or []
            return [frozenset(_codes_in(item)) for item in items if item.get("SegmentNumber") != 0]  # the background
    except Exception:  # pydicom raises nearly every type on damaged bytes
        return []


def refers_to(report: Path, segmentation: Path) -> bool:
    """Return whether a report that was written is about a segmentation that is there; not of what cannot be read."""
    import pydicom

    try:
        with quiet():
            uid = pydicom.dcmread(segmentation, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
            held = pydicom.dcmread(report, specific_tags=["CurrentRequestedProcedureEvidenceSequence"])
            return any(each.value == uid for each in held.iterall() if each.keyword == "ReferencedSOPInstanceUID")
    except Exception:  # as above
        return False


def _codes_in(item: Any) -> Iterator[tuple[str, str, str]]:
    for element in item:
        if element.VR == "SQ" and element.keyword != "SegmentationAlgorithmIdentificationSequence":
            for inner in element.value:
                yield from _codes_in(inner)
    if "CodeValue" in item:
        yield str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning)
