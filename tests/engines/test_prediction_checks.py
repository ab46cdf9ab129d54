"""Logits that are no numbers, one class everywhere, names and the worst of cases."""

import math
import re

import pytest
import torch

from medseg.engines.prediction_checks import hardly_right, learned_nothing, one_class_everywhere, warn_of_one_class
from medseg.engines.scores import LossScore, WorstCases, case_names
from medseg.errors import MedsegError
from medseg.inferers.blocks import check_finite
from medseg.losses.multi_output import MultiOutputLoss
from medseg.metrics.score import ScoredCase
from medseg.reports.names import hidden_name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_image_is_named(value):
    logits = torch.randn(3, 2, 4, 5)
    check_finite(logits, ["a", "b", "c"])
    check_finite(torch.full((1, 2, 4, 4), 3e38), ["large"])
    logits[1, 0, 2, 3] = value
    with pytest.raises(MedsegError, match=r"^b\\n: the network gives 1 of 40 logits that are NaN or infinite"):
        check_finite(logits, ["a", "b\n", "c"])


@pytest.mark.parametrize(
    ("predicted", "truth", "says"),
    [
        ([100, 0], [80, 20], "class 'none' for 100 % of all pixels, where the labels have it in 80 %"),
        ([99_950, 50], [90_000, 10_000], "class 'none' for 99.95 % of all pixels, where the labels have it in 90 %"),
        ([99_950, 50], [99_900, 100], None),  # rare objects, half of them found
        ([100, 0], [100, 0], None),  # there is nothing else
        ([90, 10], [50, 50], None),
        ([0, 100], None, "class 'cell' for 100 % of all pixels, if the images hold other classes"),
        ([1, 99], None, None),
        ([0, 0], None, None),
        ([100], None, None),
    ],
)
def test_one_class_everywhere(predicted, truth, says, caplog):
    message = one_class_everywhere(predicted, ["none", "cell"], truth)
    assert (message is None) if says is None else (message is not None and says in message)
    warn_of_one_class(predicted, ["none", "cell"], truth)
    assert len(caplog.records) == (says is not None)


@pytest.mark.parametrize(
    ("right", "truth", "says"),
    [
        (109, [690, 310], "is right in 10.9 % of all pixels, class 'none' everywhere would be in 69 %: it has"),
        (340, [310, 690], "class 'cell' everywhere would be in 69 %"),
        (970, [990, 10], None),  # rare objects, drawn too wide
        (346, [310, 690], None),
    ],
)
def test_hardly_right(right, truth, says, caplog):
    message = hardly_right(right, ["none", "cell"], truth)
    assert (message is None) if says is None else (message is not None and says in message)
    warn_of_one_class([400, 600], ["none", "cell"], truth, right)
    assert len(caplog.records) == (says is not None)


def test_what_an_evaluation_says_of_its_network():
    """Rows are true classes, columns predicted ones."""
    classes = [{"name": "none"}, {"name": "cell"}]

    def of(matrix):
        return learned_nothing({"classes": classes, "overlap": {"confusion_matrix": matrix}})

    assert "predicts class 'cell' for 100 % of all pixels, where the labels have it in 20 %" in of([[0, 80], [0, 20]])
    assert "is right in 10 % of all pixels, class 'none' everywhere would be in 80 %" in of([[8, 72], [18, 2]])
    assert of([[70, 10], [5, 15]]) is None
    assert of([[0, 0], [0, 0]]) is None


def test_names_of_cases():
    assert case_names([{"image": "/data/x/1.png"}, {"image": "/data/y/2.png"}]) == ["1.png", "2.png"]
    same = [{"image": "/data/x/t1.nii.gz"}, {"image": "/data/y/t1.nii.gz"}]
    assert case_names(same) == ["x/t1.nii.gz", "y/t1.nii.gz"]
    assert case_names(same, hidden=True) == [hidden_name("x/t1.nii.gz"), hidden_name("y/t1.nii.gz")]
    assert re.fullmatch("case [0-9a-f]{8}", hidden_name("x/t1.nii.gz"))
    assert case_names([{"image": "/home/a/1.png"}], hidden=True) == case_names([{"image": "/srv/1.png"}], hidden=True)


def test_the_worst_are_kept_and_no_more_pictures_made():
    made = []
    worst = WorstCases(2)
    for index, score in enumerate([0.5, math.nan, 0.9, 0.1, 0.1, 0.7]):
        worst.offer(index, score, lambda index=index: made.append(index) or {"index": index})
    assert worst.cases(lambda index, case: {**case, "asked": index}) == [{"index": n, "asked": n} for n in (3, 4)]
    assert worst.cases(lambda index, case: case if index == 4 else None) == [{"index": 4}]
    assert made == [0, 1, 2, 3, 4]
    worst.reset()
    worst.offer(0, math.nan, lambda: {"index": 0})
    assert worst.cases(lambda _, case: case) == [{"index": 0}]
    WorstCases(0).offer(0, 0.5, lambda: pytest.fail("no picture was asked for"))


def test_the_loss_of_an_evaluation_has_the_terms_of_the_prediction():
    def loss(logits, label):
        return (logits[:, 0] - label[:, 0]).abs().mean()

    loss = MultiOutputLoss(
        [
            {"output": "pred", "loss": loss, "weight": 2.0},
            {"output": "aux_1", "loss": loss},
            {"output": "recon", "loss": loss, "target": "image"},
        ]
    )
    score = LossScore(loss, ["a", "b"])
    label = torch.ones(4, 4)
    case = ScoredCase(0, "x", label, label, logits=torch.full((2, 4, 4), 1.5))
    assert score.update(case) == {"loss": 1.0}
    assert score.compute().overall == {"loss": 1.0}
    with pytest.raises(MedsegError, match="the loss has no term for `pred`"):
        LossScore(MultiOutputLoss([{"output": "aux_1", "loss": loss}]), ["a"])
    with pytest.raises(MedsegError, match="x has no logits"):
        score.update(ScoredCase(0, "x", label, label))
