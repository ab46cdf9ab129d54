"""What every DICOM object about a prediction shares: its segments with their codes, the algorithm, UIDs, the source.

An object belongs to its patient's archive and carries the patient's tags, as DICOM asks; nothing of them gets into a
message or a log. UIDs follow from what an object says: the same prediction of the same series has the same ones, so
that an archive which gets it twice holds it once.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.caller import spelt
from medseg.data.coding import ANATOMY, Code, propose_codes
from medseg.errors import MedsegError, few, shown
from medseg.io.dicom import Slices
from medseg.io.dicom_heads import quiet
from medseg.reports.palette import Colour, background_index, class_colours

if TYPE_CHECKING:
    from medseg.bundle.description import Description

__all__ = [
    *("Algorithm", "DicomError", "Segment", "category_of", "check_grid", "coded", "concept"),
    *("made_by", "meaning_of", "series_number"),
    *("name_patient", "numbered", "put_modifiers"),
    *("refuse_uncoded", "require_highdicom", "said_by", "save", "segments_of", "sources_of", "stable_uid"),
]

MANUFACTURER = "medseg"
CHARACTERS = "ISO_IR 192"
"""UTF-8: class names may be of any script, whatever the source's character set."""

_NAMESPACE = uuid.UUID("7d0f7a5e-6c0c-5a2e-9b43-2f2b0a3c9a51")
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (  # type 2: must be there, with or without a value
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_LABEL = 64  # characters of VR LO
_SEXES = ("M", "F", "O")


class DicomError(MedsegError):
    """A prediction that cannot become a DICOM object."""


@dataclass(frozen=True)
class Algorithm:
    """What made a prediction.

    Args:
        name: of the model.
        digest: hash of its weights, hexadecimal.
        version: of medseg.
    """

    name: str
    digest: str
    version: str = __version__


@dataclass(frozen=True)
class Segment:
    """One class of a model as a segment.

    Args:
        number: from 1 on.
        index: of the class in masks.
        label: name of the class.
        code: coded concept, see `medseg.data.datalist.Datalist.codes`.
        colour: red, green, blue.
    """

    number: int
    index: int
    label: str
    code: Code
    colour: Colour

    @property
    def tag(self) -> str:
        """The label as a tag takes it, unlike those of other segments: a line of 64 characters, without backslashes."""
        line = re.sub(r"[\\\s\0-\x1f\x7f]+", " ", self.label.replace("\\", "/")).strip()
        end = f" ({self.number})"
        return line if len(line) <= _LABEL else line[: _LABEL - len(end)] + end


def segments_of(
    description: Description, codes: Mapping[int, Code] | None = None, *, dataset: str = ""
) -> list[Segment]:
    """Return the segments of a model: its classes without the background.

    Args:
        description: of the model, with codes where its data had them.
        codes: by class index; they go before the model's. For what neither names, `medseg.data.coding` is asked.
        dataset: name of the data set, for that; by default the model's name.

    Raises:
        DicomError: if a class has no code: it is named, and how it gets one.
    """
    names = list(description.classes)
    background = background_index(names)
    proposed = propose_codes(dict(enumerate(names)), dataset or description.name)
    known = {**proposed, **{int(key): code for key, code in description.codes.items()}, **(codes or {})}
    colours = class_colours(len(names), description.colours)
    made = [
        Segment(0, index, name, known.get(index, {}), colours[index])
        for index, name in enumerate(names)
        if index != background
    ]
    if lacking := [f"{each.index} ({shown(each.label)})" for each in made if not each.code]:
        raise DicomError(
            f"the classes {few(lacking)} have no code, which a DICOM object must give; name them in the datalist, or "
            f"here by {spelt('codes', 'FILE')}: "
            '{"1": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}}'
        )
    if not made:
        raise DicomError(
            f"the model {description.name} has no class beside the background to write; write the mask alone"
        )
    return [replace(each, number=number) for number, each in enumerate(made, 1)]


def refuse_uncoded(description: Description) -> None:
    """Refuse a model that no DICOM object can be made of.

    Raises:
        DicomError: if a class has no code, or highdicom is not there.
    """
    require_highdicom("writing DICOM objects")
    segments_of(description)


def meaning_of(segments: Sequence[Segment]) -> str:
    """Return in one text what segments mean: of another meaning the same voxels are another object."""
    held = [(each.number, each.label, each.code, [int(part) for part in each.colour]) for each in segments]
    return json.dumps(held, sort_keys=True, ensure_ascii=False)


def numbered(mask: npt.NDArray[Any], segments: Sequence[Segment]) -> npt.NDArray[Any]:
    """Return a mask of class indices as segment numbers, 0 where there is none.

    Raises:
        DicomError: if the mask holds an index that is no class.
    """
    highest = int(mask.max(initial=0))
    if highest > len(segments):  # of classes 0, 1, ... all but the background are segments
        raise DicomError(f"the mask holds {highest}, which is none of the model's classes; leave DICOM objects out")
    table = np.zeros(highest + 1, np.uint8 if len(segments) < 256 else np.uint16)
    for segment in segments:
        if segment.index <= highest:
            table[segment.index] = segment.number
    return np.asarray(table[mask])


def concept(code: Mapping[str, Any]) -> Any:
    """Return a coded concept as pydicom has it."""
    from pydicom.sr.coding import Code as Coded

    return Coded(code["value"], code["scheme"], code["meaning"])


def coded(code: Mapping[str, Any]) -> Any:
    """Return a coded concept as an item of a sequence."""
    from pydicom.dataset import Dataset

    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = code["value"], code["scheme"], code["meaning"]
    return made


def category_of(code: Mapping[str, Any]) -> Any:
    """Return what kind of thing a coded concept is: anatomy, where it does not say."""
    return concept(code.get("category", ANATOMY))


def put_modifiers(code: Mapping[str, Any], what: Any, where: Any | None) -> None:
    """Say what modifies a coded concept and its region, such as a side, in the items that an object has of them.

    Args:
        code: of a class.
        what: the item of its concept.
        where: that of its region, if it has one.
    """
    if "modifier" in code:
        what.SegmentedPropertyTypeModifierCodeSequence = [coded(code["modifier"])]
    if where is not None and "modifier" in code["region"]:
        where.AnatomicRegionModifierSequence = [coded(code["region"]["modifier"])]


def stable_uid(*parts: object) -> str:
    """Return a UID that follows from what it stands for: 2.25 and a name-based UUID (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(map(str, parts))).int}"


def made_by(algorithm: Algorithm) -> dict[str, str]:
    """Return the equipment that an object comes from, as highdicom's constructors take it."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version,
        "device_serial_number": algorithm.digest[:64],
    }


