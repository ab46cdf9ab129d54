"""When a test set was touched, by which weights: kept beside them, so that a second look is not taken for a first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, counted, shown
from medseg.runs.run_folder import RunFolder

__all__ = ["TESTED", "before", "note", "now", "said"]

TESTED = "tested.json"


def now() -> str:
    """Return the time as records have it, UTC to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the tests that a folder's record holds, the first first.

    Args:
        folder: of a run, or of a study.

    Raises:
        MedsegError: if the record cannot be read: how often a test set was touched is then not known.
    """
    path = folder / TESTED
    if not path.is_file():
        return []
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return [{**each, "id": str(each["id"]), "began": str(each["began"])} for each in held]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedsegError(
            f"{shown(path)} does not say when the test set was touched ({type(error).__name__}); restore the file"
        ) from error


def note(folder: Path, test: Mapping[str, Any]) -> None:
    """Write a test into a folder's record, or what has become of one that is in it.

    Args:
        folder: of a run, or of a study.
        test: ``id``, ``began`` and whatever else is to be known of it, as plain values.
    """
    held = {each["id"]: each for each in read(folder)}
    RunFolder(folder).write_json(TESTED, [*({**held, str(test["id"]): dict(test)}).values()])


def before(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the tests that records hold, each once, the first first.

    Args:
        folders: of a study and its runs.
    """
    found = {each["id"]: each for folder in reversed(folders) for each in read(folder)}
    return sorted(found.values(), key=lambda each: each["began"])


def said(tests: Sequence[Mapping[str, Any]]) -> str:
    """Return how often a test set was touched, in a line.

    Args:
        tests: see `before`.
    """
    if not tests:
        return "tested for the first time"
    days = [f"{each['began'][:10]}{'' if each.get('ended') else ' (not finished)'}" for each in tests]
    return f"tested {counted(len(tests), 'time')} before, on {', '.join(days)}"
