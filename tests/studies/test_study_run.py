"""A study from its file to its table, in this process: broken off and resumed, refused, extended."""

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import in_this_process, no_cells, write_data, write_study
from undrawn import draw_nothing

from medseg.cli import main
from medseg.errors import MedsegError
from medseg.runs.lock import FolderLock, LockedError
from medseg.runs.run_folder import RunFolder
from medseg.studies import study_cell
from medseg.studies.executors import Done
from medseg.studies.study import Cell, read_study
from medseg.studies.study_cell import Places, read_made
from medseg.studies.study_pictures import PICTURES, curves_of
from medseg.studies.study_run import make_table, run_study
from medseg.studies.study_table import FILES


class KilledError(BaseException):
    """Ends a training as nothing in it expects."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Draw no pictures, which are most of the work of a training so small."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    draw_nothing(patch)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plain: None) -> Path:
    """Folder with data, study and the study's folder ``out``, run without a break."""
    folder = tmp_path_factory.mktemp("study")
    write_data(folder / "data")
    study = read_study(write_study(folder / "squares.yaml"))
    run_study(study, folder / "out", executor=in_this_process, tracking=False)
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    shutil.copytree(whole, tmp_path / "study")
    folder = tmp_path / "study"
    study = read_study(folder / "squares.yaml")
    (folder / "out" / "study.yaml").write_text(
        (folder / "out" / "study.yaml").read_text().replace(str(whole), str(folder))
    )
    assert Path(study.data) == folder / "data"
    return folder


