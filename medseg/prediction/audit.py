"""The record of a run of predictions: who asked for what, when, with which weights, and what came of it.

One JSON beside the outputs a run, ``medseg_run_TIME.json``. Inputs are named by their place in the input, by the hash
of their bytes and, of DICOM, by their UIDs; patients are not, unless asked for. Nothing of it is logged.

While a run works it keeps a journal, hidden beside the outputs: a line before a case's files are written, which says
what was there, and one after. One that is killed leaves it, and the next run in the folder makes the record of it: a
case whose last file came after its first line is done, whether or not the second was written.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import getpass
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.io.dicom_heads import is_dicom, read_head
from medseg.io.parts import file_hash, hash_of_parts, parts_read, stamp_of_parts
from medseg.prediction.sinks import Case, RunInfo
from medseg.runs.lock import FolderLock, LockedError

__all__ = ["PUSH_RECORD", "RUN_RECORD", "Audit", "record_push", "records_in"]

RUN_RECORD, PUSH_RECORD = "medseg_run_*.json", "medseg_push_*.json"
"""Names of the records in the folder of the outputs."""

logger = logging.getLogger(__name__)

_JOURNAL = ".medseg_run_{}.jsonl"
_FORMAT = 1
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_BEFORE = "before"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_PERSONS = ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyDate")


class Audit:
    """Collects what a run did, and writes it.

    Args:
        run: what all cases share.
        options: what was asked for, plain values.
    """

    def __init__(self, run: RunInfo, options: Mapping[str, Any]) -> None:
        self._run, self._options = run, dict(options)
        self._began = time.time()
        self._inputs: dict[str, dict[str, Any]] = {}
        self._cases: dict[str, dict[str, Any]] = {}
        self._parts: dict[str, tuple[list[tuple[Path, ...]], str, str]] = {}  # of cases in hand: files, stamp, hash
        self._journal: Path | None = None  # while one is kept
        self._begun = self._torn = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Make records of what killed runs left in the folder, which nobody else works in, and keep a journal."""
        folder = self._run.output
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self._journal = folder / _JOURNAL.format(_stamp(self._began))
            try:
                _record_all_left(folder)
                lines = (self._head(), *(self._case(name) for name in self._cases))
                self._journal.write_bytes(b"".join(map(_line, lines)))
            except OSError as error:
                self._no_journal(error)

    def reads(self, case: Case) -> None:
        """Take note of which files an input is read from next, and of their bytes; called in the thread that reads."""
        with contextlib.suppress(OSError):  # its reader says so
            channels = parts_read(case.files)
            self._parts[case.name] = channels, stamp_of_parts(channels), hash_of_parts(channels)

    def read(self, case: Case) -> None:
        """Take note of what was read: of a DICOM series every file of it; called in the thread that has read it.

        Raises:
            OSError: if a file is missing, as one that came meanwhile was.
        """
        if case.name not in self._parts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        channels, _, sha256 = self._parts[case.name]
        found: dict[str, Any] = {"sha256": sha256, "files": sum(map(len, channels))}
        first, *_ = channels[0]
        if is_dicom(first):
            found |= _tags(first, (*_UIDS, *(_PERSONS if self._run.keep_identifiers else ())))
        self._inputs[case.name] = found

    def changed(self, case: Case) -> bool:
        """Return whether an input's bytes are others than when it was about to be read; asked once."""
        channels, stamp, sha256 = self._parts.pop(case.name)
        try:
            return stamp_of_parts(channels) != stamp and hash_of_parts(channels) != sha256
        except OSError:
            return True

    def doubt(self, case: Case, said: Sequence[str], notes: str = "") -> None:
        """Take note of how a case is unlike what the model was trained on, and of what is to be told of its file."""
        if said:
            self._inputs[case.name]["unlike"] = list(said)
        if notes:
            self._inputs[case.name]["notes"] = notes

    def recover(self) -> None:
        """Make records of what killed runs left, where this one has nothing to write; not of one that is at work."""
        folder = self._run.output
        if not any(folder.glob(_JOURNAL.format("*"))):
            return
        lock = FolderLock(folder)
        try:
            lock.acquire()
            try:
                _record_all_left(folder)
            finally:
                lock.release()
        except LockedError:
            return
        except OSError as error:
            logger.warning("the record of a run that was killed cannot be written: %s", error.strerror)

    def sha256(self, case: Case) -> str:
        """Return the hash of an input's bytes, as this process or another one read them."""
        return str({**self._inputs.get(case.name, {}), **self._cases.get(case.name, {})}.get("sha256", ""))

    def writes(self, case: Case, files: Sequence[Path], numbers: Mapping[str, float]) -> None:
        """Take note that a case's files are written next, the last of them when all else of it is there."""
        what = {_BEFORE: {self._name(file): _changed(file) for file in files}, **_numbers(numbers)}
        with self._lock:
            self._keep({"name": case.name, **self._inputs.get(case.name, {}), **what})

    def wrote(self, case: Case, files: Sequence[Path], numbers: Mapping[str, float]) -> None:
        """Take note of what was written of a case."""
        outputs = [{"name": self._name(file), "sha256": file_hash(file)} for file in files]
        self._done(case, {"outputs": outputs, **_numbers(numbers)})

    def took(self, case: Case, line: Mapping[str, Any]) -> None:
        """Take note of a case that another process did, by a line of `records_in`, or that could not be done."""
        self._done(case, {key: value for key, value in line.items() if key != "name"})

    def _done(self, case: Case, what: dict[str, Any]) -> None:
        self._parts.pop(case.name, None)
        with self._lock:
            self._cases[case.name] = what
            self._keep(self._case(case.name))

    def _keep(self, line: Mapping[str, Any]) -> None:
        if self._journal is not None:
            try:
                with self._journal.open("ab") as file:
                    file.write(b"\n" * self._torn + _line(line))
                self._torn = False
            except OSError as error:  # what it holds stays; a line that was written in part is none
                if not self._torn:
                    logger.warning("%s cannot be entered in the journal of this run: %s", line["name"], error.strerror)
                self._torn = True

    def _no_journal(self, error: OSError) -> None:
        logger.warning(
            "if this run is killed there is no record of it: its journal cannot be kept (%s)", error.strerror
        )
        self._end_journal()

    def _end_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.unlink(missing_ok=True)

    def _case(self, name: str) -> dict[str, Any]:
        return {"name": name, **self._inputs.get(name, {}), **self._cases[name]}

    def _head(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "medseg": __version__,
            "by": _login(),
            "began": _utc(self._began),
            "models": [vars(maker) for maker in self._run.makers],
            "options": self._options,
        }

    def write(
        self, *, skipped: Sequence[str], left_out: Sequence[tuple[str, str]], ended: str, measured: Mapping[str, Any]
    ) -> Path:
        """Write the record.

        Args:
            skipped: cases whose outputs were there.
            left_out: files of the input that are no case, with the reason.
            ended: ``"done"``, or what ended the run.
            measured: such as the seconds that it took.
        """
        content = {
            **self._head(),
            "ended": _utc(time.time()),
            "end": ended,
            "cases": [self._case(name) for name in self._cases],
            "skipped": list(skipped),
            "left_out": [{"name": name, "reason": reason} for name, reason in left_out],
            "measured": dict(measured),
        }
        self._run.output.mkdir(parents=True, exist_ok=True)
        path = _written(self._run.output, RUN_RECORD, self._began, content)
        self._end_journal()
        return path

    def _name(self, file: Path) -> str:
        return _below(self._run.output, file)


