"""A disk that is full, read-only or another's is told in one line, with the way on where there is one."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from costs import Device
from studies.test_plan import QUICK, volumes

from medseg.cli import main
from medseg.cli._disk import refused
from medseg.studies import complexity, plan_and_train

Usage = namedtuple("Usage", ["total", "used", "free"])


def fault(number: int, name: str | None = None) -> OSError:
    return OSError(number, "as it was said") if name is None else OSError(number, "as it was said", name)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (fault(errno.ENOSPC, "/x/y"), "/x/y: No space left on device; make room there, or name another place"),
        (fault(errno.EROFS, "/x/y"), "/x/y: Read-only file system; change the rights of it, or name another place"),
        (fault(errno.EACCES, "/x/y"), "/x/y: Permission denied; change the rights of it, or name another place"),
        (fault(errno.ENOENT, "/x/y"), None),
        (ValueError("x"), None),
        (None, None),
    ],
)
def test_what_is_said(error: BaseException | None, message: str | None) -> None:
    assert refused(error, []) == message


def test_a_right_that_lacked_before_another_fault_is_not_the_fault() -> None:
    later, wrapped = TypeError("a fault of the program"), RuntimeError("while writing")
    later.__context__ = wrapped.__cause__ = fault(errno.EACCES, "/x/y")
    assert refused(later, []) is None
    assert str(refused(wrapped, [])).startswith("/x/y: Permission denied")
    later.__context__ = fault(errno.ENOSPC, "/x/y")  # closing a file that could not be written fails in its own way
    assert str(refused(later, [])).startswith("/x/y: No space left")


def test_the_full_place_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write does not say which file it was of; an error that is wrapped is found."""
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache" / "own"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1, 1, 0 if Path(place).name == "cache" else 2**30))
    (tmp_path / "cache").mkdir()
    outer = RuntimeError("while writing")
    outer.__cause__ = fault(errno.ENOSPC)
    assert str(refused(outer, [tmp_path / "out"])).startswith(f"{tmp_path / 'cache' / 'own'} (MEDSEG_CACHE): No space")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1, 1, 2**30))
    assert str(refused(outer, [tmp_path])).startswith("a disk: No space left on device; make room")


def test_a_disk_that_is_full_after_the_training_leaves_it_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(complexity, "measure", Device().measure)
    words = [f"{key}={str(value).replace(' ', '')}" for key, value in QUICK.items()]
    given = ["train", str(volumes(tmp_path / "data")), "--minutes", "5", "-o", str(tmp_path / "out"), *words]

    def full(*_: object, **__: object) -> None:
        raise fault(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr(plan_and_train, "_baseline", full)
        assert main(given) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("medseg: error: ")
    assert "No space left on device; make room there, or name another place; go on with: medseg train" in line
    assert f"--resume {tmp_path / 'out'}" in line
    assert main(["train", str(tmp_path / "data"), "--resume", str(tmp_path / "out"), *words]) == 0
