"""The record of a run of predictions: who asked for what, when, with which weights, and what came of it.

One JSON beside the outputs a run, ``medseg_run_TIME.json``. Inputs are named by their place in the input, by the hash
of their bytes and, of DICOM, by their UIDs; patients are not, unless asked for. Nothing of it is logged.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.io.dicom_heads import is_dicom, read_head
from medseg.io.parts import parts_of
from medseg.prediction.sinks import Case, RunInfo

__all__ = ["PUSH_RECORD", "RUN_RECORD", "Audit", "record_push"]

RUN_RECORD, PUSH_RECORD = "medseg_run_*.json", "medseg_push_*.json"
"""Names of the records in the folder of the outputs."""

_FORMAT = 1
_TIME = "%Y-%m-%dT%H:%M:%SZ"
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

    def read(self, case: Case, unlike: str | None = None) -> None:
        """Take note of an input's bytes; called in the thread that reads them.

        Args:
            case: whose files are hashed, of a DICOM series every file of it.
            unlike: how its intensities are unlike those that the model was trained on.
        """
        files = [part for file in case.files for part in parts_of(file)]
        digests = [_digest(file) for file in files]
        joined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        found: dict[str, Any] = {"sha256": joined, "files": len(files)}
        if unlike is not None:
            found["intensities"] = unlike
        if is_dicom(files[0]):
            found |= _tags(files[0], (*_UIDS, *(_PERSONS if self._run.keep_identifiers else ())))
        self._inputs[case.name] = found

    def wrote(self, case: Case, files: Sequence[Path], numbers: Mapping[str, float]) -> None:
        """Take note of what was written of a case."""
        outputs = [{"name": self._name(file), "sha256": _digest(file)} for file in files]
        self._cases[case.name] = {"outputs": outputs, **({"numbers": dict(numbers)} if numbers else {})}

    def failed(self, case: Case, reason: str) -> None:
        """Take note that a case could not be done."""
        self._cases[case.name] = {"failure": reason}

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
        run = self._run
        content = {
            "format": _FORMAT,
            "medseg": __version__,
            "by": _login(),
            "began": time.strftime(_TIME, time.gmtime(self._began)),
            "ended": time.strftime(_TIME, time.gmtime()),
            "end": ended,
            "models": [vars(maker) for maker in run.makers],
            "options": self._options,
            "cases": [{"name": name, **self._inputs.get(name, {}), **done} for name, done in self._cases.items()],
            "skipped": list(skipped),
            "left_out": [{"name": name, "reason": reason} for name, reason in left_out],
            "measured": dict(measured),
        }
        run.output.mkdir(parents=True, exist_ok=True)
        return _written(run.output, RUN_RECORD, self._began, content)

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
    files = [{"name": _below(folder, file), "sha256": _digest(file), "is": state} for file, state in became]
    files += [{"name": _below(folder, file), "failure": reason} for file, reason in failed]
    ended = time.strftime(_TIME, time.gmtime())
    about = {"format": _FORMAT, "medseg": __version__, "by": _login()}
    content = {**about, "began": time.strftime(_TIME, time.gmtime(began)), "ended": ended, "files": files}
    return _written(folder, PUSH_RECORD, began, content)


def _written(folder: Path, pattern: str, began: float, content: Mapping[str, Any]) -> Path:
    """Write a record under a name that no earlier one of the same second took."""
    stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began)), 0
    while (path := folder / pattern.replace("*", f"{stamp}{f'_{number}' if number else ''}")).exists():
        number += 1
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names that are no UTF-8
    return path


def _below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _tags(file: Path, names: Sequence[str]) -> dict[str, str]:
    head = read_head(file, names)
    return {name: str(head[name].value) for name in names if name in head}


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no such user
        return ""
