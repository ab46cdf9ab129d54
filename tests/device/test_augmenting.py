"""Samples augmented on a GPU are the loader's: the same places, labels and strengths, and values within rounding."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from engines.test_augmenting import VALUES, patches
from torch import Tensor

from medseg.engines.augmenting import augment
from medseg.engines.loading import SegmentationDataset, make_loader
from medseg.engines.training_parts import PrepareBatch
from medseg.transforms.intensity import RandNoised

pytestmark = pytest.mark.filterwarnings("default")  # what other packages warn of on a GPU is no matter of these tests

CPU = torch.device("cpu")


def noises(transform: Any) -> Iterator[RandNoised]:
    for each in getattr(transform, "transforms", ()):
        if isinstance(each, RandNoised):
            yield each
        else:
            yield from noises(each)


def without_noise(data: SegmentationDataset) -> SegmentationDataset:
    """Let noise be drawn, and be nothing: all that is drawn after it is what it would be."""
    found = list(noises(data.augmentation))
    assert found
    for each in found:
        each.span = (0.0, 0.0)
    return data


def batches(
    data: SegmentationDataset, device: torch.device, place: str, batch_size: int = 4
) -> list[dict[str, Tensor]]:
    data.augments = place == "loader"
    loader = make_loader(data, 4, shuffle=True, iterations=6, pin_memory=device.type == "cuda")
    loader.sampler.set_epoch(3)
    prepare = PrepareBatch(True, partial(augment, data))
    found = []
    for batch in loader:
        image, label = prepare(batch, device, non_blocking=True)
        assert image.device == device
        found.append({"image": image, "label": torch.as_tensor(label)})
    return [{key: value.cpu() for key, value in batch.items()} for batch in found]


KINDS: list[dict[str, Any]] = [{"dims": 2}, {"dims": 3}, {"slices": True}]


@pytest.mark.parametrize("options", KINDS, ids=["2D", "3D", "slices"])
def test_the_loaders_samples(device: torch.device, options: dict[str, Any]) -> None:
    """But for the noise, which each device draws itself. A voxel half-way between two may go to the other one."""
    on_loader = batches(without_noise(patches(**options)), CPU, "loader")
    on_device = batches(without_noise(patches(**options)), device, "device")
    total = differing = 0
    for one, other in zip(on_device, on_loader, strict=True):
        assert one["label"].dtype == other["label"].dtype
        assert one["image"].shape == other["image"].shape
        total += one["label"].numel()
        differing += int((one["label"] != other["label"]).sum())
        assert bool(one["image"].isfinite().all())
        torch.testing.assert_close(one["image"], other["image"], rtol=2e-3, atol=2e-3)
        assert set(one["label"].flatten().tolist()) <= {*VALUES, 255}
    assert differing <= 1e-3 * total


@pytest.mark.parametrize("options", KINDS, ids=["2D", "3D", "slices"])
def test_noise_of_its_own(device: torch.device, options: dict[str, Any]) -> None:
    """The same each time, as strong as the loader's, and nowhere no number."""
    first, again = (batches(patches(**options), device, "device") for _ in range(2))
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    others = batches(patches(**options), CPU, "loader")
    for one, other in zip(first, others, strict=True):
        assert bool(one["image"].isfinite().all())
        assert float((one["label"] != other["label"]).float().mean()) <= 1e-3
        spread = [batch["image"].std(correction=0) for batch in (one, other)]
        torch.testing.assert_close(spread[0], spread[1], rtol=0.1, atol=0.0)
