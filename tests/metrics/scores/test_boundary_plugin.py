"""Boundary F-scores of an evaluation."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.test_evaluator import LABELS, Threshold
from metrics.test_boundary import by_distance_transform
from pairs import LOAD
from PIL import Image

from medseg.bundle import evaluation
from medseg.bundle.evaluation import evaluate
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.reports.summary import summarise
from medseg.studies.comparison import ComparisonError, Method, check_same_data, rows_of


@pytest.fixture
def spoilt(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries whose labels differ from what `Threshold` finds: moved by some pixels, the last with ignored ones."""
    for number, entry in enumerate(entries):
        with Image.open(entry["label"]) as picture:
            label = np.roll(np.array(picture), number % 3, axis=1)
        if number == len(entries) - 1:
            label[:5] = 255
        Image.fromarray(label).save(entry["label"])
    return entries


def evaluator_of(rows: list[dict[str, Any]], **options: Any) -> Evaluator:
    data = SegmentationDataset(rows, LOAD)
    return Evaluator("cpu", data, Threshold(), LABELS, ignore_index=255, precision="fp32", **options)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_the_whole_set(spoilt: list[dict[str, Any]], batch_size: int) -> None:
    evaluator = evaluator_of(spoilt, batch_size=batch_size, scores={"boundary": {"tolerance": 0.05}})  # 1.13 pixels
    pairs = []
    for sample in (evaluator.dataset[n] for n in range(len(evaluator.dataset))):
        guess = evaluator.network(sample["image"][None])[0].argmax(0).numpy()
        pairs.append((guess.astype(np.int64), sample["label"][0].numpy().astype(np.int64)))
    expected = by_distance_transform(pairs, 3, 255, 0.05)
    for _ in range(2):  # a second evaluation counts anew
        evaluator.score(evaluator.network)
        for _ in range(2):  # and asking twice adds nothing
            found = evaluator.table()["boundary"]
            np.testing.assert_allclose([row["f_score"] for row in found["classes"]], expected)
            assert found["mean_f_score"] == pytest.approx(sum(expected) / 3)
    assert 0.5 < found["mean_f_score"] < 1
    assert [row["name"] for row in found["classes"]] == ["none", "bright", "dark"]


def test_report_holds_them(spoilt: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, float] = {}

    class Tracker:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def start(self) -> None: ...
        def log_artifact(self, path: Path) -> None: ...
        def log_params(self, config: Any) -> None: ...
        def finish(self, status: str) -> None: ...
        def log_metrics(self, values: Mapping[str, float], step: int) -> None:
            logged.update(values)

    monkeypatch.setattr(evaluation, "MLflowTracker", Tracker)
    evaluator = evaluator_of(spoilt[2:3], shown=1)  # a bright square, its label moved by two pixels
    torch.save(evaluator.network.state_dict(), tmp_path / "model.pt")
    evaluate(
        evaluator,
        [tmp_path / "model.pt"],
        tmp_path / "scores",
        title="squares",
        scores={"boundary": {"tolerance": 0.05}},
    )
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["boundary"]
    assert scores["tolerance"] == 0.05
    assert scores["tolerance_pixels"] == pytest.approx([0.05 * math.hypot(16, 16)] * 2)
    assert scores["absent"] == ["dark"]
    assert scores["classes"][2] == {"name": "dark", "f_score": None, "precision": None, "recall": None, "support": 0}
    assert logged["test_mean_boundary_f"] == scores["mean_f_score"]
    assert 0.2 < scores["mean_f_score"] < 0.9
    text, _ = summarise(tmp_path / "scores")
    lines = text.splitlines()
    assert "boundary F" in lines[3]
    assert next(line for line in lines if line.startswith("dark")).split() == ["dark", *["absent"] * 5, "0"]
    mean = next(line for line in lines if line.startswith("mean of 2 classes"))
    assert mean.split()[-2] == f"{scores['mean_f_score']:.3f}"
    assert "boundary F within 1.1 px" in text
    assert "boundary_f" in (tmp_path / "scores" / "table.csv").read_text().splitlines()[0]
    assert "boundary_f" in (tmp_path / "scores" / "scores_per_case.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerence": 0.1}, "`scores: boundary` has no option 'tolerence'; it takes tolerance"),
        ({"ignore_index": 3}, "`scores: boundary` has no option 'ignore_index'"),
        (True, r"`scores: boundary` is True; give its options \(tolerance\), \{\} for their defaults"),
        ({"tolerance": 2}, "tolerance is 2; it is a share of the image's diagonal"),
    ],
)
def test_bad_options(spoilt: list[dict[str, Any]], tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(
            evaluator_of(spoilt), [tmp_path / "none.pt"], tmp_path, title="", tracking=False, scores={"boundary": given}
        )


def test_comparison_has_a_column_and_one_tolerance() -> None:
    row = {"name": "a", "iou": 0.5, "dice": None, "precision": None, "recall": None}
    scores = {"classes": [row] * 3, "mean_iou": 0.5, "accuracy": 0.25, "mean_accuracy": 0.75}
    plain = Method("plain", scores, {})
    one = Method("one", {**scores, "boundary": {"mean_f_score": 0.4, "tolerance": 0.0075}}, {})
    two = Method("two", {**scores, "boundary": {"mean_f_score": 0.6, "tolerance": 0.02}}, {})
    rows = rows_of([plain, one])
    assert [row.get("boundary F") for row in rows] == [None, 0.4]
    assert rows[0]["mean accuracy"] == 0.75
    check_same_data([plain, one, one])
    with pytest.raises(ComparisonError, match=r"one and two have boundary F-scores of different tolerance, 0\.0075"):
        check_same_data([plain, one, two])
