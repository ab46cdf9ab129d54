"""Instance scores of an evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.test_evaluator import LABELS, Threshold
from pairs import LOAD
from PIL import Image

from medseg.bundle.evaluation import evaluate
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.metrics.scores.instances import Instances
from medseg.reports.summary import summarise


@pytest.fixture
def counted(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries with instance maps; that of the last image has one object more, in a corner or in the middle."""
    for number, entry in enumerate(entries):
        with Image.open(entry["label"]) as label:
            instances = (np.array(label) > 0).astype(np.uint16) * 7
        if number == len(entries) - 1:
            free = np.argwhere(instances == 0)
            instances[tuple(free[0])] = 9
        entry["instances"] = entry["label"].replace("_label", "_instances")
        Image.fromarray(instances).save(entry["instances"])
    return entries


@pytest.mark.parametrize("batch_size", [1, 3])
def test_objects_are_counted_image_by_image(counted: list[dict[str, Any]], batch_size: int) -> None:
    network = Threshold()
    data = SegmentationDataset(counted, LOAD)
    wanted = {"instances": {}}
    evaluator = Evaluator("cpu", data, network, LABELS, batch_size=batch_size, precision="fp32", scores=wanted)
    for _ in range(2):  # a second evaluation counts anew
        values = evaluator.score(network)
        scores = evaluator.table()["instances"]
        assert (scores["images"], scores["true_objects"], scores["predicted_objects"]) == (8, 9, 8)
        assert scores["thresholds"][-1]["pooled"]["average_precision"] == pytest.approx(8 / 9)
        assert scores["per_image"]["average_precision"] == pytest.approx((7 + 1 / 2) / 8)
        assert values["val_case_instance_ap"] == pytest.approx((7 + 1 / 2) / 8)
        assert values["val_instance_ap"] == pytest.approx(8 / 9)
    assert scores["image_average_precision"] == [float(row.values["instance_ap"]) for row in evaluator.board.rows]


def case(prediction: np.ndarray[Any, Any], label: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> ScoredCase:
    made = (torch.from_numpy(each) for each in (prediction, label))
    return ScoredCase(0, "one", *made, read=lambda key: truth)


def test_objects_where_nothing_counts_are_none() -> None:
    label, truth = np.zeros((8, 12), np.uint8), np.zeros((8, 12), np.uint16)
    label[2:5, 1:4], truth[2:5, 1:4] = 1, 5
    label[:, 6:] = 255
    truth[1:3, 8:10] = 9
    prediction = (label == 1).astype(np.uint8)
    prediction[5:7, 7:9] = prediction[5:7, 10:12] = 1
    score = Instances(["background", "nucleus"], 255)
    found = score.update(case(prediction, label, truth))
    assert found == {"instance_ap": 1, "instance_f1": 1, "instances": 1, "predicted_instances": 1}
    assert Instances(["background", "nucleus"]).update(case(prediction, label, truth))["predicted_instances"] == 3


def test_the_background_may_be_another_class_than_the_first() -> None:
    truth = np.zeros((8, 12), np.uint16)
    truth[2:5, 1:4], truth[2:5, 6:9] = 1, 2
    prediction = (truth == 0).astype(np.uint8)
    found = Instances(["nucleus", "background"]).update(case(prediction, prediction, truth))
    assert found == {"instance_ap": 1, "instance_f1": 1, "instances": 2, "predicted_instances": 2}


def test_report_holds_them(counted: list[dict[str, Any]], tmp_path: Path) -> None:
    network = Threshold()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    evaluator = Evaluator("cpu", SegmentationDataset(counted, LOAD), network, LABELS, precision="fp32")
    evaluate(
        evaluator,
        [tmp_path / "model.pt"],
        tmp_path / "scores",
        title="squares",
        tracking=False,
        data={"fold": 0},
        scores={"instances": {"method": "watershed", "min_size": 2}},
    )
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["instances"]["method"] == "watershed"
    assert scores["instances"]["true_objects"] == 9
    assert json.loads((tmp_path / "scores" / "data.json").read_text()) == {"fold": 0}
    text, _ = summarise(tmp_path / "scores")
    assert "9 true and 8 predicted instances in 8 images" in text
    line = next(line for line in text.splitlines() if line.startswith("0.75"))
    assert line.split() == ["0.75", "0.889", "0.941", "1.000", "0.889", "0.938", "0.958"]


def test_entries_without_maps(entries: list[dict[str, Any]]) -> None:
    evaluator = Evaluator("cpu", SegmentationDataset(entries, LOAD), Threshold(), LABELS)
    with pytest.raises(MedsegError, match=r"8 of 8 entries name no `instances`, the first of image .*png"):
        evaluator.use_scores({"instances": {}})
    evaluator.use_scores({"instances": None})  # an overlay leaves it out
    assert "instances" not in evaluator.board.scores


def test_map_of_another_size(counted: list[dict[str, Any]]) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(counted[2]["instances"])
    network = Threshold()
    data = SegmentationDataset(counted, LOAD)
    evaluator = Evaluator("cpu", data, network, LABELS, precision="fp32", scores={"instances": {}})
    with pytest.raises(
        MedsegError, match=r"instance map of 2.png has the size \(8, 8\), its image's prediction \(16, 16\)"
    ):
        evaluator.score(network)
