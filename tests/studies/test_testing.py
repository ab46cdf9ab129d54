"""The test list is touched by one command, which writes it down; its tables are of the masks that models write."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_study import in_this_process, jobs_in_this_process, write_data, write_study
from undrawn import draw_nothing

from medseg.bundle import workflow
from medseg.cli import main
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError
from medseg.prediction.predict import predict
from medseg.runs.mlflow_store import artifact_path
from medseg.studies.executors import CellsError
from medseg.studies.held_out import predict_held_out
from medseg.studies.score_folders import score_folders
from medseg.studies.study import read_study
from medseg.studies.study_run import run_study
from medseg.studies.study_table import StudyTable
from medseg.studies.testing import CASES, ENSEMBLES, SINGLE
from medseg.studies.testing import score_test_list as score

NUMBER = 5  # test cases
ROWS = {"U-Net": "u_net", "LFA U-Net": "lfa_u_net"}


class KilledError(BaseException):
    """Ends a test as nothing in it expects."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with data and the folder ``out`` of a study of two rows and two folds."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    draw_nothing(patch)
    folder = tmp_path_factory.mktemp("study")
    write_data(folder / "data", folds=2, cases=8, tested=NUMBER)
    content = json.loads((folder / "data" / "datalist.json").read_text())
    for entry in content["test"]:  # as the decathlon writes its paths
        entry["image"] = f"./{entry['image']}"
    (folder / "data" / "datalist.json").write_text(json.dumps(content))
    study = read_study(write_study(folder / "squares.yaml"))
    run_study(study, folder / "out", executor=in_this_process, tracking=False)
    yield folder
    patch.undo()


@pytest.fixture
def study(trained: Path, tmp_path: Path) -> Path:
    """A copy of the study's folder, whose data are those of the original."""
    return Path(shutil.copytree(trained / "out", tmp_path / "out"))


