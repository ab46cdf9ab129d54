"""What a file that cannot be read as its name says really holds, by its first bytes: a hint for the message."""

from __future__ import annotations

from pathlib import Path

__all__ = ["told_by_contents"]

_HEAD = 512
_DICOM_PREAMBLE = 128
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
_TIFF = (".tif", ".tiff")

_STARTS: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (  # first bytes, what they are, names that fit
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", _PICTURES),
    (b"\xff\xd8\xff", "a JPEG picture", _PICTURES),
    (b"II*\0", "a TIFF", _TIFF),
    (b"MM\0*", "a TIFF", _TIFF),
    (b"II+\0", "a TIFF", _TIFF),
    (b"MM\0+", "a TIFF", _TIFF),
    (b"NRRD000", "an NRRD volume", (".nrrd",)),
    (b"GIF8", "a GIF", ()),
    (b"PK\x03\x04", "a ZIP archive", ()),
    (b"%PDF", "a PDF document", ()),
)
_POINTERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch it: git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself; fetch it: git annex get"),
)
_PAGES = (b"<!doctype html", b"<html")
_BOXES = {b"heic": "a HEIC picture", b"heix": "a HEIC picture", b"mif1": "a HEIF picture", b"avif": "an AVIF picture"}


def told_by_contents(path: Path) -> str | None:
    """Return what a file holds and what to do about it, where that is no kind that its name stands for.

    Args:
        path: of a file that could not be read.

    Returns:
        Such as ``"holds a TIFF, whatever its name says; rename it"``; ``None`` where its first bytes say nothing.
    """
    start = _start(path)
    for first, what in _POINTERS:
        if start.startswith(first):
            return f"holds {what}"
    if start.lstrip().lower().startswith(_PAGES):
        return "holds a web page, such as the answer of a server that had no such file; download it again"
    what, suffixes = _kind(start)
    return None if not what or path.name.lower().endswith(suffixes) else _other(what, suffixes)


def _start(path: Path) -> bytes:
    if not path.is_file():  # a pipe would keep us waiting
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _kind(start: bytes) -> tuple[str, tuple[str, ...]]:
    """Return what first bytes belong to, and the suffixes that fit; nothing where they are unknown."""
    if start[_DICOM_PREAMBLE : _DICOM_PREAMBLE + 4] == b"DICM":  # first: of slides its preamble begins as a TIFF does
        return "a DICOM file", (".dcm", ".dicom", ".ima")
    for first, what, suffixes in _STARTS:
        if start.startswith(first):
            return what, suffixes
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP picture", ()
    return (_BOXES.get(start[8:12], "") if start[4:8] == b"ftyp" else ""), ()


def _other(what: str, suffixes: tuple[str, ...]) -> str:
    remedy = f"call it {suffixes[0]}" if suffixes else "convert it to a format that is read, such as PNG or NIfTI"
    return f"holds {what}, whatever its name says; {remedy}"
