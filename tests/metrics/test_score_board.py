"""Scores as plug-ins, and what a board makes of them."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import hausdorff_distance
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
from two_processes import alone_and_shared

from medseg.errors import MedsegError
from medseg.metrics import scores as home
from medseg.metrics.intervals import ClusterBootstrap
from medseg.metrics.score import Score, ScoredCase, find_score, score_names
from medseg.metrics.score_board import ScoreBoard, slugs
from medseg.runs.mlflow_run import clean_key

NAMES = ["none", "bright", "dark"]
ALL: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("overlap", "instances", "distances", "volumes", "lesions")},
    "boundary": {"tolerance": 0.1},
}
PLUGIN = '''"""How far the farthest predicted pixel of a class lies from the true ones."""

import math

from skimage.metrics import hausdorff_distance

from medseg.metrics.score import Score


class Hausdorff(Score):
    columns = ("hausdorff",)
    lower_is_better = frozenset({"hausdorff"})

    def __init__(self, class_names, ignore_index=None, *, scale=1.0):
        super().__init__(class_names, ignore_index)
        self.scale = scale

    def update(self, case):
        found = []
        for index in range(len(self.class_names)):
            guess, truth = case.prediction.numpy() == index, case.label.numpy() == index
            found.append(self.scale * hausdorff_distance(guess, truth) if guess.any() and truth.any() else math.nan)
        return {"hausdorff": found}
'''


def cases(number: int = 5, *, ignored: bool = False) -> list[ScoredCase]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(number):
        prediction = torch.randint(0, 3, (8, 9), generator=generator)
        label = torch.randint(0, 3, (8, 9), generator=generator)
        if index == 1:
            label[label == 2] = 0  # predicted alone: 0
        if index == 2:
            label[label == 2] = 1
            prediction[prediction == 2] = 0  # in neither: not counted
        if index == 3:
            prediction[prediction == 2] = 1  # in the truth alone: 0
        if ignored:
            label[0] = 255
        found.append(ScoredCase(index, f"{index}.png", prediction, label, group=f"g{index % 2}"))
    return found


def filled(board: ScoreBoard, rows: Sequence[ScoredCase]) -> ScoreBoard:
    for case in rows:
        board.update(case)
    return board


@pytest.mark.parametrize("ignored", [False, True])
def test_means_over_cases_against_scikit_learn(ignored: bool) -> None:
    rows = cases(ignored=ignored)
    board = filled(ScoreBoard(NAMES, 255, {"overlap": {}}), rows)
    held = board.table()["per_case"]["classes"]
    theirs = {"iou": jaccard_score, "dice": f1_score, "precision": precision_score, "recall": recall_score}
    for index in range(3):
        for column, function in theirs.items():
            values = []
            for case in rows:
                kept = case.label.ravel() != 255
                truth, guess = case.label.ravel()[kept] == index, case.prediction.ravel()[kept] == index
                if truth.any() or guess.any():
                    values.append(function(truth, guess, zero_division=0))
            assert held[index][column] == pytest.approx(np.mean(values))
            assert held[index]["n"][column] == len(values)
    assert held[2]["n"]["dice"] == 4
    assert board.rows[1].values["dice"][2] == 0
    assert board.rows[1].values["recall"][2] == 0  # undefined by itself
    assert math.isnan(board.rows[2].values["dice"][2])
    assert board.rows[3].values["precision"][2] == 0


def test_a_precision_or_recall_of_nothing_is_0_and_named() -> None:
    truth = torch.tensor([[0, 0, 1, 1]])
    board = filled(
        ScoreBoard(NAMES, None, {"overlap": {}}), [ScoredCase(0, "a.png", torch.where(truth == 1, 2, 0), truth)]
    )
    table = board.table()
    assert [row["precision"] for row in table["classes"]] == [1, 0, 0]
    assert [row["recall"] for row in table["classes"]] == [1, 0, 0]
    assert table["mean_precision"] == table["mean_recall"] == pytest.approx(1 / 3)
    assert table["mean_accuracy"] == 1 / 2
    assert table["notes"] == [
        f"{NAMES[1]}: never predicted (precision 0)",
        f"{NAMES[2]}: predicted but in no truth (recall 0; mean accuracy leaves it out)",
    ]


def test_lines_of_cases() -> None:
    lines = list(filled(ScoreBoard(NAMES, None, {"overlap": {}}), cases()).lines())
    assert [line["class"] for line in lines if line["case"] == "2.png"] == ["(all)", "none", "bright"]
    whole = [line for line in lines if line["class"] == "(all)"]
    assert [line["case"] for line in whole] == [f"{index}.png" for index in range(5)]
    assert [line["group"] for line in whole] == ["g0", "g1", "g0", "g1", "g0"]
    assert all(line["pixels"] == 72 for line in whole)
    two = [line for line in lines if line["case"] == "1.png" and line["class"] != "(all)"]
    assert whole[1]["dice"] == pytest.approx(sum(line["dice"] for line in two) / 3)


def test_a_case_without_labels_is_there_without_scores() -> None:
    """It vanishes neither from the rows nor into a mean."""
    empty = ScoredCase(0, "empty.png", torch.zeros(4, 4, dtype=torch.int64), torch.full((4, 4), 255))
    board = filled(ScoreBoard(NAMES, 255, {"overlap": {}}), [empty, *cases(2)])
    (line,) = [line for line in board.lines() if line["case"] == "empty.png"]
    assert (line["class"], line["dice"], line["pixels"]) == ("(all)", None, 0)
    assert board.table()["per_case"]["cases"] == 3
    assert board.table()["per_case"]["classes"][0]["n"]["dice"] == 2
    defined = board.flat("val_")
    assert {"val_dice_none", "val_case_dice_none", "val_mean_dice"} <= defined.keys()
    assert all(math.isfinite(value) for value in defined.values())
    nothing = filled(ScoreBoard(NAMES, 255, {"overlap": {}}), [empty]).flat()
    assert not [name for name, value in nothing.items() if "dice" in name or not math.isfinite(value)]


def test_a_score_without_options_is_left_out() -> None:
    assert list(ScoreBoard(NAMES, None, {"overlap": None, "boundary": {}}).scores) == ["boundary"]


def test_a_new_score_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hausdorff.py").write_text(PLUGIN)
    monkeypatch.setattr(home, "__path__", [*home.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "medseg.metrics.scores.hausdorff", raising=False)
    assert "hausdorff" in score_names()
    rows = cases(2)
    board = filled(ScoreBoard(NAMES, None, {"overlap": {}, "hausdorff": {"scale": 2.0}}), rows)
    expected = 2 * hausdorff_distance(rows[0].prediction.numpy() == 1, rows[0].label.numpy() == 1)
    assert board.rows[0].values["hausdorff"][1] == expected
    assert next(line for line in board.lines() if line["class"] == "bright")["hausdorff"] == expected
    assert "case_hausdorff_bright" in board.flat()
    assert {"case_hausdorff_bright", "case_mean_hausdorff"} <= board.lower_is_better
    assert set(board.flat()) <= board.names
    with pytest.raises(MedsegError, match="`scores: hausdorff` has no option 'scael'; it takes scale"):
        ScoreBoard(NAMES, None, {"hausdorff": {"scael": 2.0}})
    monkeypatch.delitem(sys.modules, "medseg.metrics.scores.hausdorff")


def test_a_score_elsewhere_goes_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Share(Score):
        columns = ("share",)

        def update(self, case: ScoredCase) -> Mapping[str, float]:
            return {"share": float((case.prediction == 1).double().mean())}

    module = ModuleType("elsewhere")
    module.Share = Share  # type: ignore[attr-defined]
    Share.__module__ = "elsewhere"
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    assert find_score("elsewhere.Share") is Share
    board = filled(ScoreBoard(NAMES, None, {"elsewhere.Share": {}}), cases(2))
    assert board.flat()["case_share"] == pytest.approx(np.mean([(c.prediction == 1).double().mean() for c in cases(2)]))
    with pytest.raises(MedsegError, match="holds 0 such scores"):
        find_score("elsewhere.Other")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            {"bondary": {}},
            "names 'bondary'; there are boundary, calibration, distances, instances, lesions, overlap, volumes, or",
        ),
        ({"no.such.Thing": {}}, "names 'no.such.Thing', but no.such cannot be imported"),
        ({"overlap": 3}, r"`scores: overlap` is 3; give its options \(no options\)"),
        ({"instances": {"method": "magic"}}, "method is 'magic'"),
        ("boundary", "`scores` is 'boundary'; give options by name"),
    ],
)
def test_bad_scores(scores: Any, message: str) -> None:
    with pytest.raises(MedsegError, match=message):
        ScoreBoard(NAMES, None, scores)


def test_two_scores_of_one_column_are_refused() -> None:
    board = ScoreBoard(NAMES, None, {"overlap": {}})
    with pytest.raises(MedsegError, match="scores 'overlap' and 'again' both have a column 'iou'"):
        board.add("again", find_score("overlap")(NAMES))


def test_an_error_names_its_case() -> None:
    bad = ScoredCase(0, "seven.png", torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 7))
    with pytest.raises(MedsegError, match=r"^seven.png: label values \[7\] are no classes \(0 to 2\)"):
        ScoreBoard(NAMES, None, {"overlap": {}}).update(bad)


def test_intervals_are_drawn_by_group() -> None:
    rows = [dataclasses.replace(case, group=f"g{case.index // 2}") for case in cases(12)]
    board = filled(ScoreBoard(NAMES, None, {"overlap": {}}), rows)
    held = board.table()["per_case"]
    assert held["bootstrap"]["groups"] == 6
    assert held["bootstrap"]["by"] == "group"
    values = np.array([row.values["dice"] for row in board.rows])
    each, overall = ClusterBootstrap([row.group for row in board.rows]).intervals(values)
    for row, expected in zip(held["classes"], each, strict=True):
        assert expected is not None
        assert row["interval"]["dice"] == [*expected]
        assert expected[0] < row["dice"] < expected[1]
    assert overall is not None
    assert held["mean_interval"]["dice"] == [*overall]
    assert held["whole"]["accuracy"]["interval"][0] < held["whole"]["accuracy"]["mean"]
    few = filled(ScoreBoard(NAMES, None, {"overlap": {}}), cases()).table()["per_case"]
    assert few["bootstrap"]["note"] == "No intervals: 2 groups, 5 are the least."
    assert few["mean_interval"]["dice"] is None


def test_cases_with_a_class_on_one_side_alone_are_counted() -> None:
    rows = filled(ScoreBoard(NAMES, None, {"overlap": {}}), cases()).table()["per_case"]["classes"]
    assert [(row["missed"], row["invented"]) for row in rows] == [(0, 0), (0, 0), (1, 1)]
    without = filled(ScoreBoard(NAMES, None, {"distances": {}}), cases()).table()["per_case"]["classes"]
    assert "missed" not in without[0]


def shared(rank: int | None) -> str:
    """The scores of all cases, or of this process's share of them and what the other tells."""
    board = ScoreBoard(NAMES, None, ALL)
    filled(board, with_instances()[rank or 0 :: 1 if rank is None else 2])
    board.gather()
    return json.dumps((board.table(), list(board.lines())))


