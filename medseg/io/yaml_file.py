"""YAML that a person has written: read, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, shown

__all__ = ["read_yaml"]


def read_yaml(path: Path, fault: type[MedsegError], wanted: str) -> Any:
    """Return what a file holds.

    Args:
        path: of the file.
        fault: is raised.
        wanted: what is to be named instead of a file that is not there.

    Raises:
        MedsegError: ``fault``, if it cannot be read or is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise fault(f"{shown(path)}: cannot be read ({error.strerror}); name {wanted}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise fault(f"{shown(path)}: is no YAML ({' '.join(str(error).split())[:200]}); correct it") from error
