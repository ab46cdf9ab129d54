"""A table of all cases in one CSV file, which grows case by case and which a run that was killed goes on with.

A case's rows are appended in one write, so that those of finished cases are there however a process ends; what was cut
off is cut away before the next rows, and its case is done again. Of each case it is known where its rows lie, not what
they are. At the end the file is in the order of the cases' names: where cases were done in another, or again, it is
written anew.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.atomic import atomic_write
from medseg.errors import MedsegError, shown
from medseg.reports.tables import csv_cell

__all__ = ["CaseTable"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Piece:
    """Bytes of the file that are a case's rows, whosever they are; only of this model it is known whether all."""

    case: str
    start: int
    end: int
    mine: bool


class CaseTable:
    """Rows by case and model.

    Args:
        path: of the file.
        columns: after ``case`` and ``model``.
        model: that writes now: rows of others stay, but where they are of the same case.
        last: whether a row is the last of its case.

    Raises:
        MedsegError: if a file is there that is no such table.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], model: str, last: Callable[[Row], bool] = lambda row: True
    ) -> None:
        self.path, self.columns, self._model, self._last = path, ["case", "model", *columns], model, last
        self._begun = False
        self._read()

    def _read(self) -> None:
        """Find where each case's rows lie: of a case that was done again, the later ones."""
        self._pieces: dict[str, _Piece] = {}  # in the order of the file
        self._end = 0  # of the last piece, or of the line of the columns
        self._ordered = True  # whether the pieces are the whole file, in the order of the cases
        self._seen = self._state()
        if self._seen is None:
            return
        with self.path.open("rb") as file:
            begins, start, latest = 0, 0, ("", "")
            for line in itertools.takewhile(lambda line: line.endswith(b"\n"), file):
                ends = begins + len(line)
                cells = next(csv.reader([line.decode("utf-8", errors="replace")]), [])
                if begins == 0:
                    self._check_columns(cells)
                    self._end = ends
                elif len(cells) == len(self.columns):
                    row = dict(zip(self.columns, cells, strict=True))
                    if (row["case"], row["model"]) != latest:
                        latest, start = (row["case"], row["model"]), begins
                    mine = row["model"] == self._model
                    if not mine or self._last(row):
                        self._keep(_Piece(row["case"], start, ends, mine))
                    if mine and self._last(row):
                        latest = ("", "")  # further rows of the case are those of another time
                begins = ends

    def _keep(self, piece: _Piece) -> None:
        """Take note of a case's rows, or of one more of them."""
        held = self._pieces.pop(piece.case, None)
        if held is None or held.start != piece.start:
            before = next(reversed(self._pieces), "")
            self._ordered &= held is None and piece.start == self._end and before < piece.case
        self._pieces[piece.case] = piece
        self._end = piece.end

    def _check_columns(self, cells: list[str]) -> None:
        if cells != self.columns:
            raise MedsegError(
                f"{shown(self.path)} is there and has other columns than this medseg writes; move it away, or name "
                "another folder"
            )

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns

    def has(self, case: str) -> bool:
        """Return whether this model's rows of a case are there."""
        held = self._pieces.get(_cell(case))
        return held is not None and held.mine

    def add(self, case: str, rows: Sequence[Row]) -> None:
        """Append a case's rows.

        Args:
            case: its name.
            rows: of ``columns``; what is missing stays empty.
        """
        name = _cell(case)
        self._append(name, self._text({"case": case, "model": self._model, **row} for row in rows))

    def take(self, path: Path) -> None:
        """Append this model's rows of another such table, case by case; what is here already, is left as it is.

        Args:
            path: of the table; none may be there.
        """
        other = CaseTable(path, self.columns[2:], self._model, self._last)
        for piece in other._pieces.values():
            made = other._bytes(piece)
            held = self._pieces.get(piece.case)
            if piece.mine and (held is None or not held.mine or self._bytes(held) != made):
                self._append(piece.case, made)

    def _bytes(self, piece: _Piece) -> bytes:
        with self.path.open("rb") as file:
            file.seek(piece.start)
            return file.read(piece.end - piece.start)

    def _append(self, name: str, made: bytes) -> None:
        if not self._begun:
            if self._state() != self._seen:  # another run was at it
                self._read()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._begun = True
        head = b"" if self._end else (",".join(self.columns) + "\n").encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, self._end)  # what was cut off
            left = memoryview(head + made)
            while left:  # a disk that has room for a part says so of the rest
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        self._end += len(head)
        self._keep(_Piece(name, self._end, self._end + len(made), True))

    def close(self) -> None:
        """Bring the file into the order of the cases' names, and onto the disk; nothing where nothing was added."""
        if not self._begun:
            return
        if self._ordered:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            return
        with atomic_write(self.path) as temporary, temporary.open("wb") as new, self.path.open("rb") as old:
            new.write(old.readline())
            for name in sorted(self._pieces):
                piece = self._pieces[name]
                old.seek(piece.start)
                new.write(old.read(piece.end - piece.start))
        self._read()

    def _text(self, rows: Iterable[Row]) -> bytes:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([csv_cell(row.get(column, "")) for column in self.columns] for row in rows)
        return file.getvalue().encode()


def _cell(case: str) -> str:
    """Return a case's name as it stands in the file."""
    return str(csv_cell(case))
