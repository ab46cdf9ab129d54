"""Calibration against a count by hand in NumPy."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.scores.calibration import Calibration

NAMES = ["background", "one", "two"]


def drawn(seed: int, shape: tuple[int, ...] = (7, 9, 5)) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=2, size=(3, *shape))
    logits[0] += 2
    label = np.where(draw.random(shape) < 0.6, logits.argmax(0), draw.integers(0, 3, shape))
    label[0, 0] = 255
    return logits, label


def expected(pairs: list[tuple[NDArray[np.float64], NDArray[np.int64]]], only: int | None) -> float:
    """Return the calibration error, pixel by pixel and bin by bin."""
    sure, right = [], []
    for logits, label in pairs:
        probable = softmax(logits, axis=0)
        for place in np.ndindex(label.shape):
            found = int(probable[(slice(None), *place)].argmax())
            if label[place] != 255 and only in (None, found):
                sure.append(probable[(found, *place)])
                right.append(found == label[place])
    places = np.ceil(np.array(sure) * 10) - 1
    total = sum(
        (places == n).sum() * abs(np.array(sure)[places == n].mean() - np.array(right)[places == n].mean())
        for n in np.unique(places)
    )
    return float(total / len(sure))


def classwise(pairs: list[tuple[NDArray[np.float64], NDArray[np.int64]]], index: int) -> float:
    """Return the calibration error of a class's probability in every pixel, by NumPy's histograms."""
    sure = np.concatenate([softmax(logits, axis=0)[index][label != 255] for logits, label in pairs])
    right = np.concatenate([label[label != 255] == index for _, label in pairs])
    edges = np.linspace(0, 1, 11)
    found = np.histogram(sure, edges, weights=sure)[0], np.histogram(sure, edges, weights=right.astype(float))[0]
    return float(np.abs(found[0] - found[1]).sum() / len(sure))


def see(score: Calibration, logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Show a case in two blocks and return its uncertainty."""
    for part in (slice(0, 3), slice(3, None)):
        score.see(torch.from_numpy(logits[:, part]), torch.from_numpy(label[part]))
    guess = torch.from_numpy(logits.argmax(0))
    return float(score.update(ScoredCase(0, "a", guess, torch.from_numpy(label)))["uncertainty"])  # type: ignore[arg-type]


def test_errors_and_uncertainty_by_hand() -> None:
    pairs = [drawn(0), drawn(1)]
    score = Calibration(NAMES, 255)
    for logits, label in pairs:
        probable = softmax(logits, axis=0)
        likely = (label != 255) & (probable[0] < 0.95)
        wanted = entropy(probable[:, likely], axis=0).mean() / math.log(3)
        assert see(score, logits, label) == pytest.approx(wanted, rel=1e-5)
    found = score.compute()
    assert found.overall["calibration_error"] == pytest.approx(expected(pairs, None), rel=1e-5)
    for index, row in enumerate(found.details["classes"]):
        assert row["error"] == pytest.approx(expected(pairs, index), rel=1e-5)
    assert sum(sum(row["pixels"]) for row in found.details["classes"]) == sum(
        (label != 255).sum() for _, label in pairs
    )


def test_classwise_errors_of_all_pixels() -> None:
    pairs = [drawn(0), drawn(1)]
    score = Calibration(NAMES, 255)
    for logits, label in pairs:
        see(score, logits, label)
    found = score.compute()
    rows = found.details["classes"]
    wanted = [classwise(pairs, index) for index in range(len(NAMES))]
    assert [row["classwise"]["error"] for row in rows] == pytest.approx(wanted, rel=1e-5)
    assert found.overall["classwise_calibration_error"] == pytest.approx(np.mean(wanted), rel=1e-5)
    labelled = sum((label != 255).sum() for _, label in pairs)
    assert [sum(row["classwise"]["pixels"]) for row in rows] == [labelled] * len(NAMES)
    assert abs(wanted[0] - rows[0]["error"]) > 0.01  # it is another number than that of what was found


def test_classwise_errors_beside_torchmetrics() -> None:
    reference = pytest.importorskip("torchmetrics.classification").BinaryCalibrationError
    logits, label = drawn(2, (20, 30, 10))
    score = Calibration(NAMES, 255, bins=15)
    see(score, logits, label)
    there = torch.from_numpy(label != 255)
    for index, row in enumerate(score.compute().details["classes"]):
        probable = torch.from_numpy(softmax(logits, axis=0)[index])[there]
        theirs = reference(n_bins=15, norm="l1")(probable, (torch.from_numpy(label) == index)[there].int())
        assert row["classwise"]["error"] == pytest.approx(float(theirs), abs=1e-6)


def test_processes_together_and_anew() -> None:
    both, first, second = Calibration(NAMES, 255), Calibration(NAMES, 255), Calibration(NAMES, 255)
    for number, one in enumerate((first, second)):
        see(one, *drawn(number))
        see(both, *drawn(number))
    first.merge([first, second])
    torch.testing.assert_close(first.sums, both.sums)
    torch.testing.assert_close(first.of_all, both.of_all)
    first.reset()
    assert first.compute().details == {}


def test_one_channel_is_two_classes() -> None:
    logits, label = torch.tensor([[0.3, -2.0, 4.0]]), torch.tensor([1, 0, 0])
    one, two = Calibration(["background", "a"]), Calibration(["background", "a"])
    one.see(logits, label)
    two.see(torch.cat([torch.zeros_like(logits), logits]), label)
    torch.testing.assert_close(one.sums, two.sums)


def test_nothing_to_see() -> None:
    """A threshold has no logits: neither is it sure nor unsure; an empty mask that is certain has no uncertainty."""
    board = ScoreBoard(NAMES, None, {"overlap": {}, "calibration": {}})
    zeros = torch.zeros(4, 4, dtype=torch.int64)
    board.update(ScoredCase(0, "a", zeros, zeros))
    logits = torch.zeros(3, 4, 4)
    logits[0] = 20
    board.see(logits, zeros)
    board.update(ScoredCase(1, "b", zeros, zeros))
    whole = [line["uncertainty"] for line in board.lines() if line["class"] == "(all)"]
    assert whole == [None, 0.0]
    assert "uncertainty" not in board.table()["per_case"]["units"]


def test_too_few_bins() -> None:
    with pytest.raises(MedsegError, match="`bins` of the score calibration is 1; it must be at least 2"):
        Calibration(NAMES, bins=1)
