"""Batches that come as one tensor are what they were, from any number of loading processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import RandFlipd
from pairs import LOAD
from torch.utils.data import DataLoader

from medseg.engines.loading import SEED, SegmentationDataset, make_loader
from medseg.engines.packing import PackedBatch, pack
from medseg.engines.trainer import Trainer
from medseg.engines.training_parts import PrepareBatch
from medseg.losses.focal_iou import FocalIoULoss
from medseg.networks.unet import UNet
from medseg.runs.run import Run

Entries = list[dict[str, Any]]
CPU = torch.device("cpu")


def batch_of_kinds() -> dict[str, torch.Tensor]:
    return {
        "label": torch.arange(3, dtype=torch.uint8).view(3, 1),
        "image": torch.randn(3, 2, 5),
        "turned": torch.randn(4, 3).T,
        "there": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 4),
        "one": torch.tensor(2.5, dtype=torch.float64),
        SEED: torch.tensor([1, 2**31 + 1, 5]),
    }


def test_what_is_packed_is_what_it_was() -> None:
    batch = batch_of_kinds()
    packed = pack(batch)
    assert isinstance(packed, PackedBatch)
    assert list(packed) == list(batch)
    assert len(packed) == len(batch)
    for name, value in packed.items():
        assert value.dtype == batch[name].dtype
        assert value.shape == batch[name].shape
        assert torch.equal(value, batch[name])
        assert value.is_contiguous()
        assert value.numel() == 0 or value.data_ptr() % 64 == packed.data.data_ptr() % 64
    moved = packed.to(torch.device("meta"))
    assert {name: (v.shape, v.dtype) for name, v in moved.items()} == {n: (v.shape, v.dtype) for n, v in batch.items()}


@pytest.mark.parametrize(
    "batch", [{}, {"image": torch.zeros(1), "name": ["a"]}, {"image": torch.nn.Parameter()}], ids=repr
)
def test_other_batches_stay(batch: dict[str, Any]) -> None:
    assert pack(batch) is batch


def test_it_reaches_the_network_as_it_was() -> None:
    batch = {**batch_of_kinds(), "affine": torch.zeros(3, 4, 4)}
    seen: list[Any] = []

    def augment(tensors: dict[str, torch.Tensor], seeds: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append((tensors.copy(), seeds))
        return tensors

    for given in (batch, pack(batch)):
        image, targets = PrepareBatch(False, augment)(given, CPU, True)
        assert torch.equal(image, batch["image"])
        assert set(targets) == {"label", "turned", "there", "nothing", "one"}
    (first, seeds), (second, others) = seen
    assert torch.equal(seeds, others)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_loading_process_hands_over_one_tensor(entries: Entries) -> None:
    flip = [RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0)]
    data = SegmentationDataset(entries, LOAD, flip)
    alone, helped = (list(make_loader(data, 2, shuffle=True, num_workers=n)) for n in (0, 2))
    assert all(isinstance(batch, dict) for batch in alone)
    for one, other in zip(alone, helped, strict=True):
        assert isinstance(other, PackedBatch)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_are_the_same_for_any_number_of_loading_processes(entries: Entries, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        torch.manual_seed(0)
        network = UNet(2, 1, 3, channels=(4, 8))
        data = SegmentationDataset(entries, LOAD, [RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0)])
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        Trainer(
            1, CPU, data, network, FocalIoULoss(), optimizer, Run(tmp_path / str(workers), tracking=False),
            batch_size=2, num_workers=workers,
        ).run()  # fmt: skip
        found.append([parameter.detach() for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU has page-locked memory")
def test_it_is_pinned_as_one() -> None:
    loader = DataLoader([batch_of_kinds()], batch_size=None, collate_fn=pack, pin_memory=True)
    (batch,) = loader
    assert isinstance(batch, PackedBatch)
    assert batch.data.is_pinned()
