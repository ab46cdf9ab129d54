"""What an evaluation records of itself."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.test_evaluator import LABELS, Threshold
from pairs import LOAD
from torch import Tensor, nn

from medseg.bundle.evaluation import describe_network, evaluate
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.errors import MedsegError
from medseg.runs.metadata import weights_hash
from medseg.runs.tracking import MLflowTracker


class Tinted(Threshold):
    """As `Threshold`, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift[:, None, None]


def evaluator_of(entries: list[dict[str, Any]]) -> Evaluator:
    return Evaluator("cpu", SegmentationDataset(entries, LOAD), Tinted(), LABELS, precision="fp32")


def test_weights_network_and_environment_are_recorded(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "me" / "my_run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    weights = run / "checkpoints" / "best.pt"
    torch.save(Tinted().state_dict(), weights)
    evaluator = evaluator_of(entries)
    given: dict[str, Any] = {"title": "squares", "tracking": False, "data": {"fold": 1}, "config": {"a": 1}, "seed": 7}
    evaluate(evaluator, [weights], tmp_path / "scores", beside_paper="per_case", **given)
    text = (tmp_path / "scores" / "evaluation.json").read_text()
    record = json.loads(text)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    values = weights_hash(Tinted().state_dict())  # as the record of masks and a pack name them, whatever the file
    assert record["weights"] == {"file": "checkpoints/best.pt", "sha256": digest, "run": "my_run", "values": values}
    assert record["network"]["name"] == "Tinted"
    assert record["network"]["parameters"] == 3
    assert (record["seed"], record["data"]) == (7, {"fold": 1})
    assert "commit" in record
    assert str(tmp_path) not in text
    assert (tmp_path / "scores" / "config.yaml").read_text() == "a: 1\n"
    assert json.loads((tmp_path / "scores" / "environment.json").read_text())["packages"]["torch"]
    with open(tmp_path / "scores" / "scores_per_case.csv") as file:
        lines = list(csv.DictReader(file))
    assert {line["case"] for line in lines} == {f"{number}.png" for number in range(8)}
    assert {"iou", "dice", "precision", "recall", "pixels"} <= set(lines[0])
    assert "mean over 8 cases, as the paper's figures are" in (tmp_path / "scores" / "table.md").read_text()


def test_weights_outside_a_run_name_no_folder(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    torch.save(Tinted().state_dict(), tmp_path / "model.pt")
    evaluate(evaluator_of(entries), [tmp_path / "model.pt"], tmp_path / "scores", title="", tracking=False)
    record = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert (record["weights"]["file"], record["weights"]["run"]) == ("model.pt", None)


def test_one_class_everywhere_is_said_once(
    entries: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = evaluator_of(entries)
    evaluator.network.load_state_dict({"shift": torch.tensor([1e4, 0.0, 0.0])})
    torch.save(evaluator.network.state_dict(), tmp_path / "model.pt")
    evaluate(evaluator, [tmp_path / "model.pt"], tmp_path / "scores", title="", tracking=False)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "predicts class 'none' for 100 % of all pixels, where the labels have it in 75 %" in said[0]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own database models
def test_mlflow_has_it_as_a_child_of_the_training(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    run = tmp_path / "runs" / "my_run"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    mother = MLflowTracker(None, "squares", "my_run", run)
    mother.start()
    mother.finish("FINISHED")
    torch.save(Tinted().state_dict(), run / "model.pt")
    evaluate(evaluator_of(entries), [run / "model.pt"], tmp_path / "elsewhere", title="squares", experiment="squares")
    held = json.loads((tmp_path / "elsewhere" / "mlflow_run.json").read_text())
    found = MlflowClient(tracking_uri=held["tracking_uri"]).get_run(held["run_id"])
    assert found.data.tags["mlflow.parentRunId"] == mother.run_id
    assert {"test_mean_dice", "test_mean_precision", "test_mean_recall", "test_accuracy"} <= set(found.data.metrics)
    assert "test_case_mean_dice" in found.data.metrics
    assert found.data.params["network.parameters"] == "3"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own database models
def test_mlflow_calls_no_scores_of_training_images_a_test(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "model.pt").write_bytes(b"weights")
    output = tmp_path / "scores"
    evaluate(evaluator_of(entries), [tmp_path / "model.pt"], output, title="", data={"split": "training"})
    held = json.loads((output / "mlflow_run.json").read_text())
    found = MlflowClient(tracking_uri=held["tracking_uri"]).get_run(held["run_id"]).data.metrics
    assert "training_mean_dice" in found
    assert not [name for name in found if name.startswith("test_")]


def test_bad_arguments(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match="beside_paper is 'both'; it must be one of pooled, per_case, or null"):
        evaluate(evaluator_of(entries), [tmp_path / "x.pt"], tmp_path, title="", beside_paper="both")  # type: ignore[arg-type]


def test_wrapped_networks_are_described_as_what_they_wrap() -> None:
    assert describe_network(torch.compile(nn.Linear(2, 3)))["name"] == "Linear"
