"""Files that appear whole or not at all."""

import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from medseg.atomic import atomic_write, nothing_left, remove_leftovers


def test_it_reaches_the_disk_before_it_takes_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the first sync a power cut leaves an empty file under the right name, without the second the old one."""
    calls: list[str] = []
    sync, replace, close = os.fsync, os.replace, os.close

    def synced(file: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"
        size = os.fstat(file).st_size if kind == "file" else ""
        calls.append(f"sync {kind} {size}".strip())
        sync(file)

    def renamed(old: Any, new: Any) -> None:
        calls.append("rename")
        replace(old, new)

    def closed(file: int) -> None:
        calls.append("close")
        close(file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "close", closed)
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("all")
    assert calls == ["sync file 3", "rename", "sync folder", "close"]
    assert (tmp_path / "a.txt").read_text() == "all"
    calls.clear()
    with atomic_write(tmp_path / "a.txt", sync_name=False) as temporary:
        temporary.write_text("of many")
    assert calls == ["sync file 7", "rename"]


def test_after_an_exception_all_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def dies_half_way() -> None:
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dies_half_way()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_without_a_folder_or_content_there_is_no_file(tmp_path: Path) -> None:
    missing = pytest.raises(FileNotFoundError, match=r"none/a\.txt: its folder does not exist; make it first")
    with missing, atomic_write(tmp_path / "none" / "a.txt"):
        pass
    empty = pytest.raises(
        FileNotFoundError, match=r"a\.txt: nothing was written to the temporary file \.[0-9a-f]{8}\.a"
    )
    with empty, atomic_write(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    left = [tmp_path / ".0123abcd.model.pt", tmp_path / "sub" / ".89abcdef.best.pt"]
    kept = [tmp_path / name for name in (".lock", ".0123abcd", ".0123abcx.a", "a.0123abcd.b", "sub/model.pt")]
    for path in (*left, *kept):
        path.write_text("x")
    kept.append(tmp_path / ".0123abcd.folder")
    kept[-1].mkdir()
    assert remove_leftovers(tmp_path, "best.pt") == 0
    assert remove_leftovers(tmp_path, "model.pt", seconds=3600) == 0
    os.utime(left[0], (time.time() - 7200,) * 2)
    assert remove_leftovers(tmp_path, "model.pt", seconds=3600) == 1
    assert remove_leftovers(tmp_path) == 1
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_before_it_has_begun_leaves_nothing_and_what_is_interrupted_stays(
    tmp_path: Path, error: BaseException
) -> None:
    folder = tmp_path / "new" / "out"

    def work(begins: bool) -> None:
        with nothing_left(folder, ("made", "note.json"), folder / "begun"):
            (folder / "made").mkdir(parents=True)
            (folder / "made" / "file").write_text("x")
            (folder / "note.json").write_text("x")
            if begins:
                (folder / "begun").mkdir()
            raise error

    with pytest.raises(type(error)):
        work(begins=False)
    assert folder.exists() is isinstance(error, KeyboardInterrupt)
    assert (tmp_path / "new").exists() is isinstance(error, KeyboardInterrupt)
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    with pytest.raises(type(error)):
        work(begins=True)
    assert (folder / "made" / "file").is_file()


def test_what_was_there_before_a_failure_stays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "mine").mkdir()

    def work() -> None:
        with nothing_left(tmp_path, ("made", "other"), tmp_path / "begun"):
            (tmp_path / "other").write_text("x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()
    assert {each.name for each in tmp_path.iterdir()} == {"made", "mine"}