def test_every_case_is_scored_once_in_its_fold(whole: Path) -> None:
    entries = json.loads((whole / "data" / "datalist.json").read_text())["training"]
    folds = {entry["image"]: str(entry["fold"]) for entry in entries}
    with (whole / "out" / "out_of_fold.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["class"] == "square"]
    for row in ("U-Net", "LFA U-Net"):
        held = [line for line in lines if line["row"] == row]
        assert {line["case"]: line["fold"] for line in held} == folds
        assert len(held) == len(folds)
    assert any(float(line["dice"]) > 0 for line in lines)
    own = (whole / "out" / "cells" / "u_net-fold1-seed0" / "test" / "scores_per_case.csv").read_text()
    one = next(line for line in lines if line["row"] == "U-Net" and line["fold"] == "1")
    assert one["dice"] in own


def test_curves_are_those_that_the_trainings_recorded(whole: Path) -> None:
    study, out = read_study(whole / "squares.yaml"), whole / "out"
    made = [read_made(Places(out), study, cell) for cell in study.cells(study.load())]
    loss = curves_of([each for each in made if each is not None])["training loss"]
    assert {row: len(runs) for row, runs in loss.items()} == {"U-Net": 3, "LFA U-Net": 3}
    text = (out / "cells" / "u_net-fold0-seed0" / "metrics.jsonl").read_text()
    rows = [(row["epoch"], row["loss"]) for row in map(json.loads, text.splitlines())]
    epochs, values = loss["U-Net"][0]
    assert list(zip(epochs, values, strict=True)) == rows
    assert len(rows) == 2


def test_everything_is_in_its_place(whole: Path) -> None:
    out = whole / "out"
    assert all((out / name).is_file() for name in (*FILES, *PICTURES))
    assert (out / "table.html").read_text().count("data:image/") == len(PICTURES)
    cells = sorted(path.name for path in (out / "cells").iterdir())
    assert cells == [f"{row}-fold{fold}-seed0" for row in ("lfa_u_net", "u_net") for fold in range(3)]
    assert list((out / "unfinished").iterdir()) == []
    record = json.loads((out / "cells" / cells[0] / "cell.json").read_text())
    assert record["budget"] == {"epochs": 2}
    assert record["cell"]["row"]["with"] == []
    assert not (out / ".lock").exists()


def test_broken_off_five_times_it_ends_in_the_same_table(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: None
) -> None:
    """Killed before the first record of a cell, between its epochs, after its training and before its name.

    The table is that of the first fold: of the whole study's cells, and of those that were broken off.
    """
    study = read_study(write_study(copied / "squares.yaml", folds=[0]))
    run_study(study, copied / "out", executor=no_cells, tracking=False)
    recorded, evaluated, renamed = RunFolder.append_metrics, study_cell.workflow.evaluate, study_cell.os.rename
    for place in ("first epoch", "second epoch", "evaluation", "name", "second epoch"):
        with monkeypatch.context() as patch:

            def record(self: RunFolder, epoch: int, values: Any, place: str = place) -> None:
                if place == "first epoch" or (place == "second epoch" and epoch == 2):
                    raise KilledError
                recorded(self, epoch, values)

            def evaluate(*arguments: Any, place: str = place, **named: Any) -> Any:
                if place == "evaluation":
                    raise KilledError
                return evaluated(*arguments, **named)

            def rename(old: Any, new: Any, place: str = place) -> None:
                if place == "name":
                    raise KilledError
                renamed(old, new)

            patch.setattr(RunFolder, "append_metrics", record)
            patch.setattr(study_cell.workflow, "evaluate", evaluate)
            patch.setattr(study_cell.os, "rename", rename)
            with pytest.raises(KilledError):
                run_study(study, tmp_path / "out", executor=in_this_process, tracking=False)
    with pytest.raises(MedsegError, match="1 of 2 cells are missing, lfa_u_net-fold0-seed0"):
        make_table(tmp_path / "out")
    run_study(study, tmp_path / "out", executor=in_this_process, tracking=False)
    for name in ("table.md", "table.csv", "table.json", "tests.csv", "out_of_fold.csv"):
        assert (tmp_path / "out" / name).read_text() == (copied / "out" / name).read_text(), name
    assert list((tmp_path / "out" / "unfinished").iterdir()) == []


def test_fixed_lists_and_a_row_alone(tmp_path: Path, plain: None) -> None:
    """A list without folds, scored on its validation part with keys of the evaluation alone; nothing to compare."""
    place = write_data(tmp_path / "data") / "datalist.json"
    content = json.loads(place.read_text())
    entries = [{key: value for key, value in entry.items() if key != "fold"} for entry in content["training"]]
    place.write_text(json.dumps({**content, "training": entries[:4], "validation": entries[4:]}))
    rows = [{"name": "U-Net", "with": ["unet"], "score_set": {"inference#overlap": 0.5}}]
    study = read_study(write_study(tmp_path / "s.yaml", rows=rows, scored="validation", epochs=1, seeds=[3]))
    table = run_study(study, tmp_path / "out", executor=in_this_process, tracking=False)
    assert table.pairs == {}
    notes = " ".join(table.main().notes)
    assert "mean over 5 cases of 5, those of the validation list (which picked the weights" in notes
    folder = tmp_path / "out" / "cells" / "u_net-lists-seed3"
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 3
    assert json.loads((folder / "cell.json").read_text())["cell"]["row"]["score_set"] == {"inference#overlap": 0.5}
    assert "differences" not in (tmp_path / "out" / "table.md").read_text()
    assert json.loads((tmp_path / "out" / "table.json").read_text())[1]["rows"] == []
    (folder / "validation" / "scores_per_case.csv").write_text(
        "case,group,class,dice,iou\nx,,(all),1,1\nx,,square,1,1\n"
    )
    with pytest.raises(MedsegError, match="holds 1 case, the fold has 5; score it again: medseg evaluate"):
        make_table(tmp_path / "out")


def test_what_is_complete_is_not_made_again(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = read_study(copied / "squares.yaml")
    again = run_study(study, copied / "out", executor=no_cells, tracking=False)
    assert [row[0] for row in again.main().rows] == ["U-Net", "LFA U-Net"]
    assert main(["study", "table", str(copied / "out")]) == 0
    said = capsys.readouterr().out
    assert "LFA U-Net less U-Net" in said
    assert "mean over 9 cases of 9, each scored once, in the fold that held it out" in said


def test_a_cell_that_is_missing(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "out" / "cells" / "u_net-fold1-seed0")
    assert main(["study", "table", str(copied / "out")]) == 2
    assert "1 of 6 cells are missing, u_net-fold1-seed0; make them: medseg study run" in capsys.readouterr().err
    assert main(["study", "table", str(copied / "out"), "--incomplete"]) == 0
    assert "1 of 6 cells are missing: u_net-fold1-seed0" in capsys.readouterr().out


def test_cells_of_another_row_are_refused(copied: Path) -> None:
    rows = [{"name": "U-Net", "with": ["attention_unet"]}, {"name": "LFA U-Net"}]
    changed = read_study(write_study(copied / "squares.yaml", rows=rows))
    with pytest.raises(
        MedsegError, match=r"u_net-fold0-seed0: was made otherwise .*row with was .*'unet'.*; name the row"
    ):
        run_study(changed, copied / "out", executor=no_cells, tracking=False)


def test_cells_of_another_commit_are_refused_before_one_is_made(copied: Path) -> None:
    folder = copied / "out" / "cells" / "u_net-fold0-seed0"
    record = json.loads((folder / "cell.json").read_text())
    record["code"]["commit"] = "0" * 40
    (folder / "cell.json").write_text(json.dumps(record))
    shutil.rmtree(copied / "out" / "cells" / "lfa_u_net-fold2-seed0")
    with pytest.raises(MedsegError, match=r"cells of different code do not make one table: .*000000000000"):
        run_study(read_study(copied / "squares.yaml"), copied / "out", executor=no_cells, tracking=False)
    table = make_table(copied / "out", mixed=True, incomplete=True)
    assert any(note.startswith("cells of different code stand in this table") for note in table.notes)


def test_data_that_have_changed_since_are_refused(copied: Path) -> None:
    place = copied / "data" / "datalist.json"
    place.write_text(place.read_text().replace("drawn by the tests", "drawn anew"))
    with pytest.raises(MedsegError, match=r"cells of different data .*the study and data at hand"):
        run_study(read_study(copied / "squares.yaml"), copied / "out", executor=no_cells, tracking=False)
    notes = make_table(copied / "out", mixed=True).notes
    assert any(note.startswith("cells of different data") for note in notes)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("cell.json", "[]", "no record of a cell; remove the cell's folder"),
        ("test/scores.json", '{"a"', "is damaged or not there; score the cell again: medseg evaluate "),
        ("test/scores.json", None, "is damaged or not there; score the cell again: medseg evaluate "),
        ("test/scores_per_case.csv", "", "is damaged or not there; score the cell again: medseg evaluate "),
        ("test/scores_per_case.csv", None, "is damaged or not there; score the cell again: medseg evaluate "),
        ("test/evaluation.json", "{}", "is damaged or not there; score the cell again: medseg evaluate "),
    ],
)
def test_a_damaged_cell_is_named_in_one_line(
    copied: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | None, said: str
) -> None:
    path = copied / "out" / "cells" / "u_net-fold0-seed0" / file
    assert path.is_file()
    path.unlink() if content is None else path.write_text(content)
    for words in (["table", str(copied / "out")], ["run", str(copied / "squares.yaml"), "-o", str(copied / "out")]):
        assert main(["study", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(f"medseg: error: {path}: is damaged")
        assert said in error.splitlines()[0] == error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 3}, r"cells of different budgets .* 2 epochs \(.*; 3 epochs \(the study and data at hand\)"),
        ({"epochs": None, "minutes": 1}, r"cells of different budgets .* 2 epochs \(.*; 1 minute \(the study"),
        ({"epochs": None}, r"was begun with epochs: 2, which the study no longer says; give it again"),
    ],
)
def test_a_budget_that_was_changed_since_is_refused(copied: Path, changes: dict[str, Any], said: str) -> None:
    study = read_study(write_study(copied / "squares.yaml", **changes))  # whose cells are all there
    asked = (copied / "out" / "study.yaml").read_bytes()
    for _ in range(2):
        with pytest.raises(MedsegError, match=said):
            run_study(study, copied / "out", executor=no_cells, tracking=False)
        assert (copied / "out" / "study.yaml").read_bytes() == asked