def with_instances() -> list[ScoredCase]:
    return [
        ScoredCase(c.index, c.name, c.prediction, c.label, read=lambda _, c=c: (c.label.numpy() > 0).astype(np.int32))
        for c in cases()
    ]


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    expected, found = alone_and_shared(shared, tmp_path)
    assert [rounded(each) for each in found] == [rounded(expected)] * 2


def rounded(text: str) -> Any:
    """Sums of floats depend on their order in the last digit."""
    return json.loads(text, parse_float=lambda digits: round(float(digits), 12))


def test_names_of_scores_have_no_spaces() -> None:
    assert slugs(["left upper lobe", "tumour"]) == ["left_upper_lobe", "tumour"]


@pytest.mark.parametrize(
    "names",
    [
        ["left kidney", "left_kidney", "spleen"],
        ["<3 mm", ">3 mm", "spleen"],
        ["a b", "a_b", "a_b_0"],
        ["Cyst", "cyst", "spleen"],
        ["x" * 300 + "1", "x" * 300 + "2", "x" * 300 + "2_1"],
    ],
)
def test_every_class_has_a_score_of_its_own(names: list[str]) -> None:
    """Two that MLflow takes for one name would leave the score of one of them."""
    board = ScoreBoard(["background", *names], None, {"overlap": {}})
    labels = torch.arange(4).reshape(1, 4)
    board.update(ScoredCase(0, "a.png", labels, torch.tensor([[0, 1, 2, 2]])))
    flat = board.flat()
    keys = [clean_key(key).casefold() for key in flat]
    assert len(set(keys)) == len(keys)
    assert sum(key.startswith("iou_") for key in flat) == 4


