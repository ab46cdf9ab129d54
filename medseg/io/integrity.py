"""Does a file hold what its header claims? Checked before memory is asked for, and checksums are read to their end.

A damaged header may claim gigabytes, and a few flipped bits may leave an image that looks right: formats that carry a
checksum (gzip, zlib, PNG) are verified by it, the others by their length; a PNG by both.
"""

from __future__ import annotations

import gzip
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from medseg.io.image_file import ImageError

__all__ = [
    "DEFLATE_RATIO",
    "MAX_VOXELS",
    "check_claim",
    "check_count",
    "check_png",
    "file_size",
    "open_stream",
    "read_bytes",
]

MAX_VOXELS = 2**31
"""Largest number of values a file may claim to hold, read from its header before anything is decoded."""

DEFLATE_RATIO = 1032
"""Most bytes that one byte of a deflate stream can stand for (zlib's technical notes): gzip, zlib, PNG, TIFF."""

_SLACK = 1 << 16
_CHUNK = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 13  # bytes
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: first column and row, and steps between columns and rows (PNG specification, 8.2)."""


def file_size(path: Path) -> int:
    """Return the size of a regular file in bytes.

    Raises:
        ImageError: if it is empty, or a pipe, a device, a socket or a folder: opening one could wait for ever.
        OSError: if there is none.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise ImageError(f"{path}: is a {kind}, not a file; name the image file")
    if status.st_size == 0:
        raise ImageError(f"{path}: is empty (0 bytes); restore the file")
    return status.st_size


def check_count(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a shape that is empty, negative or of more than `MAX_VOXELS` values.

    Raises:
        ImageError: naming the shape.
    """
    claim = "x".join(map(str, shape))
    if any(edge <= 0 for edge in shape):
        raise ImageError(f"{path}: holds no pixels (shape {claim}); restore the file")
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(
            f"{path}: claims {claim} values, more than {MAX_VOXELS}; if it is not damaged, cut it into parts"
        )


def check_claim(path: Path, shape: tuple[int, ...], claimed: float, stored: int, ratio: float = 1) -> None:
    """Refuse a header that claims more than the bytes there can hold.

    Args:
        path: for the message.
        shape: claimed, of all values.
        claimed: size of the decoded values in bytes.
        stored: bytes that are there for them.
        ratio: most decoded bytes that a stored byte can stand for; 1 where nothing is compressed.

    Raises:
        ImageError: naming both.
    """
    check_count(path, shape)
    if claimed > stored * ratio + (_SLACK if ratio > 1 else 0):
        raise ImageError(
            f"{path}: its header claims {'x'.join(map(str, shape))} values ({claimed:.0f} bytes), but only {stored} "
            "bytes are there for them; it is cut off or damaged, restore the file"
        )


@contextmanager
def open_stream(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    """Open a file for reading from its start to its end, through gzip where it is compressed."""
    if compressed:
        with gzip.open(path) as unpacked:
            yield unpacked  # type: ignore[misc]
    else:
        with path.open("rb") as file:
            yield file


def read_bytes(path: Path, stream: BinaryIO, skip: int, count: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Read bytes from a stream and go on to its end, since gzip's checksum stands behind the last byte.

    The memory is asked for at once, but takes up space only as bytes arrive.

    Args:
        path: for messages.
        stream: positioned anywhere before the bytes.
        skip: bytes to leave out first.
        count: bytes to read.

    Returns:
        The bytes, and how many more follow them, counted up to a mebibyte.

    Raises:
        ImageError: if there are fewer, or far more.
    """
    while skip > 0 and (left_out := stream.read(min(skip, _CHUNK))):
        skip -= len(left_out)
    values = np.empty(count, np.uint8)
    view, done = values.data, 0
    while done < count and (got := stream.readinto(view[done : done + _CHUNK])):  # type: ignore[attr-defined]
        done += got
    if skip or done < count:
        raise ImageError(f"{path}: ends too early, {done} of {count} bytes of values are there; restore the file")
    more = 0
    while part := stream.read(_CHUNK):
        more += len(part)
        if more > _CHUNK:
            raise ImageError(f"{path}: holds far more than the {count} bytes its header claims; restore the file")
    return values, more


def check_png(path: Path) -> tuple[int, int]:
    """Verify the checksum of every chunk of a PNG, and that its pixels are as many as its header says.

    Decoders skip some checksums, and stop when they have all pixels: of a header that says fewer columns than there
    are, each row would begin within another.

    Returns:
        Bits a sample, and the colour type (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA).

    Raises:
        ImageError: if one is wrong, the file ends before its end mark, or the pixels do not fit the header.
    """
    header, packed, found, wanted = b"", 0, 0, 0
    shape: tuple[int, ...] = ()
    stream = zlib.decompressobj()
    for kind, parts in _chunks(path):
        if kind == b"IHDR" and sum(map(len, parts)) == _PNG_HEADER:
            header = parts[0]
            shape, wanted = _png_size(header)
            check_count(path, shape)
        elif kind == b"IDAT":
            packed += sum(map(len, parts))
            found += sum(_unpacked(path, stream, part, wanted) for part in parts if found <= wanted)
    if not header:
        raise ImageError(f"{path}: damaged (no header chunk); restore the file")
    bits, colour = header[8], header[9]
    check_claim(path, shape, math.prod(shape) * bits / 8, packed, DEFLATE_RATIO)
    if found != wanted:
        there = "more" if found > wanted else f"{found}"
        raise ImageError(
            f"{path}: its header claims {'x'.join(map(str, shape))} values of {bits} bits, whose rows are {wanted} "
            f"bytes, but {there} are there; header or pixels are damaged, restore the file"
        )
    return bits, colour


def _chunks(path: Path) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield kind and bytes of each chunk of a PNG up to its end mark, when its checksum is verified."""
    kind = b""
    with path.open("rb") as file:
        file.seek(len(_PNG))
        while kind != b"IEND":
            start = file.read(8)
            length, kind = struct.unpack(">I4s", start) if len(start) == 8 else (0, b"")
            left = os.fstat(file.fileno()).st_size - file.tell()
            if not kind or length + 4 > left:
                raise ImageError(f"{path}: ends too early, before its end mark; restore the file")
            checksum = zlib.crc32(kind)
            parts = [file.read(min(_CHUNK, length - begin)) for begin in range(0, length, _CHUNK)]
            for part in parts:
                checksum = zlib.crc32(part, checksum)
            if struct.unpack(">I", file.read(4))[0] != checksum:
                name = kind.decode("ascii", "backslashreplace")
                raise ImageError(f"{path}: damaged (checksum of its {name} chunk does not fit); restore the file")
            yield kind, parts


def _png_size(header: bytes) -> tuple[tuple[int, int, int], int]:
    """Return the shape ``(H, W, samples)`` that a PNG's header claims, and the bytes of its rows when unpacked."""
    width, height, bits, colour = struct.unpack(">IIBB", header[:10])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    rows = 0
    for left, top, across, down in _PASSES if header[12] else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            rows += lines * (1 + -(-columns * samples * bits // 8))  # each row begins with the byte of its filter
    return (height, width, samples), rows


def _unpacked(path: Path, stream: zlib._Decompress, packed: bytes, most: int) -> int:
    """Return how many bytes packed ones stand for, counted a little beyond the most that they should be."""
    count = 0
    try:
        while count <= most and (got := stream.decompress(packed, _CHUNK)):
            count += len(got)
            packed = stream.unconsumed_tail
    except zlib.error as error:
        raise ImageError(f"{path}: damaged (its pixels: {error}); restore the file") from error
    return count
