"""Trainings on a GPU: they end, go on as if nothing had happened, and say what to lower where memory runs out."""

import gc
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.test_augmenting import CASES, StopNowError, load, patches, stopped_at
from ignite.engine import Events
from torch import Tensor, nn

from medseg.engines.evaluator import Evaluator
from medseg.engines.failures import TrainingError
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.networks.unet import UNet
from medseg.runs.checkpoint import load_checkpoint, network_weights
from medseg.runs.run import Run

pytestmark = pytest.mark.filterwarnings("default")  # what other packages warn of on a GPU is no matter of these tests

LABELS = {number: f"class {number}" for number in range(5)}
MIB = 2**20


def build(folder: Path, device: torch.device, data: SegmentationDataset, dims: int, **options: Any) -> Trainer:
    """Return a trainer of a small U-Net of patches with two channels."""
    torch.manual_seed(0)
    network = UNet(dims, 2, 5, channels=options.pop("channels", (8, 16)), dropout=0.1).to(device)
    held = options.pop("held_out", None)
    evaluator = Evaluator(device, held, network, LABELS, ignore_index=255) if held is not None else None
    make = options.pop("optimizer", torch.optim.Adam)
    rate = options.pop("rate", 1e-2)
    settings: dict[str, Any] = {"batch_size": 2, "iterations": 3, "max_epochs": 2, "evaluator": evaluator, **options}
    return Trainer(
        device=device,
        dataset=data,
        network=network,
        loss_function=CrossEntropyLoss(ignore_index=255),
        optimizer=make(network.parameters(), lr=rate),
        run=Run(folder, tracking=False),
        **settings,
    )


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("dims", "precision"), [(2, "auto"), (3, "auto"), (3, "fp16"), (2, "fp32")], ids=lambda value: str(value)
)
def test_it_ends(device: torch.device, on_gpu: bool, tmp_path: Path, dims: int, precision: str) -> None:
    """With a validation, in each precision; the state that a resumed one needs is in the checkpoint."""
    if precision == "fp16" and not on_gpu:
        precision = "bf16"
    whole = SegmentationDataset(CASES, partial(load, dims))
    trainer = build(
        tmp_path / "run", device, patches(dims), dims, precision=precision, held_out=whole, ema_decay=0.9,
        accumulation_steps=2, clip_grad_norm=1.0,
    )  # fmt: skip
    trainer.run()
    if on_gpu and precision == "auto":
        assert trainer.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    found = rows(tmp_path / "run")
    assert len(found) == 2
    assert all(math.isfinite(row[key]) for row in found for key in ("loss", "val_mean_iou", "images_per_second"))
    assert {parameter.device for parameter in trainer.network.parameters()} == {device}
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert bool(last["scaler"]) is (precision == "fp16")
    assert all(
        value.device.type == "cpu" for value in network_weights(load_checkpoint(tmp_path / "run" / "model.pt")).values()
    )


