"""Patches depend on seed, epoch and sample alone, hold what they should, and never show what is not there."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandCropByPosNegLabeld, RandFlipd

import medseg.engines.loading as loading
from medseg.engines.case_files import CaseFiles
from medseg.engines.loading import Draw, EpochSampler, SegmentationDataset, make_loader
from medseg.engines.patches import MOST_POSITIONS, ClassPositionsd, PatchDataset, read_size
from medseg.errors import MedsegError

SHAPE = (12, 14, 10)
CASES = [{"number": number} for number in range(5)]


def load(entry: dict[str, Any]) -> dict[str, Any]:
    """A volume whose voxels know where they are; case 3 has no structure, case 4 alone class 2."""
    number = entry["number"]
    image = torch.arange(math.prod(SHAPE)).reshape(1, *SHAPE).float() + 10_000 * (number + 1)
    label = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    if number != 3:
        label[0, 1, 2, 3] = 1
    if number == 4:
        label[0, 11, 13, 9] = 2
    return {"image": image, "label": label}


def patches(**options: Any) -> PatchDataset:
    settings: dict[str, Any] = {"patch": (4, 6, 5), "foreground": 0.5, "without": (0,), "fill": 0, **options}
    return PatchDataset(CASES, load, **settings)


def batches(
    data: SegmentationDataset, batch_size: int, epoch: int = 1, **options: Any
) -> list[dict[str, torch.Tensor]]:
    loader = make_loader(data, batch_size, shuffle=True, **options)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_a_batch_may_be_larger_than_the_cases_are_many() -> None:
    (batch,) = batches(patches(), 12)
    assert batch["image"].shape == (12, 1, 4, 6, 5)
    drawn = (batch["image"].amax((1, 2, 3, 4)) // 10_000).int().bincount(minlength=6)[1:]
    assert int(drawn.sum()) == 12
    assert int(drawn.max() - drawn.min()) <= 1
    with pytest.raises(
        MedsegError,
        match=r"batch_size 12 x 1 process is more than the 5 training samples; .*or give iterations",
    ):
        batches(SegmentationDataset(CASES, load), 12)
    assert len(batches(SegmentationDataset(CASES, load), 12, iterations=3)) == 3


def test_an_epoch_is_so_many_iterations() -> None:
    assert len(batches(patches(), 2)) == 2
    assert len(batches(patches(), 2, iterations=7)) == 7
    epochs = [torch.cat([b["image"] for b in batches(patches(), 2, epoch, iterations=7)]) for epoch in (1, 2, 1)]
    torch.testing.assert_close(epochs[0], epochs[2], rtol=0, atol=0)
    assert not torch.equal(epochs[0], epochs[1])


def test_workers_and_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = [RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0)]
    whole = batches(patches(augmentation=augmentation), 4, 5, iterations=3)
    helped = batches(patches(augmentation=augmentation), 4, 5, iterations=3, num_workers=2)
    torch.testing.assert_close(whole, helped, rtol=0, atol=0)
    monkeypatch.setattr(loading, "world_size", lambda: 2)
    parts = []
    for number in range(2):
        monkeypatch.setattr(loading, "rank", lambda number=number: number)
        parts.append(batches(patches(augmentation=augmentation), 2, 5, iterations=3))
    for batch, one, two in zip(whole, *parts, strict=True):
        for key in ("image", "label"):
            together = torch.stack([one[key], two[key]], dim=1).flatten(0, 1)
            torch.testing.assert_close(together, batch[key], rtol=0, atol=0)


@pytest.mark.parametrize(("share", "batch_size"), [(0.0, 2), (1 / 3, 6), (0.33, 2), (0.5, 5), (1.0, 3)])
def test_the_share_of_each_batch(share: float, batch_size: int) -> None:
    """Rounded up or down in each batch, exact over many, and no place of the batch, so no process, gets them all."""
    data = patches(foreground=share)
    sampler = EpochSampler(data, batch_size, iterations=300)
    flags = torch.tensor([draw.foreground for draw in sampler]).reshape(300, batch_size).float()
    counts = flags.sum(1)
    assert set(counts.tolist()) <= {float(np.floor(share * batch_size)), float(np.ceil(share * batch_size))}
    assert float(flags.mean()) == pytest.approx(share, abs=0.005)
    assert float((flags.mean(0) - share).abs().max()) < 0.12
    assert len(sampler) == 300 * batch_size


def test_cases_are_drawn_by_their_chances() -> None:
    data = patches()
    data.chances = lambda: [0.1, 0.1, 0.1, 0.1, 0.6]
    even, sampler = EpochSampler(patches(), 4, iterations=500), EpochSampler(data, 4, iterations=500)
    for each in (even, sampler):
        each.set_epoch(3)
    drawn = [(draw.case, draw.visit) for draw in sampler]
    assert len(set(drawn)) == 2000  # no patch twice
    assert drawn == [(draw.case, draw.visit) for draw in sampler]
    numbers = torch.tensor(drawn)[:, 0]
    rounds = torch.stack([part.bincount(minlength=5) for part in numbers.reshape(400, 5)])
    assert set(rounds[:, 4].tolist()) == {3}
    assert set(rounds[:, :4].sum(1).tolist()) == {2}
    assert (rounds[:, :4].float().mean(0) - 0.5).abs().max() < 0.08
    together = [
        [(draw.case, draw.visit) for draw in EpochSampler(data, 2, 2, rank, iterations=500)] for rank in range(2)
    ]
    alone = [(draw.case, draw.visit) for draw in EpochSampler(data, 4, iterations=500)]
    assert [each for pair in zip(*together, strict=True) for each in pair] == alone != drawn
    alike = [draw.case for draw in even]
    assert torch.tensor(alike).bincount().tolist() == [400] * 5
    data.chances = lambda: [0.2] * 5
    assert Counter(draw.case for draw in EpochSampler(data, 4, iterations=500)) == Counter(alike)


def test_foreground_patches_hold_a_class_evenly() -> None:
    data = patches()
    held = [data[Draw(epoch, 4, foreground=True)]["label"].flatten().bincount(minlength=3)[1:] for epoch in range(200)]
    ones, twos = torch.stack(held).float().sum(0).tolist()
    assert ones + twos == 200  # they lie too far apart for one patch
    assert ones == pytest.approx(100, abs=30)
    elsewhere = [int(data[Draw(epoch, 4)]["label"].sum()) for epoch in range(200)]
    assert sum(value == 0 for value in elsewhere) > 100
    assert data[Draw(0, 3, foreground=True)]["label"].sum() == 0  # nothing to centre on: anywhere


def test_patches_lie_in_the_case() -> None:
    """Each is a piece of the volume, with no voxel of another place, and every place is reached."""
    data, starts = patches(), set()
    for epoch in range(400):
        image = data[Draw(epoch, 0, foreground=epoch % 2 == 0)]["image"][0] - 10_000
        place = np.unravel_index(int(image[0, 0, 0]), SHAPE)
        whole = load(CASES[0])["image"][0] - 10_000
        expected = whole[tuple(slice(p, p + e) for p, e in zip(place, (4, 6, 5), strict=True))]
        torch.testing.assert_close(image, expected, rtol=0, atol=0)
        starts.add(tuple(map(int, place)))
    for axis, (edge, patch) in enumerate(zip(SHAPE, (4, 6, 5), strict=True)):
        assert {start[axis] for start in starts} == set(range(edge - patch + 1))


@pytest.mark.parametrize("fill", [0, 255])
def test_small_cases_are_padded(fill: int) -> None:
    sample = patches(patch=(16, 6, 11), fill=fill)[Draw(1, 4)]
    assert sample["image"].shape == sample["label"].shape == (1, 16, 6, 11)
    outside = torch.ones(16, 11, dtype=torch.bool)
    outside[2:14, 0:10] = False
    for plane in range(6):
        assert bool((sample["image"][0, :, plane] == 0).eq(outside).all())
        assert bool((sample["label"][0, :, plane][outside] == fill).all())
    assert int((sample["label"] != fill).sum()) == (12 * 6 * 10 if fill else int((sample["label"] > 0).sum()))


def test_without_a_label_for_it_a_case_goes_on_as_at_its_border() -> None:
    sample = patches(patch=(16, 14, 10), fill=None)[Draw(1, 0)]
    whole = load(CASES[0])
    for key in ("image", "label"):
        torch.testing.assert_close(sample[key][:, 2:14], whole[key], rtol=0, atol=0)
        for plane in (0, 1):
            torch.testing.assert_close(sample[key][:, plane], whole[key][:, 0], rtol=0, atol=0)
            torch.testing.assert_close(sample[key][:, 14 + plane], whole[key][:, -1], rtol=0, atol=0)


class Wide:
    """A transform that turns, so that it needs more than the patch."""

    def reads(self, patch: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(edge + 3 for edge in patch)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        assert data["image"].shape == (1, 7, 9, 8)
        return data


def test_more_is_read_where_patches_are_turned() -> None:
    assert read_size([], (4, 6, 5)) == (4, 6, 5)
    assert read_size([Compose([Wide()])], (4, 6, 5)) == (7, 9, 8)
    turned, plain = patches(augmentation=[Wide()]), patches()
    for epoch in range(20):
        for index in range(5):  # what lies in the middle of what was read is the patch
            one, other = (data[Draw(epoch, index, foreground=True)] for data in (turned, plain))
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_monais_sampling_transforms() -> None:
    """One that gives several samples of a case makes the batch so many times larger."""
    crop = RandCropByPosNegLabeld(["image", "label"], label_key="label", spatial_size=(3, 3, 3), num_samples=4)
    data = SegmentationDataset([case for case in CASES if case["number"] != 3], load, [crop])
    for workers in (0, 2):
        drawn = batches(data, 2, num_workers=workers)
        assert [tuple(batch["image"].shape) for batch in drawn] == [(8, 1, 3, 3, 3)] * 2
    torch.testing.assert_close(batches(data, 2), drawn, rtol=0, atol=0)


def test_positions_are_bounded_and_of_their_class() -> None:
    label = torch.zeros((1, 40, 40, 40), dtype=torch.uint8)
    label[0, 10:30] = 1
    label[0, 35:, 0, 0] = 7
    label[0, 0] = 255
    found = ClassPositionsd(without=(0, 255))({"label": label})["positions"]
    assert found[:, 0].unique(return_counts=True)[1].tolist() == [MOST_POSITIONS, 5]
    assert bool((label[0][tuple(found[:, 1:].long().T)] == found[:, 0]).all())
    ones = found[found[:, 0] == 1][:, 1:].float()
    torch.testing.assert_close(ones.mean(0), torch.tensor([19.5, 19.5, 19.5]), rtol=0, atol=1.0)
    assert ClassPositionsd(without=(0,))({"label": label * 0})["positions"].shape == (0, 4)


def test_patches_from_disk_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for case in CASES:
        path = tmp_path / f"{case['number']}.raw"
        path.write_text(str(case["number"]))
        rows.append({**case, "image": str(path), "label": str(path)})
    monkeypatch.setattr(loading, "_MEMORY_SHARE", 0.0)
    files = CaseFiles("as it is", tmp_path / "cases")
    options: dict[str, Any] = {"foreground": 0.5, "without": (0,), "fill": 0}
    mapped = PatchDataset(rows, load, (4, 6, 5), files=files, **options)
    torch.testing.assert_close(batches(mapped, 3, iterations=4), batches(patches(), 3, iterations=4), rtol=0, atol=0)
    assert str(tmp_path / "cases") in Path("/proc/self/maps").read_text()


def slices(rows: Any = CASES, **options: Any) -> PatchDataset:
    settings: dict[str, Any] = {"patch": (4, 6), "without": (0,), "fill": 0, "slices": True, **options}
    return PatchDataset(rows, load, **settings)


def test_patches_of_slices_are_parts_of_one_slice() -> None:
    numbers = []
    for batch in batches(slices(), 10, iterations=4):
        assert batch["image"].shape == batch["label"].shape == (10, 1, 4, 6)
        for image in batch["image"]:
            voxels = (image % 10_000).int().flatten().numpy()
            x, y, z = np.unravel_index(voxels, SHAPE)
            assert len(set(z)) == 1
            assert (np.ptp(x), np.ptp(y)) == (3, 5)
            numbers.append(int(z[0]))
    assert set(numbers) == set(range(SHAPE[2]))  # 40 patches of 10 slices


def test_patches_of_slices_show_their_class() -> None:
    data = slices(foreground=1.0)
    for visit in range(5):
        sample = data[Draw(1, 0, visit, foreground=True)]
        assert sample["label"].sum() == 1  # of one voxel in the volume
        assert set((sample["image"] % 10_000 % SHAPE[2]).flatten().tolist()) == {3}
    assert {int(data[Draw(1, 4, visit, foreground=True)]["label"].max()) for visit in range(9)} == {1, 2}
    assert data[Draw(1, 3, 0, foreground=True)]["label"].sum() == 0


def test_a_slice_is_read_without_its_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.raw"
    path.touch()
    rows = [{"number": 0, "image": str(path), "label": str(path)}]
    monkeypatch.setattr(loading, "_MEMORY_SHARE", 0.0)
    mapped = slices(rows, files=CaseFiles("as it is", tmp_path / "cases"))
    held = slices(rows, cache=False)
    torch.testing.assert_close(mapped[Draw(1, 0)], held[Draw(1, 0)], rtol=0, atol=0)
    image = mapped._base[0]["image"]
    assert str(tmp_path / "cases") in Path("/proc/self/maps").read_text()
    assert image.shape == (1, *SHAPE)
    assert image.stride()[-1] == SHAPE[0] * SHAPE[1]  # what lies together is one slice
    assert image[..., 3].permute(2, 1, 0).is_contiguous()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": (4, 0, 5)}, r"patch is \[4, 0, 5\]; give an edge of at least 1"),
        ({"foreground": 1.5}, "foreground is 1.5; give a share between 0 and 1"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MedsegError, match=said):
        patches(**options)


def test_a_patch_of_other_axes() -> None:
    data = PatchDataset([{"number": 0, "image": "a.nii.gz"}], load, (4, 6), cache=False)
    with pytest.raises(MedsegError, match=r"a\.nii\.gz: has 3 axes, but the patch \[4, 6\] has 2; give patch one edge"):
        data[0]
