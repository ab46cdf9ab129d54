"""What is wrong with a case, or with the place that its outputs go to, from whatever was raised."""

from __future__ import annotations

import errno

from medseg.errors import one_line

__all__ = ["no_space", "reason"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def no_space(error: BaseException) -> bool:
    """Return whether a disk is full, or cannot be written to."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def reason(error: BaseException) -> str:
    """Return the first line of what is wrong, not of MONAI's "applying transform ..." around it."""
    said = one_line(error)
    if said is None:
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        said = str(error).strip()
        if not isinstance(error, ValueError | RuntimeError | OSError):  # nothing that a program says to a person
            said = f"{type(error).__name__}: {said}"
    lines = said.splitlines()
    return lines[0] if lines else type(error).__name__
