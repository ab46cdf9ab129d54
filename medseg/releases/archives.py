"""Unpacks archives from the net: nothing outside the folder, no links or devices, bounded, all or nothing."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from medseg.errors import MedsegError, shown

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
    ValueError,  # numbers and names in headers that are none
    OverflowError,
    MemoryError,
    LookupError,
    struct.error,
)
_LONGEST_NAME = 4096  # characters of a member's path; longer ones no file system takes
_DEEPEST = 64  # folders one in another, each of which a single name can ask for
_LARGEST_HEADER = 2**20  # bytes of a tar's extended header, which tarfile reads into memory at once
_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
)  # fmt: skip
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of a file in it, of an empty archive
_ZIP_LOCAL_HEADER = 30


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
    members: int = 0
    written: int = 0

    def place(self, name: str, *, is_folder: bool) -> Path:
        """Check a member's name and return where it goes."""
        self.members += 1  # not of `seen`: a folder may come again and again
        if self.members > self.max_files:
            raise self.error(name, f"the archive has more than {self.max_files} members")
        path = PurePosixPath(name)
        if len(name) > _LONGEST_NAME or len(path.parts) > _DEEPEST:
            raise self.error(name, f"its name has {len(name)} characters in {len(path.parts)} parts, too many")
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
            raise self.error(name, "its name leads outside the folder")
        if not path.parts:
            if is_folder:
                return self.folder
            raise self.error(name, "it has no name")
        if path in self.seen and not is_folder:
            raise self.error(name, "it is there twice")
        self.seen.add(path)
        return self.folder / path

    def add_folder(self, name: str) -> None:
        self.place(name, is_folder=True).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, source: IO[bytes]) -> None:
        place = self.place(name, is_folder=False)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            while chunk := source.read(_CHUNK):
                self.count(name, len(chunk))
                file.write(chunk)

    def count(self, name: str, size: int) -> None:
        """Count bytes that were unpacked."""
        self.written += size
        if self.written > self.max_bytes:
            raise self.error(name, f"the archive unpacks to more than {self.max_bytes} bytes")

    def error(self, member: str, reason: str) -> ArchiveError:
        return ArchiveError(
            f"{shown(self.archive)}: member {member[:200]!r}: {reason}; nothing was unpacked. Do not trust this file"
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
    is renamed at the end: after an error nothing is left. Checksums that the format has are read to their end.

    Args:
        archive: the file.
        folder: the folder to make; it must not exist or be empty.
        max_bytes: limit on the bytes really written, whatever the archive's headers claim.
        max_files: limit on the number of members.

    Raises:
        ArchiveError: if the archive is damaged, exceeds a limit, or holds an absolute path, a path with ``..``, a
            link, a device, an encrypted, sparse or repeated member, members that share bytes, or headers or names that
            are longer than any honest one.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArchiveError(f"{shown(archive)}: {shown(folder)} exists already; name a new or empty folder")
    if not archive.is_file():
        raise ArchiveError(f"{shown(archive)}: no such file; correct the path or download it again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    target = _Target(archive, temporary, max_bytes, max_files)
    member = ["the beginning"]
    try:
        for name in _members(archive, target):
            member[0] = name
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except ArchiveError:
        raise
    except _ForbiddenHeaderError as error:
        raise target.error(member[0], f"after it, {error}") from error
    except _DAMAGE as error:
        reason = shown(error)[:200] or type(error).__name__
        raise ArchiveError(
            f"{shown(archive)}: damaged or incomplete after member {member[0][:200]!r} ({reason}); "
            "nothing was unpacked. Download it again"
        ) from error
    except OSError as error:
        raise ArchiveError(
            f"{shown(archive)}: cannot be unpacked after member {member[0][:200]!r} ({shown(error)[:300]}); correct "
            "that, or name another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _members(archive: Path, target: _Target) -> Iterator[str]:
    """Unpack member by member, yielding the names."""
    with archive.open("rb") as file:
        start = file.read(4)
    if start in _ZIP_STARTS:  # `is_zipfile` looks at the end, where a tar may have a zip as its last member
        yield from _unzip(archive, target)
        return
    try:
        opened = tarfile.open(archive, tarinfo=_BoundedInfo)  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise ArchiveError(
            f"{shown(archive)}: neither a zip nor a tar archive, or damaged; download it again"
        ) from error
    with opened as tar:
        yield from _untar(tar, target)


def _unzip(archive: Path, target: _Target) -> Iterator[str]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        if len(members) > target.max_files:
            raise target.error(members[-1].orig_filename, f"the archive has more than {target.max_files} members")
        _refuse_shared_bytes(members, target)
        for member in members:
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


def _refuse_shared_bytes(members: list[zipfile.ZipInfo], target: _Target) -> None:
    """Refuse members that lie in one another, of which a few kilobytes unpack to terabytes.

    D. Fifield, "A better zip bomb", WOOT 2019, https://www.usenix.org/conference/woot19/presentation/fifield
    """
    ordered = sorted(members, key=lambda member: member.header_offset)
    for member, following in itertools.pairwise(ordered):
        if member.header_offset + _ZIP_LOCAL_HEADER + member.compress_size > following.header_offset:
            raise target.error(following.orig_filename, "it shares bytes with another member")


class _ForbiddenHeaderError(Exception):
    """A tar's header asks for what no honest one needs."""


class _BoundedInfo(tarfile.TarInfo):
    """A tar's header whose extensions are bounded before they are read."""

    def _proc_member(self, tar: Any) -> Self:  # the hook that `tarfile.TarInfo` documents for subclasses
        if self.type in _EXTENDED and self.size > _LARGEST_HEADER:
            raise _ForbiddenHeaderError(f"an extended header claims {self.size} bytes, more than {_LARGEST_HEADER}")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]

    def _refuse_sparse(self, *_: Any) -> Self:
        raise _ForbiddenHeaderError(f"{self.name[:200]!r} is sparse: a few bytes of it unpack to any size")

    # All ways that a tar has to say so; their maps of holes are lists of any length.
    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _untar(file: tarfile.TarFile, target: _Target) -> Iterator[str]:
    name = ""
    while (member := file.next()) is not None:
        name = member.name
        if member.issparse():  # reached only where a later Python names the hooks of `_BoundedInfo` otherwise
            raise target.error(name, "it is sparse")
        if member.isdir():
            target.add_folder(name)
        elif member.isreg():
            source = file.extractfile(member)
            if source is None:
                raise target.error(name, "it has no content")
            with source:
                before = target.written
                target.add_file(name, source)
            if target.written - before != member.size:
                raise EOFError(f"{name} has {target.written - before} of {member.size} bytes")
        else:
            raise target.error(name, "it is a link or a device")
        file.members.clear()  # type: ignore[attr-defined] # else every header stays in memory
        yield name
    # tarfile takes a file that stops between two members for a whole one; a whole one ends with zeros
    if file.fileobj is None:
        raise EOFError("no content")
    file.fileobj.seek(file.offset)
    end = file.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise EOFError("the end of the archive is missing")
    while chunk := file.fileobj.read(_CHUNK):  # gzip's and xz' checksums stand at the very end
        target.count(name, len(chunk))
