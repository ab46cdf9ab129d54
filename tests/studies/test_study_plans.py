"""Rows of a study that ask for a plan."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_study import write_data, write_study

from medseg.errors import MedsegError
from medseg.studies import study_run
from medseg.studies.executors import Done
from medseg.studies.study import Cell, read_study
from medseg.studies.study_run import run_study


class KilledError(BaseException):
    """Ends a planning as nothing in it expects."""


def test_a_plan_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or not at all, for what two cells at a time get each; the row's cells then train it as a bundle."""
    from medseg.bundle import library
    from medseg.studies import plan, plan_bundle, plan_network

    write_data(tmp_path / "data")
    asked: list[dict[str, Any]] = []
    broken = [True]

    def write(made: Any, data: Any, folder: Path, name: str | None) -> None:
        shutil.copytree(library.find("unet_drosophila"), folder, dirs_exist_ok=True)
        if broken.pop() if broken else False:
            raise KilledError

    monkeypatch.setattr(plan, "make_plan", lambda data, **wanted: asked.append(wanted) or SimpleNamespace(found=None))
    monkeypatch.setattr(plan_bundle, "write_configuration", write)
    monkeypatch.setattr(plan_bundle, "_page", lambda *_: "a page")
    monkeypatch.setattr(plan_bundle.fingerprint_page, "write", lambda *_: None)
    monkeypatch.setattr(plan_network, "memory_limit", lambda *_: SimpleNamespace(value=6 * 2**30))
    monkeypatch.setattr(study_run, "pick_device", lambda device: device)
    row = {"name": "planned", "plan": "unet", "dimensions": 2, "memory": 4, "set": {"device": "cpu"}}
    rows = [row, {"name": "free", "plan": "unet", "set": {"device": "cuda"}}]
    study = read_study(write_study(tmp_path / "s.yaml", rows=rows, epochs=None, minutes=3))
    named: list[str] = []

    def none_done(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        named.extend(cell.name for cell in cells)
        yield from (Done(cell.name, "not now") for cell in cells)

    def sharing(settings: dict[str, Any]) -> int:
        return 2 if settings["device"] == "cpu" else 3

    with pytest.raises(KilledError):
        run_study(study, tmp_path / "out", executor=none_done, sharing=sharing, tracking=False)
    assert not (tmp_path / "out" / "plans" / "planned").exists()
    for _ in range(2):
        with pytest.raises(MedsegError, match="6 cells of 6 could not be made"):
            run_study(study, tmp_path / "out", executor=none_done, sharing=sharing, tracking=False)
    first = {"network": "unet", "dimensions": 2, "memory": 4, "minutes": 1.5, "device": "cpu"}
    free = {"network": "unet", "dimensions": None, "memory": 2, "minutes": 1, "device": "cuda"}
    assert [{key: call[key] for key in first} for call in asked] == [first, first, free]
    assert sorted(path.name for path in (tmp_path / "out" / "plans").iterdir()) == ["free", "planned"]
    assert named[:6:2] == [f"planned-fold{fold}-seed0" for fold in range(3)]
