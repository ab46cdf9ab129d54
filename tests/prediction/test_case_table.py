"""A table that grows case by case: each case once, in the order of the names, however runs ended."""

import csv
import errno
import os
from pathlib import Path

import pytest

from medseg.prediction.case_table import CaseTable, Row

COLUMNS = ("part", "size")


def opened(folder: Path, model: str = "m") -> CaseTable:
    return CaseTable(folder / "t.csv", COLUMNS, model, lambda row: row["part"] == "all")


def sized(size: int, parts: int = 2) -> list[Row]:
    """Return a case's rows."""
    return [*({"part": n, "size": size} for n in range(parts)), {"part": "all", "size": size}]


def held(folder: Path) -> list[tuple[str, str, str]]:
    """Return the case, part and size of each row."""
    with (folder / "t.csv").open(newline="") as file:
        return [(row["case"], row["part"], row["size"]) for row in csv.DictReader(file)]


def expected(**sizes: int) -> list[tuple[str, str, str]]:
    return [(case, part, str(size)) for case, size in sizes.items() for part in ("0", "1", "all")]


def test_in_order_nothing_is_written_twice(tmp_path: Path) -> None:
    table = opened(tmp_path)
    table.add("a", sized(1))
    before = (tmp_path / "t.csv").stat().st_ino
    for name in "bc":
        table.add(name, sized(1))
    table.close()
    again = opened(tmp_path)
    assert [again.has(name) for name in "abcd"] == [True, True, True, False]
    again.add("d", sized(1))
    again.close()
    assert (tmp_path / "t.csv").stat().st_ino == before
    assert held(tmp_path) == expected(a=1, b=1, c=1, d=1)


@pytest.mark.parametrize("names", ["ba", "cab", "bac"])
def test_in_another_order_it_is_sorted(tmp_path: Path, names: str) -> None:
    table = opened(tmp_path)
    for name in names:
        table.add(name, sized(1))
    table.close()
    assert held(tmp_path) == expected(**dict.fromkeys(sorted(names), 1))
    table.close()
    assert held(tmp_path) == expected(**dict.fromkeys(sorted(names), 1))


@pytest.mark.parametrize("done", ["", "a", "ab", "c", "ca"])
def test_cases_that_are_done_again_by_a_killed_run_are_there_once(tmp_path: Path, done: str) -> None:
    first = opened(tmp_path)
    for name in "abc":
        first.add(name, sized(1))
    first.close()
    killed = opened(tmp_path)
    for name in done:
        killed.add(name, sized(2))
    last = opened(tmp_path)
    assert all(last.has(name) for name in "abc")
    last.add("d", sized(3))
    last.close()
    assert held(tmp_path) == expected(**{name: 2 if name in done else 1 for name in "abc"}, d=3)


def test_whatever_byte_a_kill_cut_at(tmp_path: Path) -> None:
    table = opened(tmp_path)
    for name in "ab":
        table.add(name, sized(1))
    whole = (tmp_path / "t.csv").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "t.csv").write_bytes(whole[:size])
        again = opened(tmp_path)
        for name in "ab":
            if not again.has(name):
                again.add(name, sized(1))
        again.close()
        assert held(tmp_path) == expected(a=1, b=1), size
        assert (tmp_path / "t.csv").read_bytes() == whole


def test_a_disk_that_takes_a_part_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, write = opened(tmp_path), os.write
    table.add("a", sized(1))
    with monkeypatch.context() as patched:
        room = [9, 4]  # bytes of a write; then there is none

        def few(file: int, text: bytes) -> int:
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, text[: room.pop()])

        patched.setattr(os, "write", few)
        with pytest.raises(OSError, match="No space left"):
            table.add("b", sized(1))
    assert not table.has("b")
    table.add("c", sized(1))
    table.close()
    assert held(tmp_path) == expected(a=1, c=1)


def test_rows_of_other_models_stay(tmp_path: Path) -> None:
    other = opened(tmp_path, "other")
    for name in "ab":
        other.add(name, sized(1))
    other.close()
    table = opened(tmp_path)
    assert not table.has("a")
    table.add("a", sized(2))
    table.close()
    assert held(tmp_path) == expected(a=2, b=1)
    assert [opened(tmp_path).has(name) for name in "ab"] == [True, False]


def test_what_another_run_wrote_meanwhile_stays(tmp_path: Path) -> None:
    late, first = opened(tmp_path), opened(tmp_path)
    first.add("a", sized(1))
    first.close()
    late.add("b", sized(1))
    late.close()
    assert held(tmp_path) == expected(a=1, b=1)
