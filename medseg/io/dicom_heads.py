"""Tags of DICOM files without their pixels, and what a file is: a slice, or something that lies beside slices.

No tag that may name a patient (name, number, description of a study or series) gets into a message.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from medseg.io.image_file import ImageError
from medseg.io.integrity import file_size

__all__ = [
    "MOSAIC",
    "NO_IMAGE",
    "PLACED",
    "SUFFIXES",
    "check_deflated",
    "claims_dicom",
    "is_dicom",
    "is_image",
    "is_lossy",
    "is_mosaic",
    "is_picture",
    "kind_of",
    "quiet",
    "read_head",
    "why_beside",
]

SUFFIXES = (".dcm", ".dicom", ".ima")
MOSAIC: tuple[str | int, ...] = ("ImageType", 0x00190010, 0x0019100A)  # Siemens: number of images in mosaic
"""What says whether a file is a mosaic, see `is_mosaic`."""

PLACED = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence", "NumberOfFrames", *MOSAIC)
"""What says whether a file is a picture, see `is_picture`."""

NO_IMAGE = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "FID", "DOC", "AU", "ECG")
"""Modalities of objects that hold no image of their own."""

_PACKED = (".gz", ".bz2", ".xz", ".zip")
_FIRST = {2: (0, 1), 8: (0, 1, 5, 8, 18, 22, 24)}  # what the first tag of a file without a preamble may be
_SHORT = 128  # bytes that its value takes at most
_DIRECTORY = "1.2.840.10008.1.3.10"
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # and what begins so: its forms of several frames
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_NUMBERS = {  # tags that are read as numbers, and how many there are
    **{"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2},
    **dict.fromkeys(("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"), 1),
    **dict.fromkeys(("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"), 1),
    **dict.fromkeys(("BitsAllocated", "BitsStored", "PixelRepresentation"), 1),
}
_RESCALED = "PixelValueTransformationSequence"
_PLACING = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
_NUMERIC = set("0123456789+-.,eE\\ []naif\0")
_INFLATED, _RATIO = 1 << 28, 100  # a deflated file may unpack to so many bytes, or to so many times its own
_CHUNK, _START = 1 << 20, 1 << 14
_LOSSY = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 81, 91, 93, 203))


_TALKERS = (  # each says what names a patient, a study or an archive
    *("pydicom", "highdicom.base"),
    *("dicomweb_client.web", "retrying", "urllib3.connectionpool"),
)
_quiet_threads: set[int] = set()
_quiet_lock = threading.Lock()
_filters = contextlib.ExitStack()  # what the first quiet thread found; the filters are all threads'


def _drop(record: logging.LogRecord) -> bool:
    return record.thread not in _quiet_threads


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom, highdicom and dicomweb-client say out of the log: values of tags, UIDs, names of hosts.

    Of what they log, only what this thread makes them say is kept back. No warning is shown while any thread is quiet:
    Python's filters are all threads', and two that set them back in the order they began would leave them changed.
    """
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_drop)  # one that is there already is not added again
    thread = threading.get_ident()
    if thread in _quiet_threads:
        yield
        return
    with _quiet_lock:
        if not _quiet_threads:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _quiet_threads.add(thread)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_threads.discard(thread)
            if not _quiet_threads:
                _filters.close()


