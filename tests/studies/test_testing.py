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
from tiny_study import in_this_process, write_data, write_study

from medseg.bundle import workflow
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction.predict import predict
from medseg.studies.study import read_study
from medseg.studies.study_run import run_study
from medseg.studies.testing import CASES, ENSEMBLES, SINGLE, score_test_list

NUMBER = 5  # test cases
ROWS = {"U-Net": "u_net", "LFA U-Net": "lfa_u_net"}


class KilledError(BaseException):
    """Ends a test as nothing in it expects."""


class _Picture:
    def save(self, path: Path) -> None:
        """Save nothing."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with data and the folder ``out`` of a study of two rows and two folds."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    for place in ("confusion.save_confusion", "curves.save_curves", "overlays.overlay_sheet", "slices.save_slices"):
        patch.setattr(f"medseg.reports.{place}", lambda *_, **__: _Picture())
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
    assert main(["study", "test", str(study), "--rows", "U-Net"]) == 0
    said = capsys.readouterr()
    assert f"{NUMBER} test cases: tested 1 time before, on " in said.err
    assert "(not finished)" in said.err
    assert "LFA U-Net" not in said.out
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
