"""What is wrong with a case, or with the place that its outputs go to, from whatever was raised."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import counted, one_line, together
from medseg.prediction.cases import InputError

__all__ = ["FailuresError", "no_space", "reason", "said_of"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SHOWN = 20


class FailuresError(InputError):
    """Cases that could not be done, or files that were left out, at the end of a run that did all others."""


def said_of(failures: Sequence[tuple[Path, str]], cases: int, left_out: Sequence[tuple[Path, str]]) -> list[str]:
    """Return what could not be done and what was left out, a text each.

    Args:
        failures: of cases, with the reason.
        cases: how many were to be done.
        left_out: files that are no case, with the reason.
    """
    said = []
    if failures:
        lines = "\n".join(f"  {line}" for line in together(failures, "image"))
        said.append(f"{len(failures)} of {cases} images could not be done:\n{lines}")
    if left_out:
        lines = "\n".join(f"  {line}" for line in together(left_out)[:_SHOWN])
        said.append(f"left out {counted(len(left_out), 'file')}:\n{lines}")
    return said


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
