"""What a pack says of a model's data and scores is so: splits, sources, and which scores are those of a test."""

import json
from pathlib import Path
from typing import Any

import pytest
from bundle.test_native_scores import write_cases, write_run
from bundle.test_pack import contents, evaluate
from tiny_models import write_model

from medseg.bundle import library, workflow
from medseg.bundle.evaluation import describe_weights
from medseg.bundle.library import PLACE
from medseg.bundle.pack import pack
from medseg.bundle.source import read_source


@pytest.fixture
def run(tmp_path: Path) -> Path:
    weights = write_model(tmp_path / "run" / "model.pt", "grey")
    evaluate(weights.parent / "test", describe_weights(weights)["sha256"])
    return weights.parent


def card(run: Path, name: str) -> str:
    return contents(pack(run, run.parent / f"{name}.zip").path)["docs/README.md"].decode()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"split": "test", "seen": {"training": 0, "validation": 0}}, {"mean_dice": 0.625, "mean_iou": 0.5}),
        ({"split": "test", "seen": {"training": 3, "validation": 0}}, {}),
        ({"split": "training"}, {}),
        ({"split": "validation"}, {}),
    ],
)
def test_the_zoo_is_shown_scores_of_a_test_alone(run: Path, data: dict[str, Any], shown: dict[str, float]) -> None:
    path = run / "test" / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": data}))
    files = contents(pack(run, run.parent / "a.zip").path)
    assert json.loads(files["configs/metadata.json"])["eval_metrics"] == shown
    assert "0.625" in files["docs/README.md"].decode()  # which says of what it is


def test_a_bundle_that_was_trained_on_other_data_lends_no_source(tmp_path: Path) -> None:
    """By its name it did: a card said of weights for other classes that they are of the bundle's data."""
    source = read_source(library.find("lfa_unet_hippocampus"))
    for name, classes in (("others", ["a", "b", "c"]), ("own", source.description.classes)):
        weights = write_model(tmp_path / name / "model.pt", "grey", name=source.description.name, classes=classes)
        assert (source.texts["data_source"] in card(weights.parent, name)) is (name == "own")


@pytest.mark.parametrize(("fold", "said"), [("all", "all images that may be trained on"), (1, "all but fold 1")])
def test_the_split_of_folds(run: Path, fold: Any, said: str) -> None:
    (run / "data.json").write_text(json.dumps({"name": "Cells", "fold": fold, "fingerprint": None}))
    assert f"| Split | {said} |" in card(run, "a")


def test_without_folds_there_is_no_fold_0(tmp_path: Path) -> None:
    """It is the default, which takes the lists as they are; records and the report named it."""
    (tmp_path / "data").mkdir()
    write_cases(tmp_path / "data", "RAS")
    made = write_run(tmp_path / "run", input={"intensity": {"scheme": "range"}}, inference={"window": [8, 8, 8]})
    (made / PLACE).write_text(json.dumps({"datalist": str(tmp_path / "data" / "datalist.json")}))
    scored = workflow.evaluate(made, overrides={"device": "cpu", "mlflow": False}).folder
    assert json.loads((scored / "evaluation.json").read_text())["data"]["fold"] is None
    assert json.loads((scored / "data.json").read_text())["fold"] is None