def test_what_killed_processes_left_and_a_study_file_that_is_gone(copied: Path) -> None:
    out = copied / "out"
    tables = {name: (out / name).read_bytes() for name in FILES}
    old, new, own = (out / f".00000000.{name}" for name in ("table.md", "table.csv", "own.md"))
    for path, age in ((old, 0), (new, time.time()), (own, 0)):
        path.write_text("half of it")
        os.utime(path, (age, age))
    (out / "study.yaml").unlink()
    run_study(read_study(copied / "squares.yaml"), out, executor=no_cells, tracking=False)
    assert not old.exists()
    assert new.exists(), "which another command may be writing"
    assert own.exists(), "which is nothing of ours"
    assert {name: (out / name).read_bytes() for name in FILES} == tables


def test_minutes_are_gone_on_with_whatever_processors_the_study_itself_has(copied: Path) -> None:
    for path in (copied / "out" / "cells").glob("*/cell.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "budget": {"minutes": 5, "on": "a processor, threads: 1"}}))
    shutil.rmtree(copied / "out" / "cells" / "u_net-fold0-seed0")

    def none_done(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        yield from (Done(cell.name, "not now") for cell in cells)

    for minutes, message in ((5, "1 cell of 1 could not be made"), (6, "cells of different budgets")):
        study = read_study(write_study(copied / "squares.yaml", epochs=None, minutes=minutes))
        with pytest.raises(MedsegError, match=message):
            run_study(study, copied / "out", executor=none_done, tracking=False)


def test_a_cell_that_other_code_began(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "out" / "cells" / "u_net-fold1-seed0")
    work = copied / "out" / "unfinished" / "u_net-fold1-seed0"
    work.mkdir()
    begun = json.loads((copied / "out" / "cells" / "u_net-fold0-seed0" / "cell.json").read_text())
    begun["cell"]["fold"], begun["code"] = 1, {"commit": "0" * 40, "changed": False}
    (work / "begun.json").write_text(json.dumps(begun))
    with pytest.raises(
        MedsegError, match=r"was begun otherwise: code commit was 0000.*\(--mixed goes on with other code"
    ):
        study_cell.run_cell(copied / "out", "u_net-fold1-seed0")
    begun["cell"]["fold"] = 2
    (work / "begun.json").write_text(json.dumps(begun))
    with pytest.raises(MedsegError, match=r"cell fold was 2 and is 1 now.*remove this folder"):
        study_cell.run_cell(copied / "out", "u_net-fold1-seed0", mixed=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"show": ["hd95"]}, "row U-Net: show names 'hd95', which is not scored; there are iou, dice"),
        ({"rows": [{"name": "a"}, {"name": "b", "with": ["no"]}]}, "has no overlay 'no'"),
        ({"rows": [{"name": "a", "set": {"batch_sise": 2}}]}, "batch_sise"),
        ({"scores": {"distance": {}}}, "distance"),
    ],
)
def test_rows_that_cannot_be_trained_are_refused_before_one_is(
    whole: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    study = read_study(write_study(tmp_path / "s.yaml", data=str(whole / "data"), **changes))
    with pytest.raises(MedsegError, match=message):
        run_study(study, tmp_path / "out", executor=no_cells, tracking=False)


def test_never_two_in_one_folder(copied: Path) -> None:
    study = read_study(copied / "squares.yaml")
    lock = FolderLock(copied / "out")
    lock.acquire()
    with pytest.raises(LockedError, match="is in use by process"):
        run_study(study, copied / "out", executor=no_cells, tracking=False)
    lock.release()
    shutil.rmtree(copied / "out" / "cells" / "u_net-fold0-seed0")
    work = copied / "out" / "unfinished" / "u_net-fold0-seed0"
    work.mkdir()
    lock = FolderLock(work)
    lock.acquire()
    with pytest.raises(LockedError, match="is in use by process"):
        study_cell.run_cell(copied / "out", "u_net-fold0-seed0", patience=0)
    lock.release()


def test_cells_that_fail_are_named_and_the_others_made(copied: Path) -> None:
    for name in ("u_net-fold0-seed0", "u_net-fold1-seed0"):
        shutil.move(copied / "out" / "cells" / name, copied / name)

    def half(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        names = [cell.name for cell in cells]
        yield Done(names[0], "the disk is full; see log")
        shutil.move(copied / names[1], folder / "cells" / names[1])
        yield Done(names[1])

    said: list[str] = []
    with pytest.raises(MedsegError, match=r"1 cell of 2 could not be made; .*\n  u_net-fold0-seed0: the disk is full"):
        run_study(
            read_study(copied / "squares.yaml"), copied / "out", executor=half, tracking=False, say=said.append
        )  # fmt: skip
    assert f"2 cells to make in {copied / 'out'}; how far each is: {copied / 'out' / 'logs'}" in said
    assert said[-1].startswith("2 of 2  u_net-fold1-seed0  about 0 min left")


@pytest.mark.usefixtures("copied_stores")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
def test_mlflow_has_the_study_and_its_cells(copied: Path) -> None:
    from mlflow.tracking import MlflowClient

    study = read_study(copied / "squares.yaml")
    uri = f"sqlite:///{copied / 'store' / 'mlflow.db'}"
    for _ in range(2):  # told twice, it adds nothing
        run_study(study, copied / "out", executor=no_cells, tracking_uri=uri)
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'Squares'")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["out"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted(run.info.run_name for run in children) == sorted(p.name for p in (copied / "out" / "cells").iterdir())
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "U-Net/dice_square" in parents[0].data.metrics
    assert children[0].data.params["max_epochs"] == "2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "squares.yaml", "-o", "data"], "holds something else; name a new folder, or that of a study"),
        (["run", "squares.yaml", "-o", "squares.yaml"], "is a file; name a folder for the study"),
        (["table", "data"], "holds no study.yaml; name the folder of a study"),
        (["cell", "out", "u_net-fold9-seed0"], "has no cell 'u_net-fold9-seed0'; its cells are u_net-fold0-seed0"),
    ],
)
def test_wrong_folders(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(copied)
    assert main(["study", *arguments]) == 2
    assert said in capsys.readouterr().err
