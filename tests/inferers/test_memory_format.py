"""In which layout a batch goes to a network."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from medseg.inferers import memory_format as formats
from medseg.inferers.memory_format import by_strides, classes_last, ends, memory_format, to_memory_format


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


LAYOUTS: dict[str, Tensor] = {
    "class by class": torch.randn(2, 3, 4, 5, 6),
    "voxel by voxel": to_memory_format(torch.randn(2, 3, 4, 5, 6)),
    "a part": to_memory_format(torch.randn(2, 3, 9, 8, 7))[:, :, 1:5, 2:7, :6],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_is_gone_through_as_it_lies(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = LAYOUTS[layout]
    assert classes_last(batch) == (layout != "class by class")
    strides = by_strides(batch).stride()
    assert list(strides) == sorted(strides, reverse=True)
    assert torch.equal(by_strides(batch).flatten().sort().values, batch.flatten().sort().values)
    for at_once in (1, 50, 10**6):
        monkeypatch.setattr(formats, "_AT_ONCE", at_once)
        assert ends(batch).tolist() == [float(batch.min()), float(batch.max())]
        for bad in (torch.nan, torch.inf, -torch.inf):
            wrong = batch.clone(memory_format=torch.preserve_format)
            wrong[1, 2, 3, 4, 5] = bad
            assert not bool(torch.isfinite(ends(wrong)).all())


def test_one_class_lies_side_by_side_with_none() -> None:
    assert not classes_last(to_memory_format(torch.randn(1, 1, 4, 5)))
