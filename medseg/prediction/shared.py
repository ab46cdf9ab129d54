"""A cohort that several processes work on: each has a part of the cases and a folder of its own, and one gathers.

A part is a run of `medseg predict` like any other, in ``.medseg_parts`` of the folder of the outputs, with its own
lock, record and tables. The process that was asked moves what a part has finished to its place, a case whole or not at
all, and gives what a dead worker left to others, in smaller parts. What lies in the parts of a run that was killed is
gathered by the next one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import counted
from medseg.jobs.job import Executor, Job, names_device
from medseg.prediction.audit import records_in
from medseg.prediction.mask_record import MaskRecordError
from medseg.prediction.sinks import Case, Gathers
from medseg.runs.lock import locked

if TYPE_CHECKING:
    from medseg.prediction.predictor import Predictor

__all__ = ["CASES", "PARTS", "TOLD", "Asked", "Shared", "gather", "share"]

logger = logging.getLogger(__name__)

PARTS = ".medseg_parts"
"""Folder of the parts in that of all outputs."""
CASES, TOLD, LOG = "cases.json", "told.json", "log.txt"
"""In a part's folder: which cases it has, what became of them, what its process said."""

_OUTPUT = "out"
_ROUNDS = 3  # how often what a dead worker left is given to others
_PATIENCE = 60.0  # seconds in which the workers of a run that was killed end


@dataclass(frozen=True)
class Shared:
    """Who does the parts.

    Args:
        executor: see `medseg.jobs`.
        workers: parts that are worked on at a time.
    """

    executor: Executor
    workers: int


@dataclass(frozen=True)
class Asked:
    """What each part is asked, as `medseg predict` takes it.

    Args:
        models: runs, bundles, packed models or files of weights.
        images: where all cases are.
        settings: ``KEY=VALUE``.
        options: further words.
    """

    models: Sequence[str]
    images: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()

    def job(self, part: Path) -> Job:
        """Return the job of a part, whose cases stand in its folder."""
        first, *others = self.models
        settings = [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]
        more = ["--ensemble", *others] if others else []
        told = part / TOLD
        words = ["predict", first, str(self.images), str(part / _OUTPUT), *settings, *self.options, *more]
        words += ["--cases", str(part / CASES), "--told", str(told), "--tied"]
        return Job(part.name, tuple(words), part / LOG, told, names_device=names_device(self.settings))


def share(predictor: Predictor, cases: Sequence[Case], asked: Asked, shared: Shared) -> None:
    """Let others predict cases, and gather what they make.

    Args:
        predictor: of all cases, which has begun.
        cases: that are to be done.
        asked: what each part is asked.
        shared: who does them.
    """
    left, why = list(cases), ""
    for number, size in enumerate(_sizes(len(left), shared.workers), 1):
        died = 0
        parts = _parts(predictor.folder.output_dir, left, size)
        for done in shared.executor([asked.job(part) for part in parts.values()]):
            part = parts[done.name]
            if not (part / TOLD).is_file():
                why, died = done.error, died + 1
            _gather_part(predictor, part, failures=True)
        finished = {case.target for case in left if case.target in set(predictor.written)}
        failed = {str(name) for name, _ in predictor.failures}
        left = [case for case in left if case.target not in finished and case.name not in failed]
        if not left:
            break
        if died and number < _ROUNDS:  # not where its log is, which goes once all is done
            reason = why.partition("; see ")[0]
            logger.warning("%s died (%s): others do %s", counted(died, "worker"), reason, counted(len(left), "case"))
    for case in left:
        predictor.failed(case, f"its worker died, {counted(_ROUNDS, 'time')}: {why}")
    if not left:  # else the logs say why
        shutil.rmtree(predictor.folder.output_dir / PARTS)


def _sizes(cases: int, workers: int) -> Iterator[int]:
    """Yield how many cases a part has: at first two parts a worker, then what is left in smaller ones."""
    size = max(1, -(-cases // (2 * workers)))
    for _ in range(_ROUNDS):
        yield size
        size = max(1, -(-size // 4))


def _parts(output: Path, cases: Sequence[Case], size: int) -> dict[str, Path]:
    """Write what each part has to do; returns their folders by name."""
    found = {}
    count = -(-len(cases) // size)
    for number in range(count):
        part = output / PARTS / f"{number}_{secrets.token_hex(4)}"
        part.mkdir(parents=True)
        names = [case.name for case in cases[number::count]]
        (part / CASES).write_text(json.dumps(names), encoding="utf-8")
        found[part.name] = part
    return found


def gather(predictor: Predictor) -> list[Case]:
    """Take what lies in the parts of a run that was killed; returns the cases that are still to be done.

    Args:
        predictor: of all cases.

    Raises:
        LockedError: if a worker of that run is still at it.
    """
    folder = predictor.folder.output_dir / PARTS
    if folder.is_dir():
        predictor.begin()
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            if predictor.folder.overwrite:
                with _locked(part / _OUTPUT):
                    shutil.rmtree(part)
            else:
                _gather_part(predictor, part, failures=False)
        with contextlib.suppress(OSError):
            folder.rmdir()
    there = set(predictor.written)
    return [case for case in predictor.todo if case.target not in there]


def _gather_part(predictor: Predictor, part: Path, *, failures: bool) -> None:
    """Move each finished case of a part to its place, and remove the part."""
    source = part / _OUTPUT
    wanted = {case.name: case for case in predictor.todo}
    names = [name for name in _json(part / CASES, []) if name in wanted]
    with _locked(source):
        lines = {str(line.get("name")): line for line in records_in(source)}
        with contextlib.suppress(MaskRecordError):  # another model's: it is done again
            predictor.refuse_others(source, [wanted[name] for name in names])
            for sink in predictor.sinks:
                if isinstance(sink, Gathers):
                    sink.take(source)
            for name in names:
                _move(predictor, wanted[name], source, lines.get(name, {}))
        told = _json(part / TOLD, {})
        if failures:
            predictor.count(told.get("pixels", {}), told.get("device", ""))
            for name, reason in told.get("failures", []):
                if name in wanted:
                    predictor.failed(wanted[name], reason, lines.get(name))
    if failures and not told:  # why its worker died is in the log
        shutil.rmtree(source)
        (part / CASES).unlink()
    else:
        shutil.rmtree(part)


def _move(predictor: Predictor, case: Case, source: Path, line: Mapping[str, Any]) -> None:
    """Move a case's files, its mask last, which says that all else is there."""
    output = predictor.folder.output_dir
    files = [(source / file.relative_to(output), file) for file in predictor.files(case)]
    if not files[-1][0].is_file() or not all(here.is_file() or there.is_file() for here, there in files):
        return
    if not all(sink.has(case) for sink in predictor.sinks):
        return
    for here, there in files:
        if here.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(here, there)
    predictor.took(case, line)


def _locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a part's outputs, once its worker has let go."""
    folder.mkdir(parents=True, exist_ok=True)
    return locked(folder, _PATIENCE)


def _json(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # the process ended before it was whole
        return otherwise