def is_dicom(path: Path) -> bool:
    """Return whether a regular file has DICOM's mark behind its preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def claims_dicom(path: Path) -> bool:
    """Return whether a regular file is DICOM, or says so by its name or its first tag.

    An empty or cut slice has lost its mark, one of an old archive never had a preamble, one may be packed: a
    series that is read without it would be a shorter one.
    """
    if not path.is_file():
        return False
    packed = path.suffix.lower() in _PACKED and Path(path.stem).suffix.lower() in SUFFIXES
    return path.suffix.lower() in SUFFIXES or packed or is_dicom(path) or _has_tag(path)


def _has_tag(path: Path) -> bool:
    """Return whether a file begins with a tag that a DICOM file without a preamble begins with."""
    with path.open("rb") as file:
        start = file.read(8)
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    if len(start) < 8 or element not in _FIRST.get(group, ()):
        return False
    return start[4:6] in (b"UL", b"OB", b"CS", b"UI", b"DA") or 0 < int.from_bytes(start[4:], "little") <= _SHORT


def _no_dicom(path: Path) -> str:
    if path.suffix.lower() in _PACKED:
        return f"is a packed DICOM file ({path.suffix}); unpack it"
    if _has_tag(path):
        return "DICOM file without a preamble; write it anew in DICOM's file format (dcmconv, or pydicom)"
    return "damaged DICOM file (no mark after its preamble); restore or remove it"


def read_head(path: Path, tags: Sequence[str | int] | None = None) -> Any:
    """Read a file's tags up to its pixels.

    Args:
        path: the file.
        tags: keywords of those that are wanted; ``None`` for all.

    Raises:
        ImageError: if it is damaged or no regular file.
    """
    import pydicom

    file_size(path)
    if not is_dicom(path):
        raise ImageError(f"{path}: {_no_dicom(path)}")
    try:
        with quiet():
            with path.open("rb") as file:
                check_deflated(file, file_size(path), path)
            given: Any = None if tags is None else list(tags)
            head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=given)
            if tags is None or "Rows" in tags:
                _check_cut(path, head)
            _check_numbers(path, head)
            for name in tags or ():
                head.get(name)  # what pydicom cannot read of a tag it says when somebody asks for it
    except ImageError:
        raise
    except Exception as error:  # pydicom raises nearly every type on damaged bytes
        detail = " ".join(str(error).replace(str(path), "").split())[:200] or type(error).__name__
        raise ImageError(f"{path}: damaged DICOM file ({detail}); restore or remove it") from error
    return head


def check_deflated(file: BinaryIO, size: int, where: object) -> None:
    """Refuse a file that is deflated as a whole and unpacks to far more than it holds; pydicom unpacks it at once.

    Args:
        file: at its beginning.
        size: of it in bytes.
        where: what it is called, for the message.

    Raises:
        ImageError: if it does.
    """
    from pydicom.filereader import read_dataset

    if _DEFLATED not in file.read(_START):
        return
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if str(meta.get("TransferSyntaxUID", "")) != _DEFLATED.decode():
        return
    unpack, found = zlib.decompressobj(-zlib.MAX_WBITS), 0
    limit = max(_INFLATED, _RATIO * size)
    while not unpack.eof and (packed := unpack.unconsumed_tail or file.read(_CHUNK)):
        found += len(unpack.decompress(packed, _CHUNK))
        if found > limit:
            raise ImageError(
                f"{where}: is deflated, and unpacks to more than {limit >> 20} MiB; if it is not damaged, store it "
                "without deflation"
            )


def _check_cut(path: Path, head: Any) -> None:
    """Refuse a file that holds less than what its kind says, or has no kind, which pydicom reads without a word."""
    kind = getattr(head.file_meta, "MediaStorageSOPClassUID", None)
    if "Rows" in head or str(kind) == _DIRECTORY:
        return
    image = str(getattr(kind, "name", kind)).endswith("Image Storage")
    if image or len(head) == 0 or "SOPClassUID" not in head:
        why = "it ends among its tags" if image or len(head) == 0 else "its tags do not say what it is"
        raise ImageError(f"{path}: damaged DICOM file ({why}); restore or remove it")


def _check_numbers(path: Path, head: Any) -> None:
    """Refuse tags of an image that are read as numbers and are none; empty ones count as missing."""
    if head.get("Modality") in NO_IMAGE:
        return  # it lies beside images, whose series is none the worse
    for item in (head, *_groups(head)):
        for name in _NUMBERS:
            if name in item:
                _check_number(path, item, name)
        if item.get("RescaleSlope") == 0:
            raise ImageError(f"{path}: its RescaleSlope is 0, which leaves no values; correct it or restore the file")
    for item in _groups(head, _RESCALED):
        if lacking := [name for name in ("RescaleSlope", "RescaleIntercept") if item.get(name) is None]:
            raise ImageError(
                f"{path}: frames of it are to be rescaled and state no {lacking[0]}; correct it or restore the file"
            )


def _groups(head: Any, *names: str) -> Iterator[Any]:
    """Yield the functional groups of these names, of all frames and of each; by default those that hold numbers."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for frame in head.get(name) or ():
            for group in names or (_RESCALED, *_PLACING):
                yield from (frame.get(group) or ())[:1]


