"""Prepared cases on disk: made once, never stale, whole or not there, removed when nobody uses them."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import medseg.engines.case_files as case_files
from medseg.engines.case_files import CaseFiles
from medseg.errors import MedsegError
from medseg.io.labels import VALUES_KEY


class Counting:
    """A transform that counts; what it makes depends on the file."""

    calls = 0

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        value = float(Path(entry["image"]).read_text())
        return {"image": torch.full((1, 3, 4), value), "label": torch.ones((1, 3, 4), dtype=torch.uint8), "name": "x"}


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "a.txt"
    path.write_text("1")
    return {"image": str(path)}


def test_a_case_is_made_once(tmp_path: Path, entry: dict[str, Any]) -> None:
    make = Counting()
    first = CaseFiles("a", tmp_path / "cases").case(entry, make)
    again = CaseFiles("a", tmp_path / "cases").case(entry, make)
    assert make.calls == 1
    assert first.keys() == again.keys() == {"image", "label"}
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert str(tmp_path / "cases") in Path("/proc/self/maps").read_text()
    again["image"].zero_()  # stays here
    assert float(CaseFiles("a", tmp_path / "cases").case(entry, make)["image"].min()) == 1


def test_what_changes_a_case_makes_it_anew(
    tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Counting()
    CaseFiles("a", tmp_path / "cases").case(entry, make)
    CaseFiles("b", tmp_path / "cases").case(entry, make)
    assert make.calls == 2
    Path(entry["image"]).write_text("2")
    os.utime(entry["image"], (1, 1))
    assert float(CaseFiles("a", tmp_path / "cases").case(entry, make)["image"].max()) == 2
    CaseFiles("a", tmp_path / "cases").case({**entry, VALUES_KEY: {255: 1}}, make)
    assert make.calls == 4
    monkeypatch.setattr(case_files, "version", lambda package: f"{package} of tomorrow")
    CaseFiles("a", tmp_path / "cases").case(entry, make)
    assert make.calls == 5
    moved = tmp_path / "moved.txt"
    shutil.copy(entry["image"], moved)  # another file with the same content is the same case
    CaseFiles("a", tmp_path / "cases").case({"image": str(moved)}, make)
    assert make.calls == 5


def test_content_that_changes_behind_its_time(tmp_path: Path, entry: dict[str, Any]) -> None:
    """As ``rsync -t`` and ``cp -p`` leave it: of the same size and modification time."""
    os.utime(entry["image"], (1, 1))
    files, make = CaseFiles("a", tmp_path / "cases"), Counting()
    assert float(files.case(entry, make)["image"].max()) == 1
    time.sleep(0.05)  # longer than a tick of the file system's clock
    Path(entry["image"]).write_text("2")
    os.utime(entry["image"], (1, 1))
    assert float(files.case(entry, make)["image"].max()) == 2


def test_an_unfinished_case_is_made_again(tmp_path: Path, entry: dict[str, Any]) -> None:
    make, files = Counting(), CaseFiles("a", tmp_path / "cases")
    files.case(entry, make)
    (mark,) = files.folder.rglob("case.json")
    mark.unlink()
    mark.with_name("image.npy").write_bytes(b"half")
    assert float(files.case(entry, make)["image"].min()) == 1
    assert make.calls == 2
    assert not list(files.folder.rglob(".*"))


def test_what_nobody_uses_goes(tmp_path: Path, entry: dict[str, Any]) -> None:
    make, files = Counting(), CaseFiles("a", tmp_path / "cases")
    files.case(entry, make)
    assert files.remove_unused() == 0
    for path in files.folder.rglob("*"):
        os.utime(path, (1, 1))
    files.case(entry, make)  # used just now
    assert files.remove_unused() == 0
    for path in files.folder.rglob("*"):
        os.utime(path, (1, 1))
    assert files.remove_unused() == 2  # the case and the hash of its file
    assert [path.name for path in files.folder.iterdir()] == ["files"]


def test_no_more_than_half_of_the_disk(tmp_path: Path) -> None:
    files = CaseFiles("a", tmp_path / "cases")
    free = shutil.disk_usage(tmp_path).free
    assert files.have_room(1000)
    assert not files.have_room(int(0.6 * free))


def test_a_folder_that_takes_nothing(tmp_path: Path, entry: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert not CaseFiles("a", tmp_path / "file" / "cases").have_room(1)
    assert "cannot hold prepared cases" in caplog.text


def test_a_full_disk_is_named(tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(MedsegError, match=r"cannot be written \(No space left on device\); make room .*MEDSEG_CACHE"):
        CaseFiles("a", tmp_path / "cases").case(entry, Counting())
