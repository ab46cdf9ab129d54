"""Each look at a test list is on record beside the weights, and none is lost or counted twice."""

import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.runs import tested


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def look(run: Path, *images: str, others: tuple[Path, ...] = ()) -> str:
    """Look at images by a run, alone or with others; return what is said of the looks before."""
    with tested.on_record([run, *others], {"images": list(images)}) as begun:
        held = json.loads((run / "tested.json").read_text())[-1]
        assert held == {key: value for key, value in begun.items() if key != "said"}
        assert held["ended"] is None
    assert json.loads((run / "tested.json").read_text())[-1]["ended"]
    return str(begun["said"]).partition(", on ")[0]


def _write(run: Path, number: int) -> None:
    for count in range(8):
        tested.note(run, {"id": f"{number}-{count}", "began": "2026-01-01", "images": []})


def test_processes_at_once_lose_no_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write, args=(tmp_path, number)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    assert {each["id"] for each in tested.read(tmp_path)} == {f"{n}-{c}" for n in range(4) for c in range(8)}
    assert [path.name for path in tmp_path.iterdir()] == ["tested.json"]


def test_looks_count_that_share_an_image(tmp_path: Path) -> None:
    first, second, far = (folder(tmp_path / name) for name in ("runs/a", "runs/b", "elsewhere/c"))
    assert look(first, "x", "y") == "tested for the first time"
    assert look(first, "y", "z") == "tested 1 time before"
    assert look(first, "w") == "tested for the first time"
    assert look(second, "x") == "tested 1 time before", "runs in one folder know each other's looks"
    assert look(far, "x") == "tested for the first time"
    assert look(far, "x", "y", "z", others=(first, second)) == "tested 4 times before"
    assert len(tested.read(far)) == 2
    assert [each["before"] for each in tested.read(second)] == [1, 4], "a look is one, by however many runs"


def test_a_study_knows_the_looks_of_its_cells(tmp_path: Path) -> None:
    study = folder(tmp_path / "study")
    (study / "study.yaml").write_text("rows: []")
    begun, cell = folder(study / "unfinished" / "a" / "a"), folder(study / "cells" / "b")
    assert look(begun, "x") == "tested for the first time"
    assert look(cell, "x") == "tested 1 time before"
    assert [each["before"] for each in tested.read(study)] == [0, 1]
    (cell / "tested.json").unlink()
    assert look(cell, "x") == "tested 2 times before", "the study knows it still"


def test_what_is_broken_off_was_a_look(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tested.on_record([tmp_path], {"images": ["x"]}):
        raise KeyboardInterrupt
    with tested.on_record([tmp_path], {"images": ["x"]}) as begun:
        assert begun["said"].endswith(" (not finished)")


def test_records_that_cannot_be_read_or_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, beside = folder(tmp_path / "runs" / "own"), folder(tmp_path / "runs" / "beside")
    (beside / "tested.json").write_text('[{"id": "1"}]')
    assert look(own, "x") == "tested for the first time"
    assert "its looks are not counted here" in caplog.messages[-1]
    (own / "tested.json").write_text("{")
    with pytest.raises(MedsegError, match=r"own/tested\.json does not say when the test list was looked at") as caught:
        look(own, "x")
    assert "\n" not in str(caught.value)
    (own / "tested.json").unlink()
    (beside / "tested.json").unlink()
    (own / ".tested.lock").mkdir()  # refuses root, too
    with caplog.at_level(logging.WARNING), tested.on_record([own, beside], {"images": ["x"]}):
        pass
    assert "own/tested.json cannot be written (Is a directory)" in caplog.messages[-1]
    assert tested.read(own) == []
    assert tested.read(beside)[0]["ended"]
