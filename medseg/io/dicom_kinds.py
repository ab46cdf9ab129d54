"""What kind of image the slices of a series are, and why slices of several kinds are several volumes.

A series may hold more than one volume: echoes, b-values, phase beside magnitude, the times of a dynamic one. Slices
that lie apart can still be of two kinds, and one volume of both would be wrong without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import few
from medseg.io.image_file import ImageError

__all__ = ["TAGS", "check_kinds", "kinds_of_frame", "tell_apart"]

_Stated = tuple[str, str]  # name of a slice, and a value

# What tells volumes of a series apart; the first of its tags that a slice or a frame states has the word.
_KINDS = {
    "part of a complex image": ("ComplexImageComponent",),  # and the image type
    "echo time": ("EchoTime", "EffectiveEchoTime"),
    "b-value": ("DiffusionBValue",),
    "unit": ("RescaleType", "Units"),
    "inversion time": ("InversionTime",),
    "flip angle": ("FlipAngle",),
    "tube voltage": ("KVP",),
    "temporal position": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    "trigger time": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
    "acquisition": ("AcquisitionNumber", "FrameAcquisitionNumber"),
    "stack": ("StackID",),
    "image type": ("FrameType", "ImageType"),
}
_ONE_VOLUME = ("part of a complex image", "echo time", "b-value", "unit")
"""In these the slices of a volume are alike. A volume's slices may well differ in acquisition or time."""

_GROUPS = (  # functional groups of enhanced objects that hold them
    *("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence", "FrameContentSequence"),
    *("MREchoSequence", "MRDiffusionSequence", "MRTimingAndRelatedParametersSequence", "MRModifierSequence"),
    *("PixelValueTransformationSequence", "CTXRayDetailsSequence", "CardiacSynchronizationSequence"),
    "TemporalPositionSequence",
)
_PARTS = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY", "PHASE MAP": "PHASE"}
_LIKE = 0.05  # relative; echo times of the slices of one volume are rounded
_ALIKE = {  # what the slices of one volume state alike, if at all
    "StudyInstanceUID": "studies",
    "Modality": "modalities",
    "FrameOfReferenceUID": "frames of reference, so their places cannot be compared",
    "PatientID": "patients",
}
TAGS = (
    *(tag for tags in _KINDS.values() for tag in tags if not tag.startswith(("Frame", "Effective", "StackID"))),
    *(*_ALIKE, "PatientName"),
)
"""Of a file of one slice, the tags that are asked here."""


def kinds_of_frame(head: Any, groups: tuple[Any, ...] = ()) -> dict[str, str]:
    """Return what is told of the kind of a slice, by name.

    Args:
        head: tags of the file.
        groups: of an enhanced file, the functional groups of the frame and those of all frames.
    """
    sources = [item for group in groups for name in _GROUPS for item in (group.get(name) or [])[:1]]
    told = {name: value for name, tags in _KINDS.items() if (value := _first([*sources, head], tags))}
    if "part of a complex image" not in told and str(head.get("Modality")) == "MR":
        words = told.get("image type", "").split("\\")[2:]
        part = next((_PARTS.get(word, word) for word in words if word in (*_PARTS, *_PARTS.values())), "")
        told |= {"part of a complex image": part} if part else {}
    return told


def _first(sources: list[Any], tags: tuple[str, ...]) -> str:
    for source in sources:
        for tag in tags:
            value = source.get(tag)
            if value is not None and (said := _said(value)):
                return said
    return ""


def _said(value: Any) -> str:
    several = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return "\\".join(str(each).strip().upper() for each in several)


def check_kinds(path: Path, heads: Mapping[Path, Any], kinds: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """Refuse slices that cannot be of one volume, though their places would make one.

    Args:
        path: of the series, for messages.
        heads: tags by file.
        kinds: name of each slice, and what `kinds_of_frame` returns of it.

    Raises:
        ImageError: naming two slices and what they differ in.
    """
    numbered = any(str(head.get("PatientID") or "").strip() for head in heads.values())
    for tag, many in (*_ALIKE.items(), *([] if numbered else [("PatientName", "patients")])):
        stated = [(file.name, str(head.get(tag) or "").strip()) for file, head in heads.items()]
        if two := _two(stated, like=False):
            names = f"{two[0][0]} and {two[1][0]}"
            raise ImageError(f"{path}: slices {names} state different {many} ({tag}); split the series")
    for what in _ONE_VOLUME:
        if two := _two([(name, kind.get(what, "")) for name, kind in kinds]):
            values = _shown(two[0][1], two[1][1])
            raise ImageError(
                f"{path}: slices {two[0][0]} and {two[1][0]} differ in {what}{values}; split the series by that"
            )


def _two(stated: Sequence[_Stated], *, like: bool = True) -> tuple[_Stated, _Stated] | None:
    """Return two that state different things; what is not stated differs from nothing, like numbers only if asked."""
    named = [each for each in stated if each[1]]
    for each in named[1:]:
        if each[1] != named[0][1] and not (like and _is_like(named[0][1], each[1])):
            return named[0], each
    return None


def _is_like(one: str, other: str) -> bool:
    try:
        first, second = float(one), float(other)
    except ValueError:
        return False
    return abs(first - second) <= _LIKE * max(abs(first), abs(second))


def _shown(one: str, other: str) -> str:
    """Return two values for a message, where they are numbers or words of the standard and no free text."""
    known = all(value in _PARTS.values() or not value.strip("0123456789.-+E") for value in (one, other))
    return f" ({one} and {other})" if known else ""


def tell_apart(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return in words what two slices at one place differ in; empty where nothing is told.

    Args:
        one: from `kinds_of_frame`.
        other: so too.
    """
    return few(list(_differences(one, other)), 3)


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    for name in _KINDS:
        first, second = one.get(name, ""), other.get(name, "")
        if first and second and first != second:
            yield f"{name}{_shown(first, second)}"
