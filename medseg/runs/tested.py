"""When a test list was looked at, by which weights: kept beside them, so that a second look is not taken for a first.

A look is on record in ``tested.json`` of each run whose weights are scored (of weights in no run, of the folder that
their file lies in) and of the study whose cell a run is, from before it begins. How often a test list was looked at
before is asked there, and in the same file of the folders beside these: runs in one folder know each other's looks.
Looks count that have an image in common, by the bytes of its files, whatever the datalist calls it.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError, counted, few, shown
from medseg.runs.lock import locked
from medseg.runs.run_folder import STUDY, RunFolder

__all__ = ["TESTED", "before", "note", "on_record", "read", "said"]

logger = logging.getLogger(__name__)

TESTED = "tested.json"
_LOCK, _PATIENCE = ".tested.lock", 60.0  # seconds: writing a look takes milliseconds


@contextmanager
def on_record(runs: Sequence[Path], what: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Write down a look at a test list: that it begins, and that it has ended where nothing breaks it off.

    Args:
        runs: folders of those whose weights are scored.
        what: is to be known of it, as plain values, among them ``images``, see `before`.

    Yields:
        The look as it is on record: ``id``, ``began``, ``ended``, ``before``, the days of those before, and ``what``.

    Raises:
        MedsegError: if a record cannot be read: how often the test list was looked at is then not known.
    """
    earlier = before(runs, what["images"])
    look = {"id": secrets.token_hex(8), "began": _now(), "ended": None, **what, "before": len(earlier)}
    places = [place for place in _places(runs) if _noted(place, look)]
    yield {**look, "said": said(earlier)}
    ended = {**look, "ended": _now()}  # the same in all
    for place in places:
        _noted(place, ended)


def before(runs: Sequence[Path], images: Sequence[str]) -> list[dict[str, Any]]:
    """Return the looks at any of some images that are on record, each once, the first first.

    Args:
        runs: folders of those that are to be scored.
        images: hashes of the images' bytes.

    Raises:
        MedsegError: if a record of one of the runs, or of its study, cannot be read.
    """
    own, wanted = _places(runs), set(images)
    beside = {path.parent for parent in {place.parent for place in own} for path in parent.glob(f"*/{TESTED}")}
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(beside.difference(own)):
        try:
            found |= {each["id"]: each for each in read(folder)}
        except MedsegError as error:
            logger.warning("%s; its looks are not counted here", error)
    for folder in own:
        found |= {each["id"]: each for each in read(folder)}
    return sorted((each for each in found.values() if wanted & set(each["images"])), key=lambda each: each["began"])


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the looks that a folder's record holds, the first first.

    Args:
        folder: of a run, or of a study.

    Raises:
        MedsegError: if the record cannot be read.
    """
    path = folder / TESTED
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return [
            {**each, "id": str(each["id"]), "began": str(each["began"]), "images": [*each["images"]]} for each in held
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedsegError(
            f"{shown(path)} does not say when the test list was looked at ({type(error).__name__}); restore the file"
        ) from error


def note(folder: Path, look: Mapping[str, Any]) -> None:
    """Write a look into a folder's record, or what has become of one that is in it; others may do so meanwhile.

    Args:
        folder: of a run, or of a study.
        look: ``id``, ``began``, ``images`` and whatever else is to be known of it, as plain values.
    """
    with locked(folder, _PATIENCE, _LOCK):
        held = {each["id"]: each for each in read(folder)}
        RunFolder(folder).write_json(TESTED, [*({**held, str(look["id"]): dict(look)}).values()])


def said(looks: Sequence[Mapping[str, Any]]) -> str:
    """Return how often a test list was looked at, in a line.

    Args:
        looks: see `before`.
    """
    if not looks:
        return "tested for the first time"
    days = [f"{each['began'][:10]}{'' if each.get('ended') else ' (not finished)'}" for each in looks]
    return f"tested {counted(len(looks), 'time')} before, on {few(days)}"


def _noted(place: Path, look: Mapping[str, Any]) -> bool:
    """Write a look down, and return whether that could be: weights that nobody may write beside can be scored."""
    try:
        note(place, look)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s): it does not say that the test list is looked at",
            shown(place / TESTED),
            error.strerror,
        )
        return False
    return True


def _places(runs: Sequence[Path]) -> list[Path]:
    """Return the folders whose records a look stands in: of studies, then of their cells and other runs."""
    above = [folder for run in runs for folder in (run.parent.parent, run.parent.parent.parent)]  # cells/, unfinished/
    return list(dict.fromkeys([*(folder for folder in above if (folder / STUDY).is_file()), *runs]))


def _now() -> str:
    """Return the time as records have it, UTC to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
