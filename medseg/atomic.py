"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.(?P<target>.+)")

LONGEST_NAME = 245
"""Bytes of a file's name that `atomic_write` takes: file systems take 255, and the temporary file's has ten more."""


@contextlib.contextmanager
def atomic_write(path: str | Path, *, sync_name: bool = True) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an exception.

    The temporary file lies in the folder of ``path`` and ends in its whole name, so that writers that choose a format
    by suffix (``.nii.gz``) choose the same one. It reaches the disk before it takes the name, so that a crash leaves
    either the old file or the new one. After an exception the temporary file is gone and ``path`` is as it was.

    Args:
        path: target file; its folder must exist.
        sync_name: wait until the new name would survive a power cut, too. Who writes many files into a folder waits
            once, at their end (`sync_folder`): until then a power cut leaves the old one, or none, never a part.

    Raises:
        FileNotFoundError: if the folder is missing, or the block wrote nothing.
        OSError: if the disk refuses (full, read-only).
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: its folder does not exist; make it first")
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"cannot write {path}: nothing was written to the temporary file {temporary.name}")
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        raise
    if sync_name:
        sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder of the name of ``target`` that becomes ``target`` when the block ends without an exception.

    It lies in ``.unfinished`` beside ``target``; what a killed process left of it there is removed first, so that one
    process at a time may make ``target``. After an exception nothing of it is left.

    Args:
        target: folder, which must not be there.

    Raises:
        OSError: if the disk refuses, or the folder is there and holds something.
    """
    begun = target.parent / ".unfinished" / target.name
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    try:
        yield begun
        os.rename(begun, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds what a process that was killed left of another folder
            begun.parent.rmdir()


@contextlib.contextmanager
def nothing_left(folder: Path, names: Sequence[str], begun: Path) -> Iterator[None]:
    """Remove what a block made in a folder, and folders that were new, if it fails before its work has begun.

    What is interrupted stays, as it can go on.

    Args:
        folder: that the block may make.
        names: of files and folders in it that the block may make; what was there before stays.
        begun: is there once the work has begun.
    """
    there = set(folder.iterdir()) if folder.is_dir() else set()
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except Exception:
        if not begun.exists():
            for made in {folder / name for name in names} - there:
                shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else has put something there
                for empty in new:
                    empty.rmdir()
        raise


def remove_leftovers(folder: str | Path, target: str | None = None, *, seconds: float = 0.0) -> int:
    """Remove temporary files of `atomic_write` that killed processes left, and return how many there were.

    Args:
        folder: to look in, with its subfolders; nobody else may be writing there, unless ``seconds`` tells them apart.
        target: only those of the file of this name, and in ``folder`` itself.
        seconds: only those that nothing was written to for so long.
    """
    removed = 0
    folder = Path(folder)
    for path in folder.rglob(".*") if target is None else folder.glob(f".*.{target}"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or (target is not None and found["target"] != target):
            continue
        with contextlib.suppress(OSError):  # another process may have been quicker
            if time.time() - path.stat().st_mtime >= seconds:
                path.unlink()
                removed += 1
    return removed


def remove_leftovers_of(targets: Iterable[Path], *, seconds: float = 0.0) -> int:
    """Remove temporary files that killed processes left of certain files, and return how many there were.

    Args:
        targets: the files; nobody else may be writing them, unless ``seconds`` tells them apart.
        seconds: only those that nothing was written to for so long.
    """
    wanted, removed = set(targets), 0
    for folder in {target.parent for target in wanted}:
        for path in folder.glob(".*"):
            found = _TEMPORARY.fullmatch(path.name)
            if found is not None and path.with_name(found["target"]) in wanted:
                with contextlib.suppress(OSError):  # another process may have been quicker
                    if time.time() - path.stat().st_mtime >= seconds:
                        path.unlink()
                        removed += 1
    return removed


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; file systems that cannot do this are left alone."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
