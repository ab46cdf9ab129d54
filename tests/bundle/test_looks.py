"""Who scores a test list is told how often that was done before; a fold that was left out is no test list."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from bundle.test_postprocessing import run_of
from tiny_study import write_data

from medseg.bundle.library import run_of as run_of_weights
from medseg.cli import main
from medseg.runs import tested

TOLD = ("device=cpu", "mlflow=false")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose datalist has three folds, and two more images in its test list."""
    run = run_of(tmp_path, lambda guess, _: guess)
    path = tmp_path / "data" / "datalist.json"
    content = json.loads(path.read_text())
    for number in (6, 7):
        for kind in ("images", "labels"):
            shutil.copy(tmp_path / "data" / kind / f"{number - 6}.png", tmp_path / "data" / kind / f"{number}.png")
        with (tmp_path / "data" / "images" / f"{number}.png").open("ab") as file:
            file.write(b"other bytes")  # after the end of the picture
        content["test"].append({"image": f"images/{number}.png", "label": f"labels/{number}.png"})
    path.write_text(json.dumps(content))
    return run


def test_only_the_test_list_is_looked_at(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said(words: Sequence[str]) -> str:
        """Score; return what is said of looks before."""
        caplog.clear()
        with caplog.at_level("INFO"):
            assert main(["evaluate", str(run), *TOLD, *words]) == 0
        lines = [line for line in caplog.messages if "tested " in line]
        assert len(lines) < 2
        return lines[0].partition(", on ")[0] if lines else ""

    assert said([]) == "", "fold 0, which the run left out"
    assert said(["scored=validation"]) == ""
    assert not (run / "tested.json").exists()
    lists = ["fold=all", "-o", str(tmp_path / "scores")]
    assert said(lists) == "2 test cases: tested for the first time"
    (look,) = tested.read(run)
    digest = hashlib.sha256((run / "model.pt").read_bytes()).hexdigest()
    assert look["weights"] == [{"file": "model.pt", "sha256": digest, "run": None}]
    assert look["cases"] == ["6.png", "7.png"]
    assert look["ended"] >= look["began"]
    assert json.loads((tmp_path / "scores" / "data.json").read_text())["tested_before"] == 0

    other = shutil.copytree(run, tmp_path / "other")
    (other / "tested.json").unlink()
    assert said(["-o", str(tmp_path / "both"), "--ensemble", str(other)]) == "2 test cases: tested 1 time before"
    assert [each["before"] for each in tested.read(other)] == [1]
    assert len(tested.read(run)) == 2
    assert len(tested.read(run)[1]["weights"]) == 2

    elsewhere = shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    content = json.loads((elsewhere / "datalist.json").read_text())
    (elsewhere / "images" / "7.png").rename(elsewhere / "images" / "renamed.png")
    content["test"] = [{"image": "images/renamed.png", "label": "labels/7.png"}]
    (elsewhere / "datalist.json").write_text(json.dumps(content))
    assert said(["--data", str(elsewhere), "fold=all"]) == "1 test case: tested 2 times before", "known by its bytes"
    assert json.loads((run / "test_specks" / "data.json").read_text())["tested_before"] == 2


def test_cases_without_folds_are_in_the_test_list(tmp_path: Path) -> None:
    run = run_of(tmp_path, lambda guess, _: guess)
    other = write_data(tmp_path / "squares", cases=2, tested=1)
    content = json.loads((other / "datalist.json").read_text())
    content["labels"] = {"0": "a", "1": "b", "2": "c"}
    content["training"] = [{key: value for key, value in row.items() if key != "fold"} for row in content["training"]]
    (other / "datalist.json").write_text(json.dumps(content))
    assert main(["evaluate", str(run), "--data", str(other), *TOLD]) == 0
    assert [each["cases"] for each in tested.read(run)] == [["image_2.png"]]


def test_the_run_of_weights(tmp_path: Path) -> None:
    for name, content in (("runs/a", "1"), ("runs/b", "2"), ("bundle/runs/c", "3")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.pt").write_text(content)
    (tmp_path / "runs" / "a" / "metrics.jsonl").touch()
    (tmp_path / "bundle" / "models").mkdir()
    (tmp_path / "runs" / "a" / "checkpoints").mkdir()
    (tmp_path / "runs" / "a" / "checkpoints" / "best.pt").write_text("2")
    runs, published = tmp_path / "runs", tmp_path / "bundle" / "models" / "model.pt"
    assert run_of_weights(runs / "a" / "checkpoints" / "best.pt", runs) == runs / "a"
    for content, wanted in (("2", runs / "b"), ("3", tmp_path / "bundle" / "runs" / "c"), ("4", published.parent)):
        published.write_text(content)
        assert run_of_weights(published, runs) == wanted