def score_test_list(study: Path, **given: Any) -> tuple[Path, dict[str, StudyTable]]:
    return score(study, **{"executor": jobs_in_this_process, "tracking": False, **given})


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def dices(runs: list[Path], data: Path, masks: Path) -> dict[str, float]:
    """Return the Dice of the square in each test case, of the masks that a prediction writes."""
    found = {}
    for entry in json.loads((data / "datalist.json").read_text())["test"]:
        predict(runs, data / entry["image"], masks, overrides={"device": "cpu"})
        truth, mask = (np.asarray(Image.open(at)) == 1 for at in (data / entry["label"], masks / entry["image"]))
        found[Path(entry["image"]).name] = float(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
    return found


def test_tables_are_of_the_masks_that_are_written(trained: Path, study: Path, tmp_path: Path) -> None:
    target, tables = score_test_list(study)
    assert target == study / "tests" / "1"
    assert list(tables) == [ENSEMBLES, SINGLE]
    best = 0.0
    for row, slug in ROWS.items():
        runs = [study / "cells" / f"{slug}-fold{fold}-seed0" for fold in range(2)]
        together = [line for line in lines_of(target / ENSEMBLES / CASES) if line["row"] == row]
        wanted = dices(runs, trained / "data", tmp_path / f"masks_{slug}")
        assert len(wanted) == NUMBER
        held = {line["case"]: float(line["dice"]) for line in together if line["class"] == "square"}
        assert held == pytest.approx(wanted)
        best = max(best, *wanted.values())
        alone = [line for line in lines_of(target / SINGLE / CASES) if (line["row"], line["class"]) == (row, "square")]
        assert len(alone) == 2 * NUMBER
        second = {line["case"]: float(line["dice"]) for line in alone if line["run"] == "fold1-seed0"}
        assert second == pytest.approx(dices(runs[1:], trained / "data", tmp_path / f"mask_{slug}"))
    assert best > 0
    for name in (ENSEMBLES, SINGLE):
        files = {path.name for path in (target / name).iterdir() if path.is_file()}
        assert {"table.md", "table.csv", "table.tex", "table.json", "table.html", "tests.csv", CASES} <= files
        assert list(tables[name].pairs) == [("U-Net", "LFA U-Net", "dice", "")]
        text = (target / name / "table.md").read_text()
        assert f"mean over {NUMBER} cases of {NUMBER}, those of the test list" in text
        assert f"draws of {NUMBER} groups" in text
        assert "tested for the first time" in text
    assert "a case's score is its mean over 2 runs" in (target / SINGLE / "table.md").read_text()


def test_each_test_is_written_down(
    trained: Path, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "evaluate_together", killed)
        with pytest.raises(KilledError):
            score_test_list(study)
    workers: list[int] = []
    monkeypatch.setattr("medseg.jobs.here.here", lambda number: workers.append(number) or jobs_in_this_process)
    assert main(["study", "test", str(study), "--rows", "U-Net", "--workers", "2", "--no-mlflow"]) == 0
    assert workers == [2]
    said = capsys.readouterr()
    assert f"{NUMBER} test cases: tested 1 time before, on " in said.err
    assert "(not finished)" in said.err
    assert "LFA U-Net" not in said.out
    assert "3 of 3  " in said.err
    assert "tested 1 time before, on " in (study / "tests" / "1" / ENSEMBLES / "table.html").read_text()

    first, second = json.loads((study / "tested.json").read_text())
    assert (first["ended"], first["before"], second["before"]) == (None, 0, 1)
    assert second["ended"] >= second["began"] >= first["began"]
    assert (first["rows"], second["rows"]) == (list(ROWS), ["U-Net"])
    names = [f"u_net-fold{fold}-seed0" for fold in range(2)]
    files = [study / "cells" / name / "model.pt" for name in names]
    assert second["weights"] == [
        {"file": "model.pt", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "run": name}
        for name, file in zip(names, files, strict=True)
    ]
    assert second["cases"] == [f"image_{number}.png" for number in range(8, 8 + NUMBER)]
    assert json.loads((study / "cells" / names[1] / "tested.json").read_text()) == [first, second]
    assert json.loads((study / "cells" / "lfa_u_net-fold0-seed0" / "tested.json").read_text()) == [first]

    (study / "tested.json").unlink()  # the runs know it still, those beside them too
    score_test_list(study, rows=["LFA U-Net"])
    (third,) = json.loads((study / "tested.json").read_text())
    assert third["before"] == 2
    (study / "tested.json").write_text("{")
    with pytest.raises(MedsegError, match=r"tested\.json does not say when the test list was looked at"):
        score_test_list(study)


def test_other_looks_count_too(study: Path) -> None:
    cell = study / "cells" / "lfa_u_net-fold1-seed0"
    assert main(["evaluate", str(cell), "device=cpu", "mlflow=false", "-o", str(study.parent / "scores")]) == 0
    assert not (cell / "tested.json").exists(), "the fold that it left out"
    given = ["device=cpu", "mlflow=false", "fold=all", "-o", str(study.parent / "scores")]
    assert main(["evaluate", str(cell), *given]) == 0
    target, _ = score_test_list(study, rows=["U-Net"])
    assert "tested 1 time before, on " in (target / SINGLE / "table.md").read_text()
    first, second = json.loads((study / "tested.json").read_text())
    assert (first["before"], second["before"]) == (0, 1)
    assert [each["run"] for each in first["weights"]] == [cell.name]


def test_cells_of_a_study_of_fixed_lists_are_looks(tmp_path: Path, undrawn: None) -> None:
    write_data(tmp_path / "data", folds=2, cases=4, tested=2)
    content = json.loads((tmp_path / "data" / "datalist.json").read_text())
    content["training"] = [{k: v for k, v in row.items() if k != "fold"} for row in content["training"]]
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    study = read_study(
        write_study(
            tmp_path / "lists.yaml", folds=[], epochs=1, rows=[{"name": "U-Net", "with": ["unet"]}], seeds=[0, 1]
        )
    )
    run_study(study, tmp_path / "out", executor=in_this_process, tracking=False)
    looks = json.loads((tmp_path / "out" / "tested.json").read_text())
    assert [(each["before"], each["weights"][0]["run"]) for each in looks] == [
        (0, "u_net-lists-seed0"),
        (1, "u_net-lists-seed1"),
    ]
    assert json.loads((tmp_path / "out" / "cells" / "u_net-lists-seed1" / "tested.json").read_text()) == looks[1:]


def test_a_part_that_fails_ends_the_test(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = workflow.evaluate_together

    def failing(runs: Sequence[Path], **given: Any) -> Any:
        if Path(given["output"]).name == "u_net-fold1-seed0":
            raise MedsegError("no memory")
        return whole(runs, **given)

    monkeypatch.setattr(workflow, "evaluate_together", failing)
    with pytest.raises(CellsError, match=r"1 ensemble or run of 3 could not be made; .* begins another test") as caught:
        score_test_list(study, rows=["U-Net"])
    assert list(caught.value.failed) == [f"{SINGLE}/u_net-fold1-seed0"]
    (look,) = json.loads((study / "tested.json").read_text())
    assert (look["ended"], look["tables"]) == (None, "tests/1")
    assert not (study / "tests" / "1" / SINGLE / "table.html").exists()
    for words in ([look["id"], f"{SINGLE}/u_net-fold9-seed0"], ["0" * 16, f"{SINGLE}/u_net-fold1-seed0"]):
        assert main(["study", "part", str(study), *words]) == 2


@pytest.mark.usefixtures("copied_stores")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's with SQLAlchemy 2.1
def test_mlflow_has_the_test_and_its_parts(study: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    target, tables = score_test_list(study, tracking=True, tracking_uri=uri, rows=["U-Net"])
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'Squares'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == "out_test_1"
    long = tables[ENSEMBLES].long()
    means = [dict(zip(long.columns, row, strict=True)) for row in long.rows]
    (mean,) = [line["mean"] for line in means if (line["score"], line["class"]) == ("dice", "square")]
    assert parent.data.metrics[f"{ENSEMBLES}/U-Net/dice_square"] == pytest.approx(mean)
    assert f"{SINGLE}/U-Net/dice_square" in parent.data.metrics
    place = artifact_path(uri, parent.info.artifact_uri)
    assert place is not None
    assert {"table.html", CASES} <= {path.name for path in (place / ENSEMBLES).iterdir()}
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert sorted(children) == ["u_net-fold0-seed0", "u_net-fold1-seed0", "u_net-seed0"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    for kind in (ENSEMBLES, SINGLE):
        for folder in filter(Path.is_dir, (target / kind).iterdir()):
            pooled = json.loads((folder / "scores.json").read_text())
            assert children[folder.name].data.metrics["test_mean_dice"] == pytest.approx(pooled["mean_dice"])


def test_what_is_no_test(trained: Path, study: Path, tmp_path: Path) -> None:
    def asked(change: Any, copied: Sequence[str] = ()) -> None:
        """Ask for a test of the study with other data."""
        data = Path(shutil.copytree(trained / "data", tmp_path / "data", dirs_exist_ok=True))
        content = json.loads((trained / "data" / "datalist.json").read_text())
        change(content)
        (data / "datalist.json").write_text(json.dumps(content))
        text = (trained / "out" / "study.yaml").read_text()
        (study / "study.yaml").write_text(text.replace(str(trained / "data"), str(data)))
        if copied:
            shutil.copy(data / copied[0], data / copied[1])
        score_test_list(study, mixed=bool(copied))

    with pytest.raises(MedsegError, match="its test list is empty, so that there is nothing to test on; fill the list"):
        asked(lambda content: content.update(test=[]))
    with pytest.raises(MedsegError, match=r"1 group of the test list \(such as g0\) are in training too"):
        asked(lambda content: content["test"][1].update(group="g0"))
    with pytest.raises(MedsegError, match="cells of different data do not make one table"):
        asked(lambda content: content["test"].pop())
    with pytest.raises(MedsegError, match=r"was trained on 1 of the 5 images to score, .*the same bytes as "):
        asked(lambda content: None, copied=["image_0.png", "image_9.png"])
    shutil.copy(trained / "out" / "study.yaml", study / "study.yaml")
    with pytest.raises(MedsegError, match="has no row 'UNet'; there are U-Net, LFA U-Net"):
        score_test_list(study, rows=["UNet"])
    shutil.rmtree(study / "cells" / "u_net-fold0-seed0")
    with pytest.raises(MedsegError, match="1 of 4 cells are missing, u_net-fold0-seed0; make them before they are"):
        score_test_list(study)
    with pytest.raises(MedsegError, match=r"holds no study\.yaml; name the folder of a study"):
        score_test_list(tmp_path)
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(text.replace("folds: all", "folds: []"))
    with pytest.raises(MedsegError, match="its own table is of the test list already"):
        score_test_list(study)
    assert not (study / "tested.json").exists()
    assert not (study / "tests").exists()


def test_masks_of_a_study_are_those_that_its_table_scored(
    trained: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "predict", str(study), "-o", str(tmp_path / "masks"), "--measurements"]) == 0
    assert capsys.readouterr().err.count("4 masks written, 0 there before") == 4
    data = Datalist.load(trained / "data" / "datalist.json")
    lines = [line for line in lines_of(study / "out_of_fold.csv") if line["class"] == "square"]
    best = 0.0
    for row, slug in ROWS.items():
        table = score_folders(tmp_path / "masks" / f"{slug}-seed0", data)
        assert (table.predictions, table.failures) == (8, [])
        found = {str(each["case"]): each["dice"] for each in table.result.rows if each["class"] == "square"}
        held = {Path(line["case"]).stem: float(line["dice"]) for line in lines if line["row"] == row}
        assert {Path(name).stem: value for name, value in found.items()} == pytest.approx(held)
        best = max(best, *held.values())
        assert (tmp_path / "masks" / f"{slug}-seed0" / "measurements.csv").is_file()
    assert best > 0
    assert main(["study", "predict", str(study), "-o", str(tmp_path / "masks"), "--rows", "U-Net"]) == 0
    assert capsys.readouterr().err.count("0 masks written, 4 there before") == 2


def test_masks_of_a_study_that_is_not_complete(study: Path, tmp_path: Path) -> None:
    shutil.rmtree(study / "cells" / "u_net-fold1-seed0")
    with pytest.raises(MedsegError, match="1 cell missing: u_net-fold1-seed0; go on with medseg study run"):
        predict_held_out(study, tmp_path / "masks")
    with pytest.raises(MedsegError, match="no row 'U-net'; there are U-Net, LFA U-Net"):
        predict_held_out(study, tmp_path / "masks", rows=["U-net"])
    with pytest.raises(MedsegError, match=r"holds no study\.yaml; name the folder of a study"):
        predict_held_out(tmp_path, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
