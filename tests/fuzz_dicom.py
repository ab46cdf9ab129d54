"""DICOM files with wrong tags, lengths and claims, drawn at random: what random bytes seldom hit."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

_PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_KEPT = ("Rows", "Columns", "BitsAllocated", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation")
_TAGS = (*_PLACES, *_KEPT, "SOPClassUID", "SeriesInstanceUID", "Modality", "ImageType", "BitsStored", "PixelData")
_NUMBERS = (*_PLACES, "SliceThickness", "RescaleSlope", "RescaleIntercept", "NumberOfFrames")
_WRONG = (b"", b"abc", b"\\", b"1\\2", b"nan\\nan\\nan", b"1e999", b"-1", b"0\\0\\0", b"\xff\xfe", b"1" * 300)

Change = Callable[[Any, random.Random], None]


def _store(data: Any, name: str, value: bytes) -> None:
    """Put bytes into a tag as they are."""
    number = pydicom.datadict.tag_for_keyword(name)
    assert number is not None
    tag, kind = pydicom.tag.Tag(number), pydicom.datadict.dictionary_VR(number)
    value += b" " * (len(value) % 2)
    data[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(value), value, 0, False, True)


def _without(data: Any, rng: random.Random) -> None:
    name = rng.choice([tag for tag in _TAGS if tag in data])
    delattr(data, name)


def _wrong_text(data: Any, rng: random.Random) -> None:
    """Put text into a tag that holds numbers; it is written as it is."""
    _store(data, rng.choice(_NUMBERS), rng.choice(_WRONG))


def _large(data: Any, rng: random.Random) -> None:
    """Claim far more than there is: a reader that believes it asks for gigabytes."""
    data.Rows, data.Columns = rng.choice(((65535, 65535), (65535, data.Columns), (data.Rows, 30000)))
    if rng.random() < 0.5:
        data.NumberOfFrames = rng.choice((1000, 10**6, 2**31 - 1, -1, 0))


def _odd_numbers(data: Any, rng: random.Random) -> None:
    name = rng.choice(("BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation", "Rows"))
    setattr(data, name, rng.choice((0, 1, 3, 7, 12, 17, 64, 255, 65535)))


def _other_kind(data: Any, rng: random.Random) -> None:
    data.PhotometricInterpretation = rng.choice(("RGB", "PALETTE COLOR", "MONOCHROME1", "YBR_FULL", "", "X" * 100))
    if rng.random() < 0.5:
        data.file_meta.MediaStorageSOPClassUID = rng.choice(("1.2.3", "", "1.2.840.10008.1.3.10"))


def _other_syntax(data: Any, rng: random.Random) -> None:
    """Say that values are compressed though they are not, or that a code of noise is one."""
    data.PixelData = encapsulate([rng.randbytes(rng.randrange(2, 400)) for _ in range(rng.randint(1, 3))])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = rng.choice((RLELossless, JPEG2000Lossless, "1.2.840.10008.1.2.4.50", "1.2.3.4"))


def _rle_bomb(data: Any, rng: random.Random) -> None:
    """Claim a large slice whose code is a few bytes."""
    code = struct.pack("<16I", 2, 64, 66, *[0] * 13) + bytes((129, 7, 129, 7))
    data.Rows = data.Columns = rng.choice((2000, 12000, 60000))
    data.PixelData = encapsulate([code])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = RLELossless


def _text_tags(data: Any, rng: random.Random) -> None:
    """Character sets that do not fit, and names of any bytes."""
    data.SpecificCharacterSet = rng.choice(("ISO_IR 100", "ISO 2022 IR 87", "nonsense", ["", "ISO 2022 IR 87"]))
    for name in ("PatientName", "SeriesDescription", "StudyDescription"):
        _store(data, name, rng.randbytes(rng.randrange(2, 60)))


CHANGES: tuple[Change, ...] = (
    *(_without, _wrong_text, _large, _odd_numbers, _other_kind, _other_syntax, _rle_bomb, _text_tags),
)


def _written(data: Any) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=False, force_encoding=False, overwrite=True)
    return stream.getvalue()


def _bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file's bytes: some of them, its end, or a length between its tags."""
    kind = rng.choice(("bits", "cut", "lengths", "ends early"))
    if kind == "cut":
        return kind, content[: rng.randrange(len(content))]
    if kind == "ends early":
        return kind, content[: 132 + rng.randrange(600)]
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        if kind == "bits":
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            place = rng.randrange(132, min(len(content), 2000))
            size = rng.choice((1, 2, 4))
            changed[place : place + size] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", rng.randbytes(4)))[:size]
    return kind, bytes(changed)


def _deflated(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Deflate everything behind the file's first group; now and then hundreds of megabytes of zeros follow."""
    data = pydicom.dcmread(io.BytesIO(content))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = _written(data)
    if rng.random() < 0.5:
        return "deflated", _bytes(whole, rng)[1]
    start = 144 + int.from_bytes(whole[140:144], "little")  # behind the length of the first group, and that group
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    tags = unpack.decompress(whole[start:]).partition(b"\xe0\x7f\x10\x00OW")[0]
    pack = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = [pack.compress(tags), pack.compress(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, BOMB))]
    packed += [pack.compress(bytes(1 << 20)) for _ in range(BOMB >> 20)]
    return "bomb", whole[:start] + b"".join(packed) + pack.flush()


BOMB = 300 << 20
"""Bytes that a deflated bomb unpacks to."""


def damage_dicom(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return how a DICOM file was damaged, and it.

    Args:
        content: the healthy file.
        rng: draws the damage.
    """
    drawn = rng.random()
    if drawn < 0.4:
        return _bytes(content, rng)
    if drawn < 0.45:
        return _deflated(content, rng)
    data = pydicom.dcmread(io.BytesIO(content))
    change = rng.choice(CHANGES)
    try:
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            change(data, rng)
            return change.__name__[1:], _written(data)
    except (IndexError, ValueError, TypeError, AttributeError, LookupError):  # tags that pydicom cannot write
        return _bytes(content, rng)
