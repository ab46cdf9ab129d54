"""Data whose randomness depends on seed, epoch and sample alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandFlipd, RandGaussianNoised
from pairs import LOAD

import medseg.engines.loading as loading
from medseg.engines.loading import SegmentationDataset, make_loader

Entries = list[dict[str, Any]]


def noisy(entries: Entries, **options: Any) -> SegmentationDataset:
    augmentation = [
        RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0),
        RandGaussianNoised(keys="image", prob=1.0, std=0.1),
    ]
    return SegmentationDataset(entries, LOAD, augmentation, **options)


def batches(loader: Any, epoch: int) -> list[dict[str, torch.Tensor]]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_samples_are_plain_and_the_cache_changes_nothing(entries: Entries) -> None:
    cached, read = (SegmentationDataset(entries, LOAD, cache=cache) for cache in (True, False))
    for one, other in zip(cached, read, strict=False):
        assert not isinstance(one["image"], MetaTensor)
        assert one["image"].shape == (1, 16, 16)
        assert one["label"].dtype == torch.uint8
        torch.testing.assert_close(one, other)


def test_epochs_differ_and_repeat(entries: Entries) -> None:
    data = noisy(entries, seed=3)
    first, again, next_epoch = data[(1, 2)], data[(1, 2)], data[(2, 2)]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["image"], next_epoch["image"])
    assert not torch.equal(first["image"], noisy(entries, seed=4)[(1, 2)]["image"])


def test_workers_change_nothing(entries: Entries) -> None:
    alone = make_loader(noisy(entries), 3, shuffle=True)
    helped = make_loader(noisy(entries), 3, shuffle=True, num_workers=2)
    for epoch in (1, 2):
        torch.testing.assert_close(batches(alone, epoch), batches(helped, epoch), rtol=0, atol=0)


def test_two_processes_share_each_batch(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(make_loader(noisy(entries), 4, shuffle=True), 5)
    parts = []
    monkeypatch.setattr(loading, "world_size", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(loading, "rank", lambda number=number: number)
        parts.append(batches(make_loader(noisy(entries), 2, shuffle=True), 5))
    for batch, one, two in zip(whole, *parts, strict=True):
        together = torch.stack([one["image"], two["image"]], dim=1).flatten(0, 1)
        torch.testing.assert_close(together, batch["image"], rtol=0, atol=0)


def test_evaluation_counts_every_sample_once(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "world_size", lambda: 3)
    seen = 0
    for number in range(3):
        monkeypatch.setattr(loading, "rank", lambda number=number: number)
        seen += sum(len(b["image"]) for b in make_loader(SegmentationDataset(entries, LOAD), 2, shuffle=False))
    assert seen == len(entries)


def test_too_few_samples(entries: Entries) -> None:
    with pytest.raises(ValueError, match="the split holds no sample"):
        make_loader(SegmentationDataset([], LOAD), 1, shuffle=True)
    with pytest.raises(ValueError, match=r"batch_size 9 x 1 process is more than the 8 training samples"):
        make_loader(SegmentationDataset(entries, LOAD), 9, shuffle=True)


class Counting(MapTransform):
    """Count how often it is asked."""

    calls = 0

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return data


def test_the_cache_saves_reading(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(**options: Any) -> int:
        counting = Counting(keys="image")
        data = SegmentationDataset(entries, [*LOAD, counting], [RandFlipd(keys="image", prob=0.5)], **options)
        for epoch in (1, 2, 3):
            for index in range(len(entries)):
                assert data[(epoch, index)]["image"].shape == (1, 16, 16)
        return counting.calls

    assert calls() <= len(entries) + 1  # one more, to see how large a sample is
    assert calls(cache=False) == 3 * len(entries)
    monkeypatch.setattr(loading, "_MEMORY_SHARE", 0.0)
    assert calls() == 3 * len(entries) + 1


def test_augmentation_leaves_the_cache_alone(entries: Entries) -> None:
    data = noisy(entries)
    first = [data[(1, index)] for index in range(len(entries))]
    for index in range(len(entries)):
        data[(2, index)]["image"].zero_()
    torch.testing.assert_close([data[(1, index)] for index in range(len(entries))], first, rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_draws_no_random_numbers_of_the_network(entries: Entries, num_workers: int) -> None:
    """Otherwise dropout would depend on the workers, and on where a run was resumed."""
    torch.manual_seed(7)
    torch.rand(3)
    before = torch.random.get_rng_state()
    loader = make_loader(noisy(entries), 2, shuffle=True, num_workers=num_workers)
    for epoch in (1, 2):
        batches(loader, epoch)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_bad_file_is_named(entries: Entries) -> None:
    image = Path(entries[2]["image"])
    image.write_bytes(image.read_bytes()[:60])
    loader = make_loader(SegmentationDataset(entries, LOAD, cache=False), 2, shuffle=False)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    cause: BaseException = caught.value
    while cause.__cause__ is not None and not isinstance(cause, ValueError):
        cause = cause.__cause__
    assert str(cause).startswith(f"{image}: ")
