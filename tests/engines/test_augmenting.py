"""Augmented by the loader or on the device: the same samples, and a choice that is measured once."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.transforms import RandCropByPosNegLabeld, RandFlipd
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import medseg.engines.augmenting as augmenting
import medseg.engines.loading as loading
import medseg.engines.trainer as trainer_module
import medseg.engines.training_parts as training_parts
from medseg.engines.augmenting import Pace, augment, settle
from medseg.engines.loading import SEED, SegmentationDataset, make_loader
from medseg.engines.patches import PatchDataset
from medseg.engines.trainer import Trainer
from medseg.engines.training_parts import PrepareBatch, agreed
from medseg.errors import MedsegError
from medseg.networks.unet import UNet
from medseg.runs.checkpoint import load_checkpoint, network_weights
from medseg.runs.run import Run
from medseg.transforms.augmentation import augmentation
from medseg.transforms.intensity import RandNoised

CPU = torch.device("cpu")
CASES = [{"number": number} for number in range(4)]
VALUES = (0, 1, 4)
SHAPES = {2: (26, 22), 3: (14, 16, 12)}
PATCHES = {2: (16, 20), 3: (8, 8, 12)}


def load(dims: int, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Two channels of noise, and a label with a rare class; a case a seed."""
    numbers = torch.Generator().manual_seed(entry["number"])
    label = torch.tensor(VALUES, dtype=torch.uint8)[torch.randint(3, (1, *SHAPES[dims]), generator=numbers)]
    return {"image": torch.randn((2, *SHAPES[dims]), generator=numbers) + label, "label": label}


def often(patch: tuple[int, ...]) -> Any:
    """nnU-Net's changes, each in most of the samples."""
    recipe = augmentation(patch, prob_rotation=0.7, prob_scale=0.7, prob_elastic=0.7)
    for transform in recipe.transforms:
        if hasattr(transform, "prob_channel"):
            transform.prob = transform.prob_channel = 0.8
    return recipe


def patches(dims: int = 3, **options: Any) -> PatchDataset:
    patch = (8, 8) if options.get("slices") else PATCHES[dims]
    settings: dict[str, Any] = {"foreground": 0.5, "without": (0,), "fill": 255, **options}
    return PatchDataset(CASES, partial(load, dims), patch, [often(patch)], **settings)


def batches(data: SegmentationDataset, place: str, batch_size: int = 4, **options: Any) -> list[dict[str, Tensor]]:
    """Batches as a training gets them."""
    data.augments = place != "device"
    loader = make_loader(data, batch_size, shuffle=True, **{"iterations": 2, **options})
    loader.sampler.set_epoch(3)
    prepare = PrepareBatch(False, partial(augment, data))
    found = []
    for batch in loader:
        assert (SEED in batch) is (place == "device")
        image, label = prepare(batch, CPU, non_blocking=True)
        found.append({"image": image, "label": torch.as_tensor(label)})
    return found


@pytest.mark.parametrize(
    "options", [{"dims": 2}, {"dims": 3}, {"slices": True}, {"fill": None}], ids=["2D", "3D", "slices", "no_fill"]
)
def test_the_device_gives_the_loaders_samples(options: dict[str, Any]) -> None:
    """Bit for bit where both are a CPU; labels are labels of the case, or what lies around it."""
    alike = batches(patches(**options), "loader"), batches(patches(**options), "device")
    torch.testing.assert_close(alike[1], alike[0], rtol=0, atol=0)
    around = set() if "fill" in options else {255}
    for batch in alike[1]:
        assert batch["label"].dtype == torch.uint8
        assert set(batch["label"].flatten().tolist()) <= {*VALUES, *around}
        assert batch["image"].dtype == torch.float32


def test_more_than_the_patch_goes_to_the_device() -> None:
    """What turning needs is handed out, and the middle alone comes back."""
    data = patches()
    data.augments = False
    assert data[0]["image"].shape[1:] == data.read > data.patch
    assert data.drawn(0, data.whole(0))["image"].shape[1:] == data.patch  # what the check looks at is augmented
    data.augments = True
    assert data[0]["image"].shape[1:] == data.patch


