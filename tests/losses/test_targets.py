import math
import re

import pytest
import torch

from medseg.losses.targets import class_indices, full_precision


def test_indices_and_what_counts() -> None:
    label = torch.tensor([[[0, 255, 2]]], dtype=torch.uint8)
    index, valid = class_indices(torch.zeros(1, 3, 3), label, 255)
    assert index.tolist() == [[0, 0, 2]]
    assert index.dtype == torch.int64
    assert valid is not None
    assert valid.tolist() == [[True, False, True]]
    assert class_indices(torch.zeros(1, 3, 3), label % 5, None)[1] is None


def test_ignored_values_may_be_negative() -> None:
    index, valid = class_indices(torch.zeros(1, 2, 2), torch.tensor([[-1, 1]]), -1)
    assert valid is not None
    assert (index.tolist(), valid.tolist()) == ([[0, 1]], [[False, True]])


def test_empty_batch() -> None:
    index, valid = class_indices(torch.zeros(0, 2, 4), torch.zeros(0, 1, 4), 255)
    assert valid is not None
    assert index.shape == valid.shape == (0, 4)


@pytest.mark.parametrize("ignore_index", [None, 255])
def test_values_between_classes_are_named(ignore_index: int | None) -> None:
    label = torch.tensor([[0.0, 1.0, 0.5, 1.25]])
    with pytest.raises(
        ValueError, match=r"label values \[0.5, 1.25\] are no class indices; resample labels by nearest"
    ):
        class_indices(torch.zeros(1, 2, 4), label, ignore_index)


@pytest.mark.parametrize(("label", "wrong"), [([0, 1, 3], "[3]"), ([-1, 2, 0], "[-1]"), ([7, -2, 3], "[-2, 3, 7]")])
def test_values_beyond_the_classes_are_named(label: list[int], wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"label values {wrong} have no logit: the network gives 3 classes")):
        class_indices(torch.zeros(1, 3, 3), torch.tensor([label]), None)


@pytest.mark.parametrize("shift", [0, 0.5])
def test_ten_wrong_values_are_named(shift: float) -> None:
    classes = 40 if shift else 2
    with pytest.raises(ValueError, match=re.escape(f"label values {[n + shift for n in range(9, 19)]} ")):
        class_indices(torch.zeros(1, classes, 12), (torch.arange(9, 21) + shift)[None], None)


def test_one_hot_labels_are_refused() -> None:
    """As many channels as there are classes: the first of them is no label."""
    with pytest.raises(ValueError, match=r"logits have shape \(1, 2, 4\) and the label \(1, 2, 4\)"):
        class_indices(torch.zeros(1, 2, 4), torch.tensor([[[1, 0, 0, 1], [0, 1, 1, 0]]]), None)


def test_a_length_of_one_is_no_channel() -> None:
    index, _ = class_indices(torch.zeros(2, 3, 1), torch.tensor([[1], [2]]), None)
    assert index.tolist() == [[1], [2]]


def test_nan_is_no_class() -> None:
    with pytest.raises(ValueError, match="label values"):
        class_indices(torch.zeros(1, 2, 2), torch.tensor([[1.0, math.nan]]), None)


def test_one_class_is_no_softmax() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(1, 1, 2\) hold 1 class, whose softmax is 1 everywhere"):
        class_indices(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_number_format(given: torch.dtype, kept: torch.dtype) -> None:
    assert full_precision(torch.zeros(2, dtype=given)).dtype == kept
