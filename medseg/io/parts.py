"""The files that an image is read from: mostly one, but the slices of a DICOM series, or a header and its values."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from medseg.io import dicom, itk_formats, nifti
from medseg.io.channels import Named, paths_of

__all__ = [
    *("content_hash", "file_hash", "file_stamp", "hash_of_parts", "known_as", "parts_of", "parts_read"),
    *("stamp_of_parts", "stored_bytes"),
]


def parts_of(path: Path) -> tuple[Path, ...]:
    """Return every file that an image is read from, sorted; of one that cannot be read, itself.

    Of the folder of a DICOM series, it is every DICOM file in it, also what lies beside the series, as no file is
    opened for it; see `parts_read`.

    Args:
        path: of the image: a file, or the folder of a DICOM series.

    Raises:
        OSError: if there is none.
    """
    if path.is_dir():
        return tuple(sorted(file for file in path.iterdir() if dicom.is_dicom(file)))
    path.stat()
    name = path.name.lower()
    try:
        if dicom.is_dicom(path):
            return dicom.series_files(path)
        if name.endswith(".mhd"):
            return itk_formats.files_of(path)
        if name.endswith(".hdr"):
            return (path, nifti.values_of_pair(path))
    except Exception:  # a damaged file raises nearly anything, and so does its reader, which says what is wrong
        return (path,)
    return (path,)


def known_as(image: Named) -> set[str]:
    """Return every path by which a list may name an image: its files, and of a slice the folder of its series.

    A DICOM series is named by its folder or by any of its slices; two names of one image have a path in common.

    Args:
        image: as a datalist names it.
    """
    found: set[Path] = set()
    for path in paths_of(image):
        found.add(path)
        with contextlib.suppress(OSError):  # who reads it says that it is missing
            found |= set(parts_of(path))
            if path.is_file() and dicom.is_dicom(path):
                found.add(path.parent)
    return {str(path.resolve()) for path in found}


def parts_read(image: Named) -> list[tuple[Path, ...]]:
    """Return the files that each channel of an image is read from, sorted: of a folder those of its series alone.

    Args:
        image: as a datalist names it.

    Raises:
        OSError: if a file is missing.
    """
    channels = []
    for path in paths_of(image):
        files = parts_of(path)
        if path.is_dir():
            with contextlib.suppress(Exception):  # its reader says what is wrong; all files then
                files = dicom.series_files(path)
        channels.append(files)
    return channels


def hash_of_parts(channels: Iterable[Sequence[Path]]) -> str:
    """Return the SHA-256 of what `parts_read` returns, whatever the files are called.

    Of one of several files, such as a DICOM series, it is that of their hashes in ascending order; of one file a
    channel, that of the channels' hashes in their order.

    Args:
        channels: files of each.

    Raises:
        OSError: if one cannot be read.
    """
    found = []
    for parts in channels:
        hashes = sorted(map(file_hash, parts))
        found.append(hashes[0] if len(hashes) == 1 else _joined(hashes))
    return found[0] if len(found) == 1 else _joined(found)


def content_hash(image: Named) -> str:
    """Return the SHA-256 of an image's bytes, see `hash_of_parts`.

    Args:
        image: as a datalist names it.

    Raises:
        OSError: if a file cannot be read.
    """
    return hash_of_parts(parts_read(image))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(image: Named) -> str:
    """Return what the file system says of an image's files: sizes, times of change and numbers of the files.

    It is another one where a file was replaced, written, or copied from elsewhere, and stays where folders are renamed.
    The same stamp is the same bytes; another one may be, too.

    Args:
        image: as a datalist names it.

    Raises:
        OSError: if a file is missing.
    """
    return stamp_of_parts(map(parts_of, paths_of(image)))


def stamp_of_parts(channels: Iterable[Sequence[Path]]) -> str:
    """Return the stamp of files, see `file_stamp`.

    Args:
        channels: files of each; empty of no file.

    Raises:
        OSError: if one is missing.
    """
    found = []
    for part in chain.from_iterable(channels):
        status = part.stat()
        found.append(f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}")
    return found[0] if len(found) == 1 else _joined(found) if found else ""


def _joined(found: Sequence[str]) -> str:
    return hashlib.sha256("".join(found).encode()).hexdigest()


def stored_bytes(image: Named) -> int:
    """Return the bytes of the files that an image is read from, as far as they are there."""
    parts = [part for path in paths_of(image) if path.exists() for part in parts_of(path)]
    return sum(os.path.getsize(part) for part in parts if part.exists())