def test_workers_and_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(patches(), "device")
    torch.testing.assert_close(batches(patches(), "device", num_workers=2), whole, rtol=0, atol=0)
    monkeypatch.setattr(loading, "world_size", lambda: 2)
    parts = []
    for number in range(2):
        monkeypatch.setattr(loading, "rank", lambda number=number: number)
        parts.append(batches(patches(), "device", 2))
    for batch, one, two in zip(whole, *parts, strict=True):
        for key in ("image", "label"):
            together = torch.stack([one[key], two[key]], dim=1).flatten(0, 1)
            torch.testing.assert_close(together, batch[key], rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_gpu_is_not_waited_for(dims: int) -> None:
    """Tensors that claim to lie on a GPU stay there; whoever looks at a value, or mixes devices, raises."""
    try:
        with FakeTensorMode():
            torch.empty(1, device="cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"this PyTorch asks for a GPU's driver even here: {str(error).splitlines()[0]}")
    recipe = often(PATCHES[dims])
    # a generator of a GPU needs one
    recipe.transforms = [each for each in recipe.transforms if not isinstance(each, RandNoised)]
    data = SegmentationDataset([{}], [], [recipe], cache=False)
    size = [edge + 8 for edge in PATCHES[dims]]
    seeds = torch.arange(4)
    numbers = seeds.tolist()
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "tolist", lambda self: numbers if self is seeds else pytest.fail("waits for the device"))
        image = torch.empty((4, 2, *size), device="cuda")
        label = torch.empty((4, 1, *size), device="cuda", dtype=torch.uint8)
        found = augment(data, {"image": image, "label": label}, seeds)
    assert {key: (tuple(value.shape), value.device.type, value.dtype) for key, value in found.items()} == {
        "image": ((4, 2, *PATCHES[dims]), "cuda", torch.float32),
        "label": ((4, 1, *PATCHES[dims]), "cuda", torch.uint8),
    }


def test_several_samples_of_one() -> None:
    crop = RandCropByPosNegLabeld(["image", "label"], label_key="label", spatial_size=(6, 6, 6), num_samples=3)
    data = SegmentationDataset(CASES, partial(load, 3), [crop])
    found = batches(data, "device", 2)
    assert [tuple(batch["image"].shape) for batch in found] == [(6, 2, 6, 6, 6)] * 2
    torch.testing.assert_close(found, batches(data, "loader", 2), rtol=0, atol=0)


def unequal(entry: dict[str, Any]) -> dict[str, Tensor]:
    edge = 8 + entry["number"]
    return {"image": torch.zeros(1, edge, 9), "label": torch.zeros(1, edge, 9)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_that_differ_in_size(num_workers: int) -> None:
    data = SegmentationDataset(CASES, unequal, [RandFlipd(["image", "label"], prob=0.5)])
    said = (
        r"augment_on is device, but training samples differ in size before .*\(8x9, .*\), .* augment_on=loader, patch"
    )
    with pytest.raises(MedsegError, match=said):
        batches(data, "device", num_workers=num_workers)


def train(
    folder: Path, place: str, before: Callable[[Trainer], Any] = lambda _: None, **options: Any
) -> dict[str, Tensor]:
    """Train two epochs of two steps; returns the weights."""
    torch.manual_seed(0)
    network = UNet(3, 2, 5, channels=(4, 8), dropout=0.2)

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, label[:, 0].long(), ignore_index=255)

    settings: dict[str, Any] = {"batch_size": 2, "iterations": 2, "precision": "fp32", "ema_decay": 0.9, **options}
    trainer = Trainer(
        2, CPU, patches(), network, loss, torch.optim.Adam(network.parameters(), lr=1e-2), Run(folder, tracking=False),
        augment_on=place, **settings,
    )  # fmt: skip
    before(trainer)
    trainer.run()
    assert trainer.train_data.augments
    return dict(network_weights(load_checkpoint(folder / "model.pt")))


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a training whose loader augments."""
    return train(tmp_path_factory.mktemp("left_alone") / "run", "loader")


def test_trainings_are_alike(tmp_path: Path) -> None:
    options: dict[str, Any] = {"accumulation_steps": 2, "precision": "bf16"}
    found = [train(tmp_path / place, place, **options) for place in ("loader", "device")]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class StopNowError(Exception):
    """What ends a training here."""


def stopped_at(step: int) -> Callable[[Trainer], None]:
    """Return what makes a trainer stop there."""

    def stop(engine: Trainer) -> None:
        if engine.state.iteration == step:
            raise StopNowError

    def attach(trainer: Trainer) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)

    return attach


def test_resumed_on_the_device(tmp_path: Path, left_alone: dict[str, Tensor]) -> None:
    with pytest.raises(StopNowError):
        train(tmp_path / "parts", "device", stopped_at(3))
    torch.testing.assert_close(train(tmp_path / "parts", "device", resume=True), left_alone, rtol=0, atol=0)


def settled(place: str, data: SegmentationDataset, folder: Path) -> bool:
    """Return whether the loader augments in the end, on a CPU."""
    engine: Any = SimpleNamespace(state=SimpleNamespace(device=CPU), data_loader=SimpleNamespace(batch_size=2))
    settle(engine, data, place, Run(folder, tracking=False), resumed=True)
    return data.augments


def test_auto_on_a_cpu_is_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without measuring, and whatever a GPU's run recorded."""
    monkeypatch.setattr(augmenting, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "augmentation.json").write_text('{"augment_on": "device"}')
    data = patches()
    assert [settled(place, data, tmp_path) for place in ("device", "auto", "device", "loader")] == [0, 1, 0, 1]


def test_nothing_to_augment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settled("device", SegmentationDataset(CASES, unequal), tmp_path)
    assert "augment_on is device, but nothing is augmented" in caplog.text


@pytest.mark.parametrize("place", ["loader", "device"])
def test_auto_measures_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    left_alone: dict[str, Tensor], place: str,
) -> None:  # fmt: skip
    """As on a GPU: said, recorded, kept by who goes on, even where no epoch was completed; and nothing learns."""
    caplog.set_level(logging.INFO, "medseg")
    monkeypatch.setattr(augmenting, "_may_move", lambda *_: True)
    monkeypatch.setattr(Pace, "faster", property(lambda _: place))
    seen: list[bool] = []

    def watch(trainer: Trainer) -> None:
        stopped_at(1)(trainer)
        trainer.add_event_handler(Events.STARTED, lambda engine: seen.append(engine.train_data.augments))

    with pytest.raises(StopNowError):
        train(tmp_path / "run", "auto", watch)
    record = json.loads((tmp_path / "run" / "augmentation.json").read_text())
    assert (record["augment_on"], record["num_workers"]) == (place, 0)
    assert set(record["seconds_a_batch"]) == {"loader", "plain", "brought", "augmented", "step"}
    assert all(seconds > 0 for seconds in record["seconds_a_batch"].values())
    shown = {"device": "on cpu", "loader": "between the steps"}[place]
    assert caplog.text.count(f"augmentation: {shown} (a step takes") == 1
    monkeypatch.setattr(augmenting, "measure", lambda *_: pytest.fail("measured again"))
    again = train(
        tmp_path / "run",
        "auto",
        lambda trainer: trainer.add_event_handler(Events.STARTED, lambda e: seen.append(e.train_data.augments)),
        resume=True,
    )
    assert seen == [place == "loader"] * 2
    torch.testing.assert_close(again, left_alone, rtol=0, atol=0)


