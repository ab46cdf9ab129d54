"""Paths that a user gives, resolved once: from then on nothing depends on the working directory or on ``..``."""

from __future__ import annotations

import os
from pathlib import Path

from medseg.errors import MedsegError


def resolve_path(value: str | os.PathLike[str] | int, option: str = "path") -> Path:
    """Return the absolute path that an option means.

    ``~`` and ``~name`` are home folders. ``..`` and links are followed in the folder part, as the system does it; a
    link at the end stays a link, so that a run and a file keep the name that they were called by.

    Args:
        value: what was given; a whole number is a name of digits.
        option: what to call it in errors.

    Raises:
        MedsegError: if the value is no path.
    """
    if isinstance(value, bool) or not isinstance(value, str | os.PathLike | int):
        raise MedsegError(f"{option} is {value!r} ({type(value).__name__}); give a path, in quotes if it is a number")
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if not text.strip() or "\0" in text:
        raise MedsegError(f"{option} is {text!r}; give a path")
    try:
        path = Path(text).expanduser()
        if path.name in ("", ".."):
            return path.resolve()
        return path.parent.resolve() / path.name
    except (RuntimeError, OSError) as error:  # no such user; links in a circle
        raise MedsegError(f"{option} {text!r} cannot be resolved: {error}; give another path") from error