def record_push(
    folder: Path, began: float, stored: Sequence[Path], present: Sequence[Path], failed: Sequence[tuple[Path, str]]
) -> Path:
    """Write the record of what was sent to an archive; the archive itself is not named.

    Args:
        folder: of all outputs.
        began: seconds since the epoch.
        stored: files that are there now.
        present: files that were there before.
        failed: the others, with the reason.
    """
    became = [(file, "stored") for file in stored] + [(file, "was there") for file in present]
    files = [{"name": _below(folder, file), "sha256": file_hash(file), "is": state} for file, state in became]
    files += [{"name": _below(folder, file), "failure": reason} for file, reason in failed]
    about = {"format": _FORMAT, "medseg": __version__, "by": _login()}
    content = {**about, "began": _utc(began), "ended": _utc(time.time()), "files": files}
    return _written(folder, PUSH_RECORD, began, content)


def records_in(folder: Path) -> list[dict[str, Any]]:
    """Return what the runs in a folder recorded of cases, also one that was killed.

    Args:
        folder: of outputs, in which nobody works.
    """
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(RUN_RECORD)):
        found += json.loads(path.read_text(encoding="utf-8"))["cases"]
    for journal in sorted(folder.glob(_JOURNAL.format("*"))):
        found += _cases_of(folder, _lines(journal)[1:])
    return found


