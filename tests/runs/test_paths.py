"""Paths as users give them."""

from pathlib import Path
from typing import Any

import pytest

from medseg.errors import MedsegError
from medseg.runs.paths import resolve_path
from medseg.runs.run import Run
from medseg.runs.run_folder import RunFolder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "link").symlink_to(tmp_path / "store" / "deep")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("../runs/x", "runs/x"),
        ("~/runs/x", "home/runs/x"),
        ("my runs/x y", "work/my runs/x y"),
        (2024, "work/2024"),
        ("007", "work/007"),
        (Path("a/../b"), "work/b"),
        ("link/x", "store/deep/x"),
        ("link/../x", "store/x"),  # as the system has it: beside what the link leads to
        ("link", "work/link"),  # the name that the user knows it by
        ("..", ""),
        ("x/", "work/x"),
    ],
)
def test_paths(here: Path, given: Any, meant: str) -> None:
    assert resolve_path(given) == (here / meant if meant else here)
    if given != "..":
        run = Run(given, tracking=False)
        assert run.files.write_text("report/a.txt", "x").read_text() == "x"
        assert (here / meant / "report" / "a.txt").is_file()


@pytest.mark.parametrize("given", [True, None, 1.5, "", "  ", "a\0b", b"x"])
def test_no_path(given: Any) -> None:
    with pytest.raises(MedsegError, match=r"^output_dir is .*; give a path"):
        resolve_path(given, "output_dir")


def test_no_such_user() -> None:
    with pytest.raises(MedsegError, match=r"'~nobody-of-this-name/x' cannot be resolved"):
        resolve_path("~nobody-of-this-name/x")


def test_the_folder_itself_takes_two_points(here: Path) -> None:
    assert RunFolder("../runs/x").write_text("a.txt", "x") == here / "runs" / "x" / "a.txt"
