"""Volume differences against figures by hand."""

import math

import numpy as np
import pytest
import torch

from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.scores.volumes import Volumes

NAMES = ["background", "one", "two"]


def case(guess: np.ndarray, truth: np.ndarray, affine: np.ndarray | None = None) -> ScoredCase:
    return ScoredCase(0, "a", torch.from_numpy(guess), torch.from_numpy(truth), affine=affine)


def test_millilitres_by_hand() -> None:
    truth, guess = np.zeros((10, 10, 10), np.int64), np.zeros((10, 10, 10), np.int64)
    truth[:5, :4, :10], guess[:5, :4, :8] = 1, 1  # 200 and 160 voxels of 2.5 cubic mm
    guess[9, 9, 9] = 2
    found = Volumes(NAMES).update(case(guess, truth, np.diag([-1.0, 0.5, 5.0, 1.0])))
    assert found["volume"][1] == pytest.approx(0.5)  # type: ignore[index]
    expected = {"volume_difference": -0.1, "absolute_volume_difference": 0.1, "relative_volume_difference": -0.2}
    for column, value in expected.items():
        row = found[column]
        assert row[1] == pytest.approx(value)  # type: ignore[index]
        assert math.isnan(row[0])  # type: ignore[index]
    assert found["absolute_volume_difference"][2] == pytest.approx(0.0025)  # type: ignore[index]
    assert math.isnan(found["relative_volume_difference"][2])  # type: ignore[index]


def test_sheared_slices_are_no_cuboids() -> None:
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    affine[1, 2] = 7.0  # a voxel keeps its 30 mm3, whatever its third edge is
    mask = np.ones((10, 10, 10), np.int64)
    found = Volumes(["background", "one"]).update(case(mask, mask, affine))
    assert found["volume"][1] == pytest.approx(30.0)


def test_missed_absent_ignored_and_pictures() -> None:
    truth, guess = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.int64)
    truth[0, :3], truth[3] = 1, 255
    guess[3] = 2  # where nothing counts
    board = ScoreBoard(NAMES, 255, {"volumes": {}})
    row = board.update(case(guess, truth))
    assert row.values["volume_difference"][1] == -3
    assert row.values["relative_volume_difference"][1] == -1
    assert math.isnan(row.values["absolute_volume_difference"][2])
    line = next(line for line in board.lines() if line["class"] == "one")
    assert (line["volume_difference_pixels"], line["volume_pixels"]) == (-3, 3)
    assert board.table()["volumes"] == {"unit": "pixels", "classes": ["one", "two"]}


def test_no_weights_are_picked_by_a_signed_score() -> None:
    board = ScoreBoard(NAMES, None, {"volumes": {}})
    assert "case_mean_absolute_volume_difference" in board.names & board.lower_is_better
    assert not {"case_mean_volume_difference", "case_relative_volume_difference_one"} & board.names


def test_signed_errors_do_not_cancel_in_a_mean_over_the_classes() -> None:
    """One class has three pixels too many and another three too few: the bias of each stands, and no mean of 0."""
    truth, guess = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.int64)
    truth[0, :3], guess[1, :3] = 1, 2
    board = ScoreBoard(NAMES, None, {"volumes": {}})
    board.update(case(guess, truth))
    held = board.table()["per_case"]
    assert [row["volume_difference"] for row in held["classes"]] == [None, -3, 3]
    assert held["mean_absolute_volume_difference"] == 3
    assert held["signed"] == ["relative_volume_difference", "volume_difference"]
    assert not {"mean_volume_difference", "mean_relative_volume_difference"} & held.keys()
    assert not {"case_mean_volume_difference", "case_mean_relative_volume_difference"} & board.flat().keys()
    whole = next(iter(board.lines()))
    assert (whole["volume_difference_pixels"], whole["absolute_volume_difference_pixels"]) == (None, 3)


def test_an_unknown_class() -> None:
    with pytest.raises(MedsegError, match="`scores: volumes: classes` names 'three'"):
        Volumes(NAMES, classes="three")
