"""What an archive's answers say: DICOM's JSON, the objects that it gives back, and why it did not take one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["TOLD", "OfferedSeries", "by_uid", "digest_of", "offered", "text_of", "value_of", "why_refused"]

TOLD = ("SeriesDescription", "ProtocolName", "BodyPartExamined")
# what an object says, whoever it passes through: an archive may change names, dates and how values are written
_CARRIED = ("PixelData", "ContourData", "NumericValue", "CodeValue", "ReferencedSOPInstanceUID")


@dataclass(frozen=True)
class OfferedSeries:
    """A series, as the archive says before any file is read.

    Args:
        study: UID of the study.
        uid: of the series.
        modality: such as ``"MR"``; empty where the archive does not say.
        description: of the series, its protocol and body part: of no message and no log.
        told: whether the archive says all of those; where not, `Archive.description` looks into a file.
        instances: how many, as far as the archive says.
    """

    study: str
    uid: str
    modality: str
    description: str = ""
    told: bool = True
    instances: int | None = None


def offered(study: str, uid: str, answer: Mapping[str, Any]) -> OfferedSeries:
    """Return what a search says of a series."""
    count = value_of(answer, "NumberOfSeriesRelatedInstances")
    made = OfferedSeries(study, uid, value_of(answer, "Modality").upper(), text_of(answer))
    told = all(value_of(answer, name) for name in TOLD)
    return replace(made, told=told, instances=int(count) if count.isdecimal() else None)


def text_of(answer: Mapping[str, Any]) -> str:
    """Return description, protocol and body part in one text, as rules compare it."""
    return " ".join(" ".join(value_of(answer, name) for name in TOLD).split())


def value_of(answer: Mapping[str, Any], keyword: str) -> str:
    """Return the first value of a tag in DICOM's JSON, as text; empty where there is none, or it is no text."""
    from pydicom.datadict import tag_for_keyword

    element = answer.get(f"{tag_for_keyword(keyword):08X}")
    values = element.get("Value") if isinstance(element, Mapping) else None
    first = values[0] if isinstance(values, list) and values else None
    return str(first) if isinstance(first, str | int | float) else ""


def by_uid(answers: Iterable[Any], keyword: str) -> dict[str, Mapping[str, Any]]:
    """Return the answers to a search by the UID that each must have.

    Raises:
        ValueError: if one has none.
        TypeError: if they are something else.
    """
    found = {}
    for answer in answers:
        if not isinstance(answer, Mapping):
            raise TypeError("an answer that is no object")
        if not (uid := value_of(answer, keyword)):
            raise ValueError(f"an answer without {keyword}")
        found[uid] = answer
    return found


def why_refused(answer: Any, uid: str) -> str:
    """Return why an object was not stored, by the answer to storing; empty where it was."""
    failed = answer.get("FailedSOPSequence") or []
    for item in failed:
        if str(item.get("ReferencedSOPInstanceUID", uid)) == uid:
            return f"the archive did not take it (failure reason {int(item.get('FailureReason') or 0):#06x})"
    return ""


def digest_of(dataset: Any) -> str:
    """Return a hash of what an object says, however it is written down."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed and "PixelData" in dataset:
        dataset = deepcopy(dataset)  # pydicom would give what is to be stored another UID
        dataset.decompress(generate_instance_uid=False)
    found = hashlib.sha256()
    for element in dataset.iterall():
        if element.keyword in _CARRIED:
            value = element.value if isinstance(element.value, bytes) else str(element.value).encode()
            found.update(element.keyword.encode() + value)
    return found.hexdigest()