def _record_all_left(folder: Path) -> None:
    for left in sorted(folder.glob(_JOURNAL.format("*"))):
        _record_left(left)


def _record_left(journal: Path) -> None:
    """Make the record of a run that was killed of its journal, whose last line may be cut off."""
    lines = _lines(journal)
    if lines and "began" in lines[0]:
        began = calendar.timegm(time.strptime(lines[0]["began"], _TIME))
        about = {"ended": _utc(journal.stat().st_mtime), "end": "killed"}
        rest: dict[str, Any] = {"cases": _cases_of(journal.parent, lines[1:]), "skipped": [], "left_out": []}
        rest["measured"] = {}
        _written(journal.parent, RUN_RECORD, began, {**lines[0], **about, **rest})
    journal.unlink()


def _lines(journal: Path) -> list[dict[str, Any]]:
    lines = []
    for line in journal.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):  # the last may be cut off
            lines.append(json.loads(line))
    return lines


def _cases_of(folder: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what became of the cases of a journal; one whose last file is not new was not done."""
    cases: dict[str, dict[str, Any]] = {}
    lost: set[str] = set()
    for line in lines:
        before = line.pop(_BEFORE, None)
        if before is not None:
            *_, last = before
            if _changed(folder / last) in (None, before[last]):
                lost.add(line["name"])  # with the power: the journal may have come further than the names of files
                continue
            there = [folder / name for name in before if (folder / name).is_file()]
            outputs = [{"name": _below(folder, file), "sha256": file_hash(file)} for file in there]
            numbers = line.pop("numbers", {})
            line |= {"outputs": outputs, **_numbers(numbers)}  # in the order that `Audit.wrote` has them
        elif line["name"] in lost and "outputs" in line:
            continue
        cases[line["name"]] = line  # the line that was written after it is the later one
    return list(cases.values())


def _numbers(numbers: Mapping[str, float]) -> dict[str, Any]:
    return {"numbers": dict(numbers)} if numbers else {}


def _changed(file: Path) -> int | None:
    """Return when a file was written last, in nanoseconds; ``None`` where there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _utc(seconds: float) -> str:
    return time.strftime(_TIME, time.gmtime(seconds))


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _written(folder: Path, pattern: str, began: float, content: Mapping[str, Any]) -> Path:
    """Write a record under a name that no earlier one of the same second took."""
    stamp, number = _stamp(began), 0
    while (path := folder / pattern.replace("*", f"{stamp}{f'_{number}' if number else ''}")).exists():
        number += 1
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names that are no UTF-8
    return path


def _below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _tags(file: Path, names: Sequence[str]) -> dict[str, str]:
    head = read_head(file, names)
    return {name: str(head[name].value) for name in names if name in head}


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no such user
        return ""