def _check_number(path: Path, item: Any, name: str) -> None:
    stored, count = item.get_item(name).value, _NUMBERS[name]
    try:
        sound = _are_numbers(item.get(name), count)
    except (ValueError, TypeError, OverflowError):
        sound = False
    if not sound:
        wanted = "a number" if count == 1 else f"{count} numbers"
        raise ImageError(f"{path}: its {name} is {_told(stored)}, not {wanted}; correct it or restore the file")


def _told(stored: Any) -> str:
    """Return what a tag holds, unless it may be a piece of another tag, such as a name."""
    text = stored.decode("latin-1") if isinstance(stored, bytes) else str(stored)
    return repr(text[:40]) if set(text) <= _NUMERIC else "text"


def _are_numbers(value: Any, count: int) -> bool:
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return True
    several = [value] if count == 1 else list(value)
    return len(several) == count and all(math.isfinite(float(each)) for each in several)


def is_image(head: Any) -> bool:
    """Return whether a file holds pixels that are an image of their own."""
    return head.get("Modality") not in NO_IMAGE and "Rows" in head and "Columns" in head


def is_picture(head: Any) -> bool:
    """Return whether a file is one frame that states no place in a patient: ultrasound, endoscopy, plain X-ray."""
    placed = "ImagePositionPatient" in head or "PerFrameFunctionalGroupsSequence" in head
    return int(head.get("NumberOfFrames") or 1) == 1 and not placed and not is_mosaic(head)


def is_mosaic(head: Any) -> bool:
    """Return whether a file holds all slices of a volume side by side, as Siemens' scanners store EPI."""
    if "PerFrameFunctionalGroupsSequence" in head:
        return False  # each frame is a slice, whatever the type says
    if "MOSAIC" in _words(head.get("ImageType")):
        return True
    maker, count = (head.get(tag) for tag in MOSAIC[1:])
    told = str(getattr(maker, "value", "")).strip() == "SIEMENS MR HEADER"
    value = getattr(count, "value", 1)
    return told and (int.from_bytes(value, "little") if isinstance(value, bytes) else int(value or 1)) > 1


def is_lossy(head: Any) -> bool:
    """Return whether a file's compression, now or once, has changed values."""
    syntax = str(getattr(head.file_meta, "TransferSyntaxUID", ""))
    return syntax in _LOSSY or str(head.get("LossyImageCompression", "00")) == "01"


def kind_of(head: Any) -> str:
    """Return what a file without an image of its own is, for messages."""
    if str(getattr(head.file_meta, "MediaStorageSOPClassUID", "")) == _DIRECTORY:
        return "the directory of a medium (DICOMDIR)"
    return f"no image of its own (modality {str(head.get('Modality', 'none'))[:16]})"


def why_beside(head: Any) -> str:
    """Return why an image is no slice of a volume, where others in its folder are; empty where it may be one."""
    if "LOCALIZER" in _words(head.get("ImageType")):
        return "localiser"
    secondary = str(head.get("SOPClassUID", "")).startswith(_SECONDARY)
    placed = "ImagePositionPatient" in head or "PerFrameFunctionalGroupsSequence" in head
    return "secondary capture without a place in the patient" if secondary and not placed else ""


def _words(value: Any) -> list[str]:
    several = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return [str(word).strip().upper() for word in several]
