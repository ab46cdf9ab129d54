"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an exception.

    The temporary file lies in the folder of ``path`` and ends in its whole name, so that writers that choose a format
    by suffix (``.nii.gz``) choose the same one. It reaches the disk before it takes the name, so that a crash leaves
    either the old file or the new one. After an exception the temporary file is gone and ``path`` is as it was.

    Args:
        path: target file; its folder must exist.

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
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; file systems that cannot do this are left alone."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse to sync a folder; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
