"""Unpacks archives from the net: nothing outside the folder, no links or devices, bounded, all or nothing."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from medseg.errors import MedsegError

__all__ = ["ArchiveError", "extract"]

_CHUNK = 1 << 18
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,
    RuntimeError,
)


class ArchiveError(MedsegError):
    """An archive is damaged or tries something forbidden; the message names archive and member."""


@dataclass
class _Target:
    """The temporary folder that is filled, with what is left of the limits."""

    archive: Path
    folder: Path
    max_bytes: int
    max_files: int
    seen: set[PurePosixPath] = field(default_factory=set)
    written: int = 0

    def place(self, name: str, *, is_folder: bool) -> Path:
        """Check a member's name and return where it goes."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
            raise self.error(name, "its name leads outside the folder")
        if not path.parts:
            if is_folder:
                return self.folder
            raise self.error(name, "it has no name")
        if path in self.seen and not is_folder:
            raise self.error(name, "it is there twice")
        self.seen.add(path)
        if len(self.seen) > self.max_files:
            raise self.error(name, f"the archive has more than {self.max_files} members")
        return self.folder / path

    def add_folder(self, name: str) -> None:
        self.place(name, is_folder=True).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, source: IO[bytes]) -> None:
        place = self.place(name, is_folder=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            while chunk := source.read(_CHUNK):
                self.written += len(chunk)
                if self.written > self.max_bytes:
                    raise self.error(name, f"the archive unpacks to more than {self.max_bytes} bytes")
                file.write(chunk)

    def error(self, member: str, reason: str) -> ArchiveError:
        return ArchiveError(
            f"{self.archive}: member {member!r}: {reason}; nothing was unpacked. Do not trust this file"
        )


def extract(
    archive: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    max_bytes: int = 64 * 2**30,
    max_files: int = 1_000_000,
) -> Path:
    """Unpack a zip or tar archive (also gz, bz2, xz) into a new folder.

    Only files and folders are unpacked, with default permissions. Everything goes to a temporary folder first, which
    is renamed at the end: after an error nothing is left.

    Args:
        archive: the file.
        folder: the folder to make; it must not exist or be empty.
        max_bytes: limit on the bytes really written, whatever the archive's headers claim.
        max_files: limit on the number of members.

    Raises:
        ArchiveError: if the archive is damaged, exceeds a limit, or holds an absolute path, a path with ``..``, a
            link, a device, an encrypted or a repeated member.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArchiveError(f"{archive}: {folder} exists already; name a new or empty folder")
    if not archive.is_file():
        raise ArchiveError(f"{archive}: no such file; correct the path or download it again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    target = _Target(archive, temporary, max_bytes, max_files)
    member = ["the beginning"]
    try:
        for name in _members(archive, target):
            member[0] = name
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except _DAMAGE as error:
        raise ArchiveError(
            f"{archive}: damaged or incomplete after member {member[0]!r} ({error or type(error).__name__}); "
            "nothing was unpacked. Download it again"
        ) from error
    except OSError as error:
        raise ArchiveError(f"{archive}: cannot be unpacked after member {member[0]!r} ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _members(archive: Path, target: _Target) -> Iterator[str]:
    """Unpack member by member, yielding the names."""
    if zipfile.is_zipfile(archive):
        yield from _unzip(archive, target)
    elif tarfile.is_tarfile(archive):
        yield from _untar(archive, target)
    else:
        raise ArchiveError(f"{archive}: neither a zip nor a tar archive, or damaged; download it again")


def _unzip(archive: Path, target: _Target) -> Iterator[str]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            name = member.orig_filename
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise target.error(name, "it is a link or a device")
            if member.flag_bits & 1:
                raise target.error(name, "it is encrypted")
            if member.is_dir():
                target.add_folder(name)
            else:
                with file.open(member) as source:
                    target.add_file(name, source)
            yield name


def _untar(archive: Path, target: _Target) -> Iterator[str]:
    with tarfile.open(archive) as file:
        for member in file:
            if member.isdir():
                target.add_folder(member.name)
            elif member.isreg():
                source = file.extractfile(member)
                if source is None:
                    raise target.error(member.name, "it has no content")
                with source:
                    before = target.written
                    target.add_file(member.name, source)
                if target.written - before != member.size:
                    raise EOFError(f"{member.name} has {target.written - before} of {member.size} bytes")
            else:
                raise target.error(member.name, "it is a link or a device")
            yield member.name
        # tarfile takes a file that stops between two members for a whole one; a whole one ends with zeros
        if file.fileobj is None:
            raise EOFError("no content")
        file.fileobj.seek(file.offset)
        end = file.fileobj.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE or any(end):
            raise EOFError("the end of the archive is missing")
