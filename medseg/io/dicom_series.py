"""The DICOM series below a folder, however their files are called and wherever they lie, and what each is.

Files are told apart by their tags alone. Descriptions may name a patient: they are there to be compared with a rule
(`medseg.io.dicom_rules`), and get into no message.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import few
from medseg.io import dicom_kinds
from medseg.io.dicom import Slices, stack_series
from medseg.io.dicom_heads import MOSAIC, claims_dicom, is_image, is_picture, kind_of, quiet, read_head, why_beside
from medseg.io.dicom_planes import GapError
from medseg.io.image_file import ImageError

__all__ = ["Series", "SeriesListing", "files_below", "list_series", "parts_of_series"]

_TAGS: tuple[str | int, ...] = (  # what tells series apart, places their slices and says how values are stored
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription"),
    *("SeriesNumber", "ProtocolName", "BodyPartExamined", "ImageType", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *MOSAIC, *dicom_kinds.TAGS),
)
_STACKED = ("CT", "MR", "PT")
_PLANES = ("sagittal", "coronal", "axial")  # by the patient's axis that the normal is nearest to


@dataclass(frozen=True)
class Series:
    """One series, as its tags say.

    Args:
        uid: of the series.
        study: UID of the study.
        files: in the order of their names.
        modality: such as ``"CT"``.
        description: of the series and its protocol, of no message and no log.
        slices: how many.
        orientation: ``"axial"``, ``"coronal"`` or ``"sagittal"``, the nearest; empty where it is no volume.
        distance: between slices in mm, of one slice its thickness; 0 where it is no volume.
        tilt: degrees between the line of the slices and their normal.
        colour: whether its pixels are in colour.
        pictures: whether each file is a picture, such as a plain X-ray: one frame that states no place in a patient.
            Several slices of CT, MR or PET are none: they have lost their places.
        problem: why it is no volume, in one line that begins with the place; empty where it is one.
        notes: what is odd about it though it is one.
    """

    uid: str
    study: str
    files: tuple[Path, ...]
    modality: str
    description: str
    slices: int
    orientation: str = ""
    distance: float = 0.0
    tilt: float = 0.0
    colour: bool = False
    pictures: bool = False
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it: its first file and how many more there are."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0]}{more}"

    def slices_of(self) -> Slices:
        """Read all tags of its files, and put the slices in order.

        Raises:
            ImageError: if it is no volume.
        """
        return stack_series(self.files[0].parent, {file: read_head(file) for file in self.files})


@dataclass(frozen=True)
class SeriesListing:
    """What a folder holds of DICOM.

    Args:
        series: by study and then by first file.
        left_out: files that belong to none, with the reason; files that are not DICOM are not named.
        others: how many files are not DICOM.
        damaged: those of ``left_out`` that may be slices of any series here.
    """

    series: tuple[Series, ...]
    left_out: Mapping[Path, str]
    others: int = 0
    damaged: tuple[Path, ...] = ()


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders in order, following each link once; hidden ones are left out."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def list_series(files: Path | Iterable[Path]) -> SeriesListing:
    """Sort files into series. Pixels are not read.

    Localisers and secondary captures without a place are left out of the series that they belong to; a series of
    nothing else is left out whole.

    Args:
        files: or a folder, with its subfolders.
    """
    left_out: dict[Path, str] = {}
    found: dict[tuple[str, str], dict[Path, Any]] = defaultdict(dict)
    others, damaged = 0, list[Path]()
    for file in files_below(files) if isinstance(files, Path) else files:
        if not claims_dicom(file):
            others += 1
            continue
        try:
            head = read_head(file, _TAGS)
        except ImageError as error:
            left_out[file] = str(error).removeprefix(f"{file}: ")
            damaged.append(file)
            continue
        why = why_beside(head) if is_image(head) else kind_of(head)
        if why:
            left_out[file] = why
        else:
            uid = str(head.get("SeriesInstanceUID") or file)  # a file that names no series is one by itself
            found[str(head.get("StudyInstanceUID", "")), uid][file] = head
    with quiet():
        made = [_describe(study, uid, heads) for (study, uid), heads in found.items()]
    return SeriesListing(
        tuple(sorted(made, key=lambda each: (each.study, each.files[0]))), left_out, others, tuple(damaged)
    )


def _describe(study: str, uid: str, heads: Mapping[Path, Any]) -> Series:
    first = next(iter(heads.values()))
    told = " ".join(str(first.get(name) or "") for name in ("SeriesDescription", "ProtocolName", "BodyPartExamined"))
    files = tuple(sorted(heads))
    count = sum(int(head.get("NumberOfFrames") or 1) for head in heads.values())
    colour = int(first.get("SamplesPerPixel") or 1) > 1
    plain = Series(uid, study, files, str(first.get("Modality", "")), " ".join(told.split()), count, colour=colour)
    alone = len(heads) == 1 or plain.modality not in _STACKED
    if alone and all(is_picture(head) for head in heads.values()):
        return replace(plain, pictures=True, problem=f"{files[0]}: is a picture without a place in the patient")
    where = files[0] if len(files) == 1 else files[0].parent
    try:
        slices = stack_series(where, heads)
    except ImageError as error:
        return replace(plain, problem=str(error))
    except Exception as error:  # tags whose text is no number, sequences that are none
        return replace(plain, problem=f"{where}: its tags are damaged ({type(error).__name__}); restore the series")
    stack = slices.stack
    orientation = _PLANES[int(np.abs(stack.planes[0].normal).argmax())]
    distance = float(np.linalg.norm(stack.affine[:3, 2]))
    return replace(plain, orientation=orientation, distance=distance, tilt=stack.tilt, notes=slices.notes)


def parts_of_series(found: Iterable[Series]) -> dict[Path, str]:
    """Return which series of folders are but a part of one that lies in several, by first file, with the reason.

    Folders may hold the same series and both be whole: copies, or volumes that share a UID, such as the phases of a
    contrast agent. A part is what makes one volume with the others, or holds some slices of what another holds.

    Args:
        found: of all folders, also those that are no volume by themselves.
    """
    by_uid: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for each in found:
        if not each.pictures:
            by_uid[each.study, each.uid].append(each)
    said: dict[Path, str] = {}
    for held in by_uid.values():
        if len(held) > 1:
            with quiet():
                said |= _parts(sorted(held, key=lambda each: each.files[0]))
    return said


def _parts(held: Sequence[Series]) -> dict[Path, str]:
    heads = [{file: read_head(file, _TAGS) for file in each.files} for each in held]
    slices = [frozenset((str(head.get("SOPInstanceUID")), _patient(head)) for head in each.values()) for each in heads]
    said: dict[Path, str] = {}
    for each, own in zip(held, slices, strict=True):
        if whole := next((other for other, more in zip(held, slices, strict=True) if own < more), None):
            said[each.files[0]] = (
                f"{len(own)} of the slices that {whole.files[0].parent} holds; remove these, or name one folder"
            )
    single = dict(zip(slices, zip(held, heads, strict=True), strict=True))  # of copies, the last
    rest = [(each, own) for each, own in single.values() if each.files[0] not in said]
    if len(rest) > 1 and _are_one({file: head for _, own in rest for file, head in own.items()}):
        folders = few(sorted({str(each.files[0].parent) for each in held}), 3)
        said |= dict.fromkeys(
            (each.files[0] for each in held),
            f"the slices of its series lie in several folders ({folders}); put them, or links to them, into one "
            "folder, and name that one",
        )
    return said


def _patient(head: Any) -> str:
    return str(head.get("PatientID") or "").strip()


def _are_one(heads: Mapping[Path, Any]) -> bool:
    try:
        stack_series(next(iter(heads)), heads)
    except GapError:
        return True
    except Exception:  # what is wrong with them is said of each folder
        return False
    return True