def watched(trainer: Trainer) -> list[Tensor]:
    """Return a list that gets the images of each step."""
    seen: list[Tensor] = []

    def note(engine: Trainer) -> None:
        seen.append(engine.state.output["image"].cpu().clone())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    return seen


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("dims", "place", "precision"), [(2, "device", "fp32"), (3, "loader", "auto"), (3, "device", "fp16")]
)
def test_resumed_as_uninterrupted(
    device: torch.device, on_gpu: bool, tmp_path: Path, dims: int, place: str, precision: str
) -> None:
    """The same samples to the last bit; the same weights but for the order of sums, which a GPU does not fix."""
    options: dict[str, Any] = {
        "augment_on": place,
        "precision": precision if on_gpu else "fp32",
        "optimizer": torch.optim.SGD,  # Adam makes a step of whatever rounding leaves of a gradient that is 0
        "ema_decay": 0.9,
        "schedule": "cosine",
    }
    whole = build(tmp_path / "whole", device, patches(dims), dims, **options)
    images = watched(whole)
    whole.run()
    parts = build(tmp_path / "parts", device, patches(dims), dims, **options)
    stopped_at(5)(parts)
    with pytest.raises(StopNowError):
        parts.run()
    again = build(tmp_path / "parts", device, patches(dims), dims, resume=True, **options)
    others = watched(again)
    again.run()
    assert len(images) == 6
    torch.testing.assert_close(others, images[3:], rtol=0, atol=0)
    for name in ("model.pt", "checkpoints/last.pt"):
        one, other = (network_weights(load_checkpoint(tmp_path / run / name)) for run in ("whole", "parts"))
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
    losses = [[row["loss"] for row in rows(tmp_path / run)] for run in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_auto_measures_and_records(device: torch.device, on_gpu: bool, tmp_path: Path, num_workers: int) -> None:
    trainer = build(tmp_path / "run", device, patches(3), 3, augment_on="auto", num_workers=num_workers, max_epochs=1)
    trainer.run()
    record = tmp_path / "run" / "augmentation.json"
    assert record.is_file() is on_gpu
    if on_gpu:
        held = json.loads(record.read_text())
        assert held["num_workers"] == num_workers
        assert all(0 < seconds < 60 for seconds in held["seconds_a_batch"].values())
        assert held["augment_on"] in ("loader", "device")
    assert math.isfinite(rows(tmp_path / "run")[0]["loss"])


def test_batches_arrive_whole(device: torch.device, on_gpu: bool, tmp_path: Path) -> None:
    """Copied from pinned memory while the GPU is busy, and their memory used again at once."""
    data = SegmentationDataset([{"number": number} for number in range(4)], large)
    expected = {float(large({"number": number})["image"].double().sum()) for number in range(4)}
    trainer = build(tmp_path / "run", device, data, 2, batch_size=1, iterations=12)
    trainer.data_loader.sampler.set_epoch(1)
    busy = torch.randn(4096 if on_gpu else 64, 4096 if on_gpu else 64, device=device)
    arrived = []
    for batch in trainer.data_loader:
        assert batch["image"].is_pinned() is on_gpu
        for _ in range(5):
            busy = (busy @ busy).tanh()
        image, label = trainer.prepare_batch(batch, device, trainer.non_blocking)
        arrived.append((image.double().sum(), (image[:, :1] > 0).eq(label).all()))
        del batch, image, label
    assert sorted({round(float(total), 6) for total, _ in arrived}) == pytest.approx(sorted(expected), abs=1e-5)
    assert all(bool(right) for _, right in arrived)


def large(entry: dict[str, Any]) -> dict[str, Tensor]:
    image = torch.randn((2, 512, 512), generator=torch.Generator().manual_seed(entry["number"]))
    return {"image": image, "label": (image[:1] > 0).to(torch.uint8)}


# ---------------------------------------------------------------------------------------------- no memory left


def drawn(edge: int, entry: dict[str, Any]) -> dict[str, Tensor]:
    """A volume of noise."""
    image = torch.randn((2, *[edge] * 3), generator=torch.Generator().manual_seed(entry["number"]))
    return {"image": image, "label": (image[:1] > 0).to(torch.uint8)}


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_memory_runs_out_in_the_middle(
    device: torch.device, on_gpu: bool, limit: Callable[[int], None], tmp_path: Path, precision: str
) -> None:
    """Says what to lower; nothing stays taken while error and trainer are looked at; goes on with smaller batches."""
    edge = 64 if on_gpu else 8
    data = SegmentationDataset([{"number": number} for number in range(8)], partial(drawn, edge))
    options: dict[str, Any] = {"iterations": 2, "max_epochs": 3, "precision": precision, "channels": (16, 32)}
    folder = tmp_path / "run"
    trainer = build(folder, device, data, 3, batch_size=8, **options)

    def scarce(engine: Trainer) -> None:
        if engine.state.iteration == 4:
            engine.state.output = None
            engine.optimizer.zero_grad(set_to_none=True)
            before.append(taken(device))
            limit(450 * MIB)  # a map of 16 channels is 64 MiB of a batch of 8 in bf16, and there are more than a dozen
            if not on_gpu:
                raise torch.OutOfMemoryError("made up")

    before: list[int] = []
    trainer.add_event_handler(Events.ITERATION_STARTED, scarce)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(TrainingError) as caught:
            trainer.run()
        after = taken(device)
    finally:
        gc.enable()
    said = str(caught.value)
    assert f"epoch 2, iteration 4: {device} has no memory left for batch_size 8 of {edge}x{edge}x{edge}" in said
    for part in ("lower batch_size", "or patch", f"resume={folder} goes on after the last completed epoch"):
        assert part in said
    assert caught.value.__cause__ is not None
    assert after - before[0] < 4 * MIB
    del trainer
    again = build(folder, device, data, 3, batch_size=1, accumulation_steps=2, resume=True, **options)
    again.run()
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert [row["batch_size"] for row in rows(folder)] == [8, 1, 1]


def taken(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


# ---------------------------------------------------------------------------------------------- evaluations


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("dims", [2, 3])
def test_scores(device: torch.device, dims: int) -> None:
    """Of one network on both devices: every score, the loss and the calibration."""
    data = SegmentationDataset(CASES, partial(load, dims))
    torch.manual_seed(0)
    network = UNet(dims, 2, 5, channels=(8, 16))
    tables = []
    for place in (torch.device("cpu"), device):
        placed = network.to(place)
        loss: nn.Module = CrossEntropyLoss(ignore_index=255).to(place)
        evaluator = Evaluator(
            place, data, placed, LABELS, ignore_index=255, precision="fp32", batch_size=2, loss_function=loss
        )
        tables.append(evaluator.score(placed))
        evaluator.result()
    assert tables[1].keys() == tables[0].keys()
    assert tables[1] == pytest.approx(tables[0], rel=2e-2, abs=2e-3)