def test_a_measurement_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_alone: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(augmenting, "_may_move", lambda *_: True)
    monkeypatch.setattr(Pace, "faster", property(lambda _: "loader"))
    measured = train(tmp_path / "auto", "auto", num_workers=2)
    assert (tmp_path / "auto" / "augmentation.json").is_file()
    torch.testing.assert_close(measured, left_alone, rtol=0, atol=0)


def test_a_transform_that_knows_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(augmenting, "_may_move", lambda *_: True)
    monkeypatch.setattr(trainer_module, "augment", fails)
    train(tmp_path / "run", "auto")
    assert json.loads((tmp_path / "run" / "augmentation.json").read_text()) == {
        "augment_on": "loader",
        "num_workers": 0,
    }
    assert "augmentation on cpu: no such kernel" in caplog.text
    assert "augmentation: between the steps, as one of its transforms cannot run on cpu" in caplog.text


@pytest.mark.parametrize(
    ("pace", "faster"),
    [
        (Pace(loader=0.3, plain=0.01, brought=0.001, augmented=0.004, step=0.1), "device"),  # waits for the loader
        (Pace(loader=0.05, plain=0.01, brought=0.001, augmented=0.004, step=0.1), "loader"),  # which keeps up
        (Pace(loader=0.3, plain=0.01, brought=0.001, augmented=0.4, step=0.1), "loader"),
        (Pace(loader=0.3, plain=0.3, brought=0.001, augmented=0.004, step=0.1), "loader"),  # reading is what takes long
    ],
)
def test_what_is_faster(pace: Pace, faster: str) -> None:
    assert pace.faster == faster


def test_processes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the slowest; alone, a process asks nobody and waits for no device."""

    def reduce(found: Tensor, op: Any) -> None:
        assert op == torch.distributed.ReduceOp.MAX
        found.copy_(found.maximum(torch.tensor([1.0, 0.5])))

    assert agreed([0.25, 2.0], torch.device("cuda")) == [0.25, 2.0]
    monkeypatch.setattr(training_parts, "world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    assert agreed([0.25, 2.0], CPU) == [1.0, 2.0]
    assert agreed([False, True], CPU) == [1.0, 1.0]


def test_where_auto_may_move() -> None:
    """To a GPU, with an augmentation, where no batch can fall apart."""
    gpu, cpu = SimpleNamespace(device=torch.device("cuda", 0)), SimpleNamespace(device=CPU)

    def may(state: Any, data: SegmentationDataset, batch_size: int) -> bool:
        engine: Any = SimpleNamespace(state=state, data_loader=SimpleNamespace(batch_size=batch_size))
        return augmenting._may_move(engine, data)

    pictures = SegmentationDataset(CASES, unequal, [RandFlipd(["image", "label"])])
    assert may(gpu, patches(), 2)
    assert not may(cpu, patches(), 2)
    assert not may(gpu, pictures, 2)
    assert may(gpu, pictures, 1)
    assert not may(gpu, SegmentationDataset(CASES, unequal), 1)


def test_unknown_places(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match="augment_on is 'gpu'; choose one of loader, device, auto"):
        train(tmp_path / "run", "gpu")
