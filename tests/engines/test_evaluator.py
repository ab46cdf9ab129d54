"""The evaluation engine against counting by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from engines.conftest import LOAD
from torch import Tensor, nn

from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset

LABELS = {0: "none", 1: "bright", 2: "dark"}


class Threshold(nn.Module):
    """Grey values to classes: above 150 bright, below 50 dark."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x - 150, 50 - x], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ignore_index", [None, 2])
def test_scores_are_those_of_the_whole_set(
    entries: list[dict[str, Any]], batch_size: int, ignore_index: int | None
) -> None:
    data = SegmentationDataset(entries, LOAD)
    network = Threshold()
    evaluator = Evaluator(
        torch.device("cpu"), data, network, LABELS, batch_size=batch_size, ignore_index=ignore_index, precision="fp32"
    )
    values = evaluator.score(network)
    expected = np.zeros((3, 3), int)
    for sample in (data[n] for n in range(len(data))):
        guess = network(sample["image"][None])[0].argmax(0).numpy()
        truth = sample["label"][0].numpy()
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            expected[t, g] += t != ignore_index
    np.testing.assert_array_equal(evaluator.matrix.matrix.numpy(), expected)
    hit = np.diag(expected)
    union = expected.sum(0) + expected.sum(1) - hit
    assert values["val_mean_iou"] == pytest.approx(np.mean(hit[union > 0] / union[union > 0]))
    assert values["val_iou_bright"] == pytest.approx(hit[1] / union[1])
    assert len(evaluator.cases) == min(4, -(-8 // batch_size))
    evaluator.score(network)
    np.testing.assert_array_equal(evaluator.matrix.matrix.numpy(), expected)  # a second time counts anew
