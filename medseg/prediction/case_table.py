"""A table of all cases in one CSV file, which a run that was killed goes on with.

A case's rows are appended in one write, so that those of finished cases are there however a process ends; what was cut
off is not read again, and its case is done again. At the end the file is written anew, in the order of the cases.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.errors import MedsegError, shown
from medseg.reports.tables import csv_cell

__all__ = ["CaseTable"]

Row = Mapping[str, Any]


class CaseTable:
    """Rows by case and model.

    Args:
        path: of the file.
        columns: after ``case`` and ``model``.
        model: that writes now: rows of others stay, but where they are of the same case.
        whole: whether these are all rows of a case.

    Raises:
        MedsegError: if a file is there that is no such table.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], model: str, whole: Callable[[Sequence[Row]], bool] = bool
    ) -> None:
        self.path, self.columns, self._model = path, ["case", "model", *columns], model
        self._held: dict[str, list[Row]] = {}
        for row in self._read():
            self._held.setdefault(row["case"], []).append(row)
        self._held = {case: rows for case, rows in self._held.items() if whole(rows)}
        self._begun = False

    def _read(self) -> list[dict[str, str]]:
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        if not lines:
            return []
        if lines[0] != self.columns:
            raise MedsegError(
                f"{shown(self.path)} is there and has other columns than this medseg writes; move it away, or name "
                "another folder"
            )
        return [dict(zip(self.columns, line, strict=True)) for line in lines[1:] if len(line) == len(self.columns)]

    def has(self, case: str) -> bool:
        """Return whether this model's rows of a case are there."""
        return all(row["model"] == self._model for row in self._held.get(_cell(case), [{"model": None}]))

    def add(self, case: str, rows: Sequence[Row]) -> None:
        """Append a case's rows.

        Args:
            case: its name.
            rows: of ``columns``; what is missing stays empty.
        """
        named: list[Row] = [{"case": _cell(case), "model": self._model, **row} for row in rows]
        if not self._begun:  # what was cut off, and rows of cases that are done again, must not be before these
            self._held.pop(_cell(case), None)
            self._write()
            self._begun = True
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            text = self._text(named)
            if os.write(descriptor, text) != len(text):
                raise OSError(f"{shown(self.path)} was written in part")
        finally:
            os.close(descriptor)
        self._held[_cell(case)] = named

    def close(self) -> None:
        """Write the file in the order of the cases' names; nothing where nothing was added."""
        if self._begun:
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary:
            head = (",".join(self.columns) + "\n").encode()
            temporary.write_bytes(head + b"".join(self._text(self._held[case]) for case in sorted(self._held)))

    def _text(self, rows: Sequence[Row]) -> bytes:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([csv_cell(row.get(column, "")) for column in self.columns] for row in rows)
        return file.getvalue().encode()


def _cell(case: str) -> str:
    """Return a case's name as it stands in the file."""
    return str(csv_cell(case))
