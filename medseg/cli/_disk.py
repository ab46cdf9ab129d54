"""What a disk refuses, in one line: full, read-only, or not for this user."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["refused"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_LITTLE = 1 << 20  # bytes: a place with less is taken for the full one, where the system does not say which


def refused(error: BaseException | None, places: Iterable[Path]) -> str | None:
    """Return what a disk refused and what helps; ``None`` of any other error.

    One that is full is looked for in whatever was raised since, as files that are closed then fail too; a right that
    lacks only in causes, as what was tried in vain before another fault is not the fault.

    Args:
        error: what was raised, whatever was wrapped around it.
        places: folders that a command writes to, beside the cache and the folder of temporary files.
    """
    seen: set[int] = set()
    looked_for: tuple[int, ...] = (*_FULL, *_FORBIDDEN)
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in looked_for:
            return _said(error, places)
        seen.add(id(error))
        if error.__cause__ is None:
            looked_for = _FULL
        error = error.__cause__ or error.__context__
    return None


def _said(error: OSError, places: Iterable[Path]) -> str:
    reason = os.strerror(error.errno or 0)
    if error.errno in _FORBIDDEN:
        return f"{error.filename or 'a file'}: {reason}; change the rights of it, or name another place"
    from medseg.data.file_facts import cache_folder

    if error.filename:
        return f"{error.filename}: {reason}; make room there, or name another place"
    named = {"": list(places), " (MEDSEG_CACHE)": [cache_folder()], " (TMPDIR)": [Path(tempfile.gettempdir())]}
    full = [f"{place}{setting}" for setting, held in named.items() for place in held if _is_full(place)]
    return f"{', '.join(full) or 'a disk'}: {reason}; make room there, or name another place"


def _is_full(place: Path) -> bool:
    there = next((each for each in (place, *place.absolute().parents) if each.is_dir()), None)
    return there is not None and shutil.disk_usage(there).free < _LITTLE
