"""What was typed is read once more, where the process is MONAI's command; elsewhere nothing is assumed."""

import sys
import types
from pathlib import Path

import pytest

from medseg.bundle import command
from medseg.bundle.command import Command, owns_process, typed
from medseg.bundle.start import folder
from medseg.errors import MedsegError


@pytest.fixture
def monais(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="monai.bundle.__main__")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(command, "_claimed", [])
    return monkeypatch


def test_nothing_is_known_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_claimed", [])
    monkeypatch.setattr(sys, "argv", ["notebook", "run", "--config_file", "x.yaml"])
    assert not owns_process()
    assert typed() == Command()
    assert typed().config() == {}


def test_the_command_line_of_monai(monais: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\ny: {z: 2}\n")
    (tmp_path / "b.yaml").write_text("y#z: 3\n")
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    words = ["run", "--config_file", repr(files), "--x=[4, 5]", "--y::w", "text", "--on", "--run_id", "go"]
    monais.setattr(sys, "argv", ["monai.bundle", *words])
    found = typed()
    assert [path.name for path in found.files] == ["a.yaml", "b.yaml"]
    assert found.overlays() == ["b"]
    assert found.own_keys() == ["x", "y#w", "on"]
    assert found.overrides["run_id"] == "go"
    assert found.config() == {"x": [4, 5], "y": {"z": 3, "w": "text"}, "on": True}


def test_folders_that_look_like_numbers(monais: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monais.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", "a.yaml", "--dataset_dir", "2024_01_05"])
    monais.chdir(tmp_path)
    assert folder(20240105, "dataset_dir", typed()) == str(tmp_path / "2024_01_05")
    assert folder(20240105, "output_dir", typed()) == str(tmp_path / "20240105")


def test_folders_with_a_number_sign(monais: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MONAI's configuration makes ``case::3`` of ``case#3``: another folder, or none."""
    monais.chdir(tmp_path)
    monais.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", "a.yaml", "--dataset_dir", "case#3"])
    assert folder("case::3", "dataset_dir", typed()) == str(tmp_path / "case#3")
    assert folder("case::4", "dataset_dir", typed()) == str(tmp_path / "case::4")  # not what was typed
    given = Command("medseg", (), {"output_dir": tmp_path / "case#3"})
    assert folder(str(tmp_path / "case::3"), "output_dir", given) == str(tmp_path / "case#3")


@pytest.mark.parametrize("value", [True, None, "", 1.5, ["a"]])
def test_what_is_no_folder(value: object) -> None:
    with pytest.raises(MedsegError):
        folder(value, "dataset_dir")


def test_paths_mean_what_a_shell_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("../runs/x", "output_dir") == str(tmp_path / "runs" / "x")
    assert folder("~/a b", "output_dir") == str(tmp_path / "a b")
