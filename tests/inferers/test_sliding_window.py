"""Sliding window."""

import pytest
import torch
from torch import Tensor

from medseg.inferers.sliding_window import SlidingWindow


def pixelwise(x: Tensor) -> Tensor:
    return torch.cat([x, 2 * x], dim=1)


@pytest.mark.parametrize("shape", [(1, 1, 40, 56), (2, 1, 16, 16), (1, 1, 5, 70), (1, 1, 33, 20, 11)])
def test_a_pixelwise_network_is_reproduced(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    torch.testing.assert_close(SlidingWindow([16, 16], overlap=0.5)(x, pixelwise), pixelwise(x))


def test_three_dimensional_window() -> None:
    x = torch.rand(1, 1, 20, 17, 9)
    torch.testing.assert_close(SlidingWindow([8, 8, 8])(x, pixelwise), pixelwise(x))


def test_windows_are_channels_last() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x

    SlidingWindow([8, 8])(torch.rand(1, 3, 16, 16), network)
    assert seen
    assert all(seen)


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="overlap is 1"):
        SlidingWindow([8, 8], overlap=1.0)
    with pytest.raises(ValueError, match="three take volumes"):
        SlidingWindow([8, 8, 8])(torch.rand(1, 1, 16, 16), pixelwise)
