"""Which cases a run has seen: recorded when it starts, and looked at before any are called a test of it.

A case is known by the paths that name it, by the content of its files, whatever they are called and wherever they lie,
and by its group (patient, section), of which a training saw other images.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medseg.bundle.library import PLACE
from medseg.caller import spelt
from medseg.data.datalist import Datalist, Entry
from medseg.errors import MedsegError, counted, shown
from medseg.io.channels import first_of, paths_of
from medseg.io.parts import known_as

__all__ = ["Seen", "SeenError", "contents_of", "refuse_scoring", "refuse_seen", "seen_by"]

logger = logging.getLogger(__name__)

_BARRED = {"test": ("training", "validation"), "validation": ("training",), "training": ()}
_DID = {"training": "was trained on", "validation": "picked the weights by"}
_GAP = "not_all"  # the weights that a run began with do not say what they have seen
_KINDS = ("path", "group", "content")  # the last asks for every file of the data


class SeenError(MedsegError):
    """Cases that are called what they are not: the run has seen them."""


@dataclass(frozen=True)
class Seen:
    """How many of the cases to score have been seen by the runs that are scored.

    Args:
        cases: to score.
        seen: how many of them a run was trained on (``training``) or picked its weights by (``validation``), itself or
            others of their group.
        unknown: names of the runs that do not say what they have seen.
    """

    cases: int
    seen: Mapping[str, int] = field(default_factory=dict)
    unknown: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """Return plain values for a record of the scores."""
        return {**{part: self.seen.get(part, 0) for part in _DID}, "runs_that_do_not_say": len(self.unknown)}

    def said(self) -> str:
        """Return what a heading of the scores must say of it; nothing where none was seen."""
        return "".join(f", {self.seen[part]} of {self.cases} seen in {part}" for part in _DID if self.seen.get(part))


def seen_by(data: Datalist, used: Mapping[str, Sequence[Entry]], before: Path | None = None) -> dict[str, Any]:
    """Return what a run says of the cases that it sees, as plain values for its hidden file.

    Args:
        data: the datalist, whose files' content is known by now: its fingerprint was taken.
        used: entries with absolute paths by part, ``training`` and ``validation``.
        before: folder of a run whose cases it has seen too: the one whose weights it starts from, or itself, resumed.
    """
    contents = contents_of(data)
    held = None if before is None else _Record.of(before)
    said: dict[str, Any] = {}
    if before is not None and (held is None or not held.whole):
        said[_GAP] = True
    for part in _DID:
        said[part] = [] if held is None else [dict(case) for case in held.cases[part]]
        known = {json.dumps(case, sort_keys=True) for case in said[part]}
        for entry in used[part]:
            paths = paths_of(entry["image"])
            case: dict[str, Sequence[str]] = {"path": sorted(str(path.resolve()) for path in paths)}
            case["content"] = [contents[str(path)] for path in paths]
            case |= {"group": [entry["group"]]} if "group" in entry else {}
            if json.dumps(case, sort_keys=True) not in known:
                said[part].append(case)
    return said


def refuse_seen(
    runs: Sequence[Path],
    data: Datalist,
    entries: Sequence[Entry],
    part: str = "test",
    *,
    groups: bool = True,
    allowed: bool = False,
) -> Seen:
    """Refuse to call cases a test that one of some runs was trained on, or that picked its weights.

    Args:
        runs: folders of the runs that are scored, alone or as an ensemble.
        data: the datalist that names the cases.
        entries: the cases, with absolute paths as `Datalist.split` gives them.
        part: what they are scored as: ``test``, ``validation`` (which may have picked weights) or ``training``.
        groups: whether other cases of a group tell of it: not so in a split that divides groups by design, as every
            scheme but ``fold`` does.
        allowed: count them, and do not refuse.

    Returns:
        What was found; nothing was seen unless that is allowed.

    Raises:
        SeenError: naming the run, a case, why it is known, and the ways out.
    """
    names = _Names(data, entries)
    total: dict[str, set[int]] = {}
    unknown: list[str] = []
    for run in runs:
        record = _Record.of(run)
        if record is None or not record.whole:
            unknown.append(run.name)
            why = "the weights that it began with do not say" if record else f"no {PLACE} of this medseg's in it"
            logger.warning(
                "%s does not say which cases it has seen (%s): whether it was trained on some of those to score is not "
                "known",
                shown(run.name),
                why,
            )
        if record is None:
            continue
        for barred in _BARRED[part]:
            found: dict[int, tuple[str, str]] = {}
            for kind in _KINDS if groups else ("path", "content"):
                found |= {
                    index: (kind, other) for index, other in record.find(barred, kind, names) if index not in found
                }
                if found and not allowed:
                    raise SeenError(_refusal(run, barred, names, found, part))
            if found:
                total.setdefault(barred, set()).update(found)
    return Seen(len(entries), {part: len(found) for part, found in total.items()}, tuple(unknown))


def refuse_scoring(
    runs: Sequence[Path], data: Datalist, entries: Sequence[Entry], options: Mapping[str, Any], *, allowed: bool = False
) -> Seen:
    """Refuse an evaluation as `refuse_seen` does.

    Args:
        runs: folders of the runs that are scored.
        data: the datalist that names the cases.
        entries: the cases, with absolute paths.
        options: of the evaluation's configuration.
        allowed: as in `refuse_seen`.
    """
    grouped = options.get("fold_key", "fold") == "fold"  # other schemes divide groups by design
    return refuse_seen(runs, data, entries, str(options.get("scored", "test")), groups=grouped, allowed=allowed)


@dataclass
class _Names:
    """By what the cases to score may be known."""

    data: Datalist
    entries: Sequence[Entry]

    def of(self, kind: str) -> Sequence[frozenset[str]]:
        """Return the names of one kind, of each case."""
        if kind == "group":
            return [frozenset([entry["group"]] if "group" in entry else []) for entry in self.entries]
        return self._paths if kind == "path" else self._content

    @cached_property
    def _paths(self) -> Sequence[frozenset[str]]:
        return [frozenset(known_as(entry["image"])) for entry in self.entries]

    @cached_property
    def _content(self) -> Sequence[frozenset[str]]:
        contents = contents_of(self.data)
        return [frozenset(contents[str(path)] for path in paths_of(entry["image"])) for entry in self.entries]


@dataclass(frozen=True)
class _Record:
    """What a run says that it has seen: of each case of a part its names, by kind."""

    cases: Mapping[str, Sequence[Mapping[str, Sequence[str]]]]
    whole: bool = True

    @classmethod
    def of(cls, run: Path) -> _Record | None:
        """Return a run's record; ``None`` where there is none, or it is not of this form."""
        try:
            held = json.loads((run / PLACE).read_text(encoding="utf-8"))["seen"]
            cases = {part: [{kind: list(case[kind]) for kind in case} for case in held[part]] for part in _DID}
            record = cls(cases, whole=not held.get(_GAP))
            whole = all({"path", "content"} <= case.keys() for cases in record.cases.values() for case in cases)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def find(self, part: str, kind: str, names: _Names) -> Iterator[tuple[int, str]]:
        """Yield the cases that the run has seen in a part by one kind of name: the index, and a file that it saw."""
        several = Counter(  # an atlas, or a channel of zeros, that cases of several files share: no case is known by it
            name for case in self.cases[part] if kind == "content" and len(case[kind]) > 1 for name in set(case[kind])
        )
        known = {name: case["path"][0] for case in self.cases[part] for name in case.get(kind, ()) if several[name] < 2}
        for index, called in enumerate(names.of(kind) if known else ()):
            common = called & known.keys()
            if common:
                yield index, known[min(common)]


def _refusal(run: Path, barred: str, names: _Names, found: Mapping[int, tuple[str, str]], part: str) -> str:
    index, (kind, other) = next(iter(found.items()))
    entry = names.entries[index]
    which = shown(first_of(entry["image"]))
    own = f"choose the fold that was left out, score them as what they are with {spelt('scored', barred)}"
    if kind == "content":
        which += f" (the same bytes as {shown(other)})"
        own = "leave copies out"
    if kind == "group":
        group = shown(repr(entry["group"]))
        which += f" (of group {group}, as {shown(other)})"
        own = f"leave these groups out, call them otherwise in {shown(names.data.path)} if they are not the same"
    many = counted(len(names.entries), "image")
    return (
        f"{shown(run.name)} {_DID[barred]} {len(found)} of the {many} to score, such as {which}: that is no {part}; "
        f"{own}, or score them all the same with {spelt('allow_seen')}, which the scores then say"
    )


def contents_of(data: Datalist) -> dict[str, str]:
    """Return the hash of each file that a datalist names, by its absolute path as entries have it."""
    return {str(data.absolute({"image": name})["image"]): found for name, found in data.contents().items()}
