"""In which layout a batch goes to a network."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medseg.inferers.memory_format import memory_format, to_memory_format


@pytest.mark.parametrize(
    ("axes", "device", "expected"),
    [(4, "cpu", torch.channels_last), (5, "cpu", torch.channels_last_3d), (4, "cuda:0", torch.channels_last),
     (5, "cuda:0", torch.contiguous_format), (3, "cpu", torch.contiguous_format)],
)  # fmt: skip
def test_volumes_on_a_gpu_stay_plain(axes: int, device: str, expected: torch.memory_format) -> None:
    batch: Any = SimpleNamespace(ndim=axes, device=torch.device(device))
    assert memory_format(batch) == expected


def test_values_stay() -> None:
    batch = torch.rand(2, 3, 4, 5, 6)
    moved = to_memory_format(batch)
    assert moved.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(moved, batch)
