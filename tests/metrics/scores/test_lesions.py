"""Scores of connected parts against figures by hand and brute force."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from skimage.measure import label as parts_of

from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.scores.lesions import Lesions

NAMES = ["background", "lesion", "other"]


def case(guess: Any, truth: Any, affine: Any = None) -> ScoredCase:
    return ScoredCase(0, "a", torch.from_numpy(guess), torch.from_numpy(truth), affine=affine)


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """Three true lesions: found, found at a corner of a larger guess, missed; one part is invented."""
    truth, guess = np.zeros((20, 20, 6), np.int64), np.zeros((20, 20, 6), np.int64)
    truth[1:4, 1:4, 1:3] = guess[1:4, 1:4, 1:4] = 1  # IoU 2/3
    truth[10:12, 10:12, 2:4], guess[10:14, 10:14, 2:4] = 1, 1  # IoU 1/4
    truth[18, 18, 5] = 1
    guess[18, 1, 0] = 1
    return guess, truth


def test_figures_by_hand(pair: tuple[Any, Any]) -> None:
    score = Lesions(NAMES)
    found: Any = score.update(case(*pair))
    assert [found[key][1] for key in ("lesions", "predicted_lesions", "matched_lesions")] == [3, 3, 2]
    assert [found[key][1] for key in score.columns] == pytest.approx([2 / 3] * 3)
    assert all(math.isnan(found["lesion_f1"][index]) for index in (0, 2))
    strict: Any = Lesions(NAMES, iou=0.5).update(case(*pair))
    assert strict["matched_lesions"][1] == 1
    large: Any = Lesions(NAMES, min_size=2.0).update(case(*pair, np.diag([1.0, 1, 1, 1])))
    assert [large[key][1] for key in ("lesions", "predicted_lesions", "lesion_recall")] == [2, 2, 1.0]
    small: Any = Lesions(NAMES, min_size=2.0).update(case(*pair, np.diag([2.0, 1, 1, 1])))
    assert small["lesions"][1] == 3  # a voxel is 2 cubic mm


def test_empty_sides_and_the_whole_set(pair: tuple[Any, Any]) -> None:
    guess, truth = pair
    nothing = np.zeros_like(truth)
    board = ScoreBoard(NAMES, None, {"overlap": {}, "lesions": {}})
    for one, other in ((guess, truth), (nothing, truth), (guess, nothing), (nothing, nothing)):
        board.update(case(one, other))
    values = [row.values["lesion_f1"][1] for row in board.rows]
    assert values[:3] == pytest.approx([2 / 3, 0, 0])
    assert math.isnan(values[3])
    table = board.table()
    row = table["per_case"]["classes"][1]
    assert (row["n"]["lesion_f1"], row["missed"], row["invented"]) == (3, 1, 1)
    held = table["lesions"]["classes"][0]
    assert (held["lesions"], held["predicted"], held["matched"], held["f1"]) == (6, 6, 2, pytest.approx(1 / 3))
    note = "Lesions are parts joined at corners; two match from IoU 0.1."
    assert table["per_case"]["notes"]["lesions"] == [note]


def test_connectivity_against_scikit_image() -> None:
    truth = (np.random.default_rng(0).random((12, 12, 12)) < 0.15).astype(np.int64)
    for name, neighbours in (("faces", 1), ("corners", 3)):
        found: Any = Lesions(NAMES, connectivity=name).update(case(truth, truth))
        assert found["lesions"][1] == parts_of(truth, connectivity=neighbours).max() == found["matched_lesions"][1]
    flat: Any = Lesions(NAMES).update(case(truth[0], truth[0]))
    assert flat["lesions"][1] == parts_of(truth[0], connectivity=2).max()


def test_matches_are_as_many_as_can_be() -> None:
    """One prediction over two lesions finds one of them, two predictions over one lesion find it once."""
    truth, guess = np.zeros((4, 20), np.int64), np.zeros((4, 20), np.int64)
    truth[1:3, 1:4] = truth[1:3, 5:8] = guess[1:3, 1:8] = 1
    truth[1:3, 10:19] = guess[1:3, 10:14] = guess[1:3, 15:19] = 1
    found: Any = Lesions(NAMES).update(case(guess, truth))
    assert [found[key][1] for key in ("lesions", "predicted_lesions", "matched_lesions")] == [3, 3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": 0}, r"IoU thresholds \(0.0,\) must be in \(0, 1\]"),
        ({"connectivity": 26}, "`scores: lesions: connectivity` is 26; choose faces or corners"),
        ({"min_size": -1}, "min_size` is -1; give a volume of 0 or more"),
        ({"classes": ["x"]}, "`scores: lesions: classes` names 'x'"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(MedsegError, match=message):
        Lesions(NAMES, **options)