def test_a_case_knows_its_voxels() -> None:
    """Turned and in another order: an edge is the length of its column."""
    affine = np.array([[0, -0.6, 0, 5], [2, 0, 0, 6], [0, 0.8, 3, 7], [0, 0, 0, 1.0]])
    map_ = torch.zeros(2, 2, 2, dtype=torch.long)
    assert ScoredCase(0, "a", map_, map_, affine=affine).spacing == pytest.approx((2, 1, 3))
    assert ScoredCase(0, "a", map_, map_).spacing is None


@pytest.mark.parametrize(("said", "told"), [("no voxels", "^b: no voxels$"), ("b: no voxels", "^b: no voxels$")])
def test_what_a_score_refuses_names_the_case_once(said: str, told: str) -> None:
    class Refuses(Score):
        columns = ("x",)

        def update(self, case: ScoredCase) -> Mapping[str, Any]:
            raise MedsegError(said)

    map_ = torch.zeros(2, 2, dtype=torch.long)
    board = ScoreBoard(["a"], None, {})
    board.add("refuses", Refuses(["a"]))
    with pytest.raises(MedsegError, match=told):
        board.update(ScoredCase(0, "b", map_, map_))


def test_the_means_without_the_background_are_those_of_the_other_classes() -> None:
    names = ["bone", "background", "none"]  # it is not always the first
    rows = [dataclasses.replace(case, group=f"g{case.index // 2}") for case in cases(12)]
    board = filled(ScoreBoard(names, None, {"overlap": {}}), rows)
    table = board.table()
    held = table["per_case"]
    for found, mean in ((table, "mean_dice"), (held, "mean_dice"), (held, "mean_precision")):
        column = mean.removeprefix("mean_")
        values = [row[column] for row in found["classes"] if row["name"] != "background" and row[column] is not None]
        assert found["without_background"][mean] == pytest.approx(np.mean(values))
        assert found["without_background"][mean] != pytest.approx(found[mean])
    values = np.array([row.values["dice"] for row in board.rows])
    _, overall = ClusterBootstrap([row.group for row in board.rows]).intervals(values[:, [0, 2]])
    assert overall is not None
    assert held["without_background"]["mean_interval"]["dice"] == [*overall]
    without = filled(ScoreBoard(["bone", "fat", "none"], None, {"overlap": {}}), cases()).table()
    assert "without_background" not in without
    assert "without_background" not in without["per_case"]
