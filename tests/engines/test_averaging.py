"""The average of a network's weights: PyTorch's own, without asking the device."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medseg.engines.averaging import MovingAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, dtype=torch.float64))


def changed(of: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*of.parameters(), *of.buffers()]:
            if tensor.is_floating_point():
                tensor += torch.rand_like(tensor)
            else:
                tensor += 1


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_it_is_pytorchs_average(decay: float) -> None:
    def expected_update(averaged: Any, current: Any, steps: Tensor | int) -> None:
        share = min(decay, (1 + int(steps)) / (10 + int(steps)))
        for mine, theirs in zip(averaged, current, strict=True):
            mine.copy_(share * mine + (1 - share) * theirs if mine.is_floating_point() else theirs)

    followed = network()
    average = MovingAverage(followed, decay)
    expected = AveragedModel(followed, multi_avg_fn=expected_update, use_buffers=True)
    for _ in range(12):
        changed(followed)
        average.update_parameters(followed)
        expected.update_parameters(followed)
    found, wanted = average.module.state_dict(), expected.module.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert int(average.n_averaged) == 12
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert average.n_averaged.device.type == "cpu"


def test_bad_decays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ema_decay is 1\.0; it must be in \[0, 1\)"):
        MovingAverage(network(), 1.0)