def series_number(source: Any, kind: int) -> int:
    """Return the number of a series of objects about another: that one's and 900, and one for each kind."""
    return max(int(source.get("SeriesNumber") or 0), 0) + 900 + kind


def sources_of(slices: Slices, where: str) -> list[Any]:
    """Return the tags of a series' files in the order of its slices, complete enough to be referred to.

    What highdicom takes over from them is as `medseg.io.dicom` read it: one direction and one distance of the slices,
    whatever is stated of it.

    Args:
        slices: the series.
        where: what it is called, for messages.

    Raises:
        DicomError: if a file does not say which instance, series, study or frame of reference it belongs to, or the
            frames of several files make up one volume.
    """
    files = list(dict.fromkeys(plane.path for plane in slices.stack.planes))
    heads = [slices.heads[file] for file in files]
    if len(heads) > 1 and any(int(head.get("NumberOfFrames") or 1) > 1 for head in heads):
        raise DicomError(
            f"{where}: its frames are spread over {len(heads)} files, which no segmentation "
            "can refer to; write its mask as NIfTI"
        )
    for file, head in zip(files, heads, strict=True):
        if lacking := [name for name in _NEEDED if not head.get(name)]:
            raise DicomError(
                f"{where}: {file.name} does not state its {', '.join(lacking)}, which an object about it must repeat; "
                "write a NIfTI mask, or complete the tags"
            )
    with said_by(where):
        return [_completed(head, slices) for head in heads]


