"""Integrity check of a data set before anything is trained on it: `medseg check` and the first step of a training."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.check_findings import Case, Finding, Requirements
from medseg.data.check_rules import find_all
from medseg.data.datalist import Datalist, DatalistError
from medseg.data.file_facts import Progress, check_cache, measure_all, usual_workers
from medseg.data.schema import PATH_KEYS
from medseg.io.channels import paths_of

__all__ = ["Finding", "Report", "check_datalist"]

_LISTED = 10


@dataclass(frozen=True)
class Report:
    """Result of a check.

    Args:
        path: the datalist.
        findings: what was found, errors first.
        files: number of files that exist.
        files_read: how many of them were read; the others were known from the cache.
        seconds: duration of the check.
    """

    path: Path
    findings: tuple[Finding, ...]
    files: int
    files_read: int
    seconds: float

    @property
    def errors(self) -> list[Finding]:
        """Findings that forbid training."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that a person should look at."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "datalist": str(self.path),
            "ok": self.ok,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "files": self.files,
            "files_read": self.files_read,
            "seconds": round(self.seconds, 3),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def raise_for_errors(self, further: Sequence[str] = ()) -> None:
        """Raise if there are errors.

        Args:
            further: what else is wrong, to be said with them, a line each.

        Raises:
            DatalistError: with the first ten errors.
        """
        errors = self.errors
        if not errors:
            return
        lines = [f"  {finding.code}: {finding.message}" for finding in errors[:_LISTED]]
        if len(errors) > _LISTED:
            lines.append(f"  ... and {len(errors) - _LISTED} more; `medseg check {self.path}` lists them")
        plural = "s" if len(errors) > 1 else ""
        head = f"{self.path}: {len(errors)} error{plural} in the data"
        raise DatalistError("\n".join([head, *lines, *(f"  {line}" for line in further)]))


def check_datalist(
    path: str | os.PathLike[str] | Datalist,
    *,
    fold_keys: Sequence[str] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    roi_size: Sequence[int] | None = None,
    allow_smaller: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    cache: bool = True,
) -> Report:
    """Read every file that a datalist names and report what is wrong with them.

    Measurements are kept in `cache_folder` by path, size and modification time: a second check over unchanged files
    reads none.

    Args:
        path: the datalist or its file.
        fold_keys: fold schemes in which a group must not be split; by default ``fold`` where the entries have it, and
            ``fold`` may be named for a datalist without folds. The three lists are always compared.
        in_channels: channels the network takes.
        num_classes: classes the network gives.
        roi_size: window edges of training and inference in pixels; an edge of -1 means the whole axis.
        allow_smaller: report images smaller than the window as warnings, for pipelines that pad; where the datalist
            has an ignore label, which padded pixels can get, it is one warning in any case.
        workers: threads that read; by default one for each CPU, at most 8.
        progress: called as ``progress(files done, files in all)``.
        cache: keep and use measurements.

    Raises:
        DatalistError: if the datalist itself cannot be used or has no such fold scheme.
    """
    start = time.perf_counter()
    datalist = path if isinstance(path, Datalist) else Datalist.load(path)
    wanted = ("fold",) if fold_keys is None else fold_keys
    without = not datalist.fold_keys or fold_keys is None
    schemes = [key for key in wanted if key in datalist.fold_keys or not (key == "fold" and without)]
    for key in schemes:
        datalist.folds(key)
    places = [
        (split, index) for split in ("training", "validation", "test") for index in range(len(getattr(datalist, split)))
    ]
    entries = [datalist.absolute(entry) for _, entry in datalist.entries()]
    named = [(key, entry[key]) for entry in entries for key in PATH_KEYS if key in entry]
    files = [(path, key != "image") for key, value in named for path in paths_of(value)]
    cache_file = check_cache(datalist.path) if cache else None
    workers = workers if workers is not None else usual_workers()
    numbers = {path for key, value in named for path in paths_of(value) if key == "instances"}
    facts, read = measure_all(
        files, cache_file=cache_file, workers=workers, mapping=datalist.values, unmapped=numbers, progress=progress
    )
    cases = [Case.build(split, index, entry, facts) for (split, index), entry in zip(places, entries, strict=True)]
    requirements = Requirements(in_channels, num_classes, tuple(roi_size) if roi_size else None, allow_smaller)
    findings = find_all(datalist, cases, schemes, requirements)
    findings.sort(key=lambda finding: finding.severity != "error")
    return Report(datalist.path, tuple(findings), len(facts), read, time.perf_counter() - start)
