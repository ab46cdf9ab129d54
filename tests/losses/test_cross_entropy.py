"""Weighted cross-entropy against PyTorch's own and numbers worked out by hand."""

import math

import pytest
import torch
from losses.batches import CLASSES, IGNORE, random_batch, value_and_gradient
from torch import nn

from medseg.losses.cross_entropy import CrossEntropyLoss

WEIGHT = [0.5, 2.0, 1.0, 3.0]


def test_three_pixels_by_hand() -> None:
    # p of the label's class: 0.5, 0.8, 0.25; weights 1, 3, 1 of classes 0, 1, 0
    # (ln 2 + 3 ln 1.25 + ln 4) / (1 + 3 + 1) = (0.6931472 + 0.6694307 + 1.3862944) / 5 = 0.5497744
    p = torch.tensor([[[0.5, 0.2, 0.25], [0.5, 0.8, 0.75]]])
    value = CrossEntropyLoss([1.0, 3.0])(p.log(), torch.tensor([[[0, 1, 0]]]))
    assert float(value) == pytest.approx(0.5497744, abs=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_equals_pytorch(weight: list[float] | None, ignored: float, size: tuple[int, ...]) -> None:
    logits, label = random_batch(1, ignored=ignored, size=size)
    theirs = nn.CrossEntropyLoss(None if weight is None else torch.tensor(weight), ignore_index=IGNORE)
    value, gradient = value_and_gradient(CrossEntropyLoss(weight, IGNORE), logits, label)
    expected, slope = value_and_gradient(theirs, logits, label[:, 0].long())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)
    if not ignored:
        torch.testing.assert_close(CrossEntropyLoss(weight)(logits, label), expected)


def test_gradient_equals_finite_differences() -> None:
    logits, label = random_batch(2, ignored=0.2, size=(2, 3), batch=2)
    loss = CrossEntropyLoss(WEIGHT, IGNORE)
    assert torch.autograd.gradcheck(lambda z: loss(z, label), (logits.double().requires_grad_(),))


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    logits, label = random_batch(3, ignored=0.3)
    expected = CrossEntropyLoss(WEIGHT, IGNORE)(logits, label)
    for factor in (100, 1e-6):  # with the smaller one all weights together come to less than 1
        same = CrossEntropyLoss([factor * w for w in WEIGHT], IGNORE)(logits, label)
        torch.testing.assert_close(same, expected)


def test_no_class_is_the_mark_of_ignored_pixels() -> None:
    """Of many classes as of few, the 100th included."""
    logits, label = torch.randn(1, 130, 130, generator=torch.Generator().manual_seed(0)), torch.arange(130)[None]
    expected = nn.functional.cross_entropy(logits, label)
    torch.testing.assert_close(CrossEntropyLoss(ignore_index=IGNORE)(logits, label), expected)


def test_ignored_pixels_are_as_if_cut_off() -> None:
    logits, label = random_batch(4)
    label[..., 4:] = IGNORE
    loss = CrossEntropyLoss(WEIGHT, IGNORE)
    value, gradient = value_and_gradient(loss, logits, label)
    expected, cut = value_and_gradient(loss, logits[..., :4], label[..., :4])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[..., :4], cut)
    assert not gradient[..., 4:].any()


def test_a_class_can_be_the_ignore_label() -> None:
    logits, label = random_batch(5)
    expected = CrossEntropyLoss(WEIGHT, IGNORE)(logits, label.where(label != 1, IGNORE))
    torch.testing.assert_close(CrossEntropyLoss(WEIGHT, 1)(logits, label), expected, rtol=0, atol=0)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_all_pixels_ignored(weight: list[float] | None) -> None:
    logits, label = random_batch(6)
    value, gradient = value_and_gradient(CrossEntropyLoss(weight, IGNORE), logits, torch.full_like(label, IGNORE))
    assert float(value) == 0
    assert gradient.shape == logits.shape
    assert not gradient.any()


def test_only_classes_of_weight_0() -> None:
    logits, label = random_batch(7)
    value, gradient = value_and_gradient(CrossEntropyLoss([0.0, 1.0, 1.0, 1.0]), logits, torch.zeros_like(label))
    assert float(value) == 0
    assert not gradient.any()


def test_empty_classes_count_for_nothing() -> None:
    logits, label = random_batch(8)
    label[label > 1] = 0
    expected = CrossEntropyLoss([0.5, 2.0, 0.0, 0.0])(logits, label)
    torch.testing.assert_close(CrossEntropyLoss(WEIGHT)(logits, label), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e4, 1e36])
def test_saturated_logits(size: float) -> None:
    label = torch.arange(CLASSES).repeat(6).reshape(1, 1, 4, 6)
    for shown, expected in ((label, 0.0), ((label + 1) % CLASSES, size)):
        logits = size * (nn.functional.one_hot(shown[:, 0], CLASSES).movedim(-1, 1) - 0.5)
        value, gradient = value_and_gradient(CrossEntropyLoss(WEIGHT), logits, label)
        assert float(value) == pytest.approx(expected, rel=1e-5)
        assert torch.isfinite(gradient).all()


def test_weights_are_a_buffer() -> None:
    loss = CrossEntropyLoss(WEIGHT)
    assert [buffer.tolist() for buffer in loss.buffers()] == [WEIGHT]
    assert list(CrossEntropyLoss().buffers()) == []


def test_bad_input() -> None:
    logits, label = random_batch(12)
    with pytest.raises(ValueError, match=r"logits have shape \(3, 4, 5, 6\) and the label \(3, 6, 5\)"):
        CrossEntropyLoss()(logits, label.mT)
    with pytest.raises(ValueError, match="3 class weights for 4 classes; give one a class"):
        CrossEntropyLoss([1.0, 2.0, 3.0])(logits, label)
    label[0, 0, 0, 0], label[0, 0, 0, 1] = IGNORE, 7
    with pytest.raises(ValueError, match=r"label values \[7, 255\] have no logit.*4 classes.*ignore_index"):
        CrossEntropyLoss()(logits, label)
    with pytest.raises(ValueError, match=r"label values \[7\] have no logit"):
        CrossEntropyLoss(ignore_index=IGNORE)(logits, label)


@pytest.mark.parametrize("weight", [[], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_bad_weights(weight: list[float]) -> None:
    with pytest.raises(ValueError, match="give one factor a class, none negative, none infinite"):
        CrossEntropyLoss(weight)