def _completed(head: Any, slices: Slices) -> Any:
    import pydicom

    made = pydicom.Dataset()
    made.update(head)
    for name in _MAY_BE_EMPTY:
        if name not in made:
            setattr(made, name, None)
    _put(made, "PatientName", None)  # see `name_patient`
    if made.PatientSex not in _SEXES:
        _put(made, "PatientSex", None)
    for name in ("PatientBirthDate", "StudyDate", "StudyTime"):
        if not _is_moment(name, str(made.get(name) or "")):
            _put(made, name, None)  # highdicom and receivers refuse what is no date, such as 19500000
    first = slices.stack.planes[0]
    turn = [*first.along_row, *first.along_column]
    measures = pixel_measures(slices)
    if "PerFrameFunctionalGroupsSequence" in made:
        shared = pydicom.Dataset()
        shared.update((made.get("SharedFunctionalGroupsSequence") or [{}])[0])
        orientation = pydicom.Dataset()
        orientation.ImageOrientationPatient = _decimal(turn)
        _put(shared, "PlaneOrientationSequence", [orientation])
        _put(shared, "PixelMeasuresSequence", [measures])
        _put(made, "SharedFunctionalGroupsSequence", [shared])
    else:
        _put(made, "ImageOrientationPatient", _decimal(turn))
        made.update(measures)
    return made


def _is_moment(name: str, text: str) -> bool:
    """Return whether a tag holds a date or, by its name, a time."""
    from pydicom.valuerep import DA, TM

    digits, kind = (r"\d{2,6}(\.\d+)?", TM) if name.endswith("Time") else (r"\d{8}", DA)
    try:
        return bool(re.fullmatch(digits, text)) and kind(text) is not None
    except ValueError:
        return False


def _put(data: Any, name: str, value: Any) -> None:
    """Give tags a new element: one that is there may be of the source's tags as well, and changes with these."""
    if name in data:
        delattr(data, name)
    setattr(data, name, value)


def pixel_measures(slices: Slices) -> Any:
    """Return spacing and thickness of slices: the spacing as it is, the thickness as it is stated."""
    import pydicom

    planes = slices.stack.planes
    first, last = planes[0], planes[-1]
    stated = next(iter(slices.heads.values())).get("SliceThickness")
    made = pydicom.Dataset()
    made.PixelSpacing = _decimal(first.spacing)
    distance = first.thickness or 1.0
    if len(planes) > 1:
        distance = abs(float((last.position - first.position) @ first.normal)) / (len(planes) - 1)
        (made.SpacingBetweenSlices,) = _decimal([distance])
    (made.SliceThickness,) = _decimal([float(stated or distance)])
    return made


def _decimal(values: Sequence[float]) -> list[Any]:
    """Return numbers as DICOM's decimal text, of 16 characters at most."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]


def check_grid(shape: Sequence[int], slices: Slices, where: str) -> None:
    """Refuse a mask that does not lie on a series.

    Raises:
        DicomError: naming both sizes.
    """
    if tuple(shape) != slices.shape:
        size, wanted = (" x ".join(map(str, each)) for each in (shape, slices.shape))
        raise DicomError(f"{where}: the mask is {size}, its series {wanted}; bring it back to the series' grid")


def require_highdicom(what: str) -> Any:
    """Return highdicom.

    Raises:
        DicomError: if it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise DicomError(f"{what} needs highdicom; install it: pip install 'medseg[dicom]'") from error
    return highdicom


@contextmanager
def said_by(where: str) -> Iterator[None]:
    """Turn what pydicom and highdicom raise into one line without the value of a tag, and their warnings into none."""
    try:
        with quiet():
            yield
    except (MedsegError, OSError):
        raise
    except MemoryError as error:
        raise DicomError(f"{where}: does not fit into memory as one object; cut the series into parts") from error
    except Exception as error:
        raise DicomError(
            f"{where}: its tags are not as DICOM asks ({type(error).__name__}); write a NIfTI mask, or correct them"
        ) from error


def name_patient(made: Any, slices: Slices) -> None:
    """Give an object its patient's name, which highdicom would repeat in the log where it is not as it should be."""
    head = next(iter(slices.heads.values()))
    if head.get("PatientName"):
        made.PatientName = str(head.PatientName)


def save(dataset: Any, target: Path) -> None:
    """Write an object whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as temporary, said_by(str(target)):
        dataset.save_as(temporary, enforce_file_format=True)
