"""The training engine."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.conftest import LOAD
from ignite.engine import Events
from monai.transforms import RandFlipd
from torch import nn

import medseg.engines.trainer as trainer_module
from medseg.engines.checkpoint import CheckpointError, load_checkpoint
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.run import Run, RunError
from medseg.engines.trainer import Trainer, TrainingError
from medseg.networks.unet import UNet

Entries = list[dict[str, Any]]
CPU = torch.device("cpu")


def loss_function(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, label[:, 0].long())


def build(entries: Entries, folder: Path, *, validate: bool = True, dropout: float = 0.0, **options: Any) -> Trainer:
    torch.manual_seed(0)
    network = UNet(2, 1, 3, channels=(4, 8), norm=options.pop("norm", "batch"), dropout=dropout)
    flip = [RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0)] if options.pop("augment", False) else None
    labels = {0: "none", 1: "bright", 2: "dark"}
    held_out = SegmentationDataset(entries[:3] if validate else [], LOAD)
    defaults: dict[str, Any] = {"max_epochs": 2, "batch_size": 2, "precision": "fp32"}
    rate = options.pop("rate", 1e-2)
    make = options.pop("optimizer", torch.optim.Adam)
    return Trainer(
        device=CPU,
        dataset=SegmentationDataset(entries, LOAD, flip),
        network=network,
        loss_function=options.pop("loss_function", loss_function),
        optimizer=make(network.parameters(), lr=rate),
        run=Run(folder, tracking=False),
        evaluator=Evaluator(CPU, held_out, network, labels, precision="fp32"),
        **{**defaults, **options},
    )


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_records(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", max_epochs=8).run()
    recorded = rows(tmp_path / "run")
    assert recorded[-1]["loss"] < 0.5 * recorded[0]["loss"]
    assert {"loss", "learning_rate", "images_per_second", "data_wait_share", "val_mean_iou", "val_iou_bright"} <= set(
        recorded[0]
    )
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    scores = [row["val_mean_iou"] for row in recorded]
    assert best["best"] == {"score": max(scores), "epoch": scores.index(max(scores)) + 1}
    final = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    torch.testing.assert_close(final, best["network"])


def test_equals_a_plain_loop(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=1, clip_grad_norm=0.05, validate=False)
    torch.manual_seed(0)
    network = UNet(2, 1, 3, channels=(4, 8))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    trainer.data_loader.sampler.set_epoch(1)
    for batch in list(trainer.data_loader):
        optimizer.zero_grad()
        loss_function(network(batch["image"]), batch["label"]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.05)
        optimizer.step()
    trainer.run()
    torch.testing.assert_close(dict(trainer.network.state_dict()), dict(network.state_dict()), rtol=1e-3, atol=1e-4)


def test_accumulation_equals_the_larger_batch(entries: Entries, tmp_path: Path) -> None:
    weights = []
    for name, options in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "accumulation_steps": 2})):
        trainer = build(entries, tmp_path / name, norm=None, optimizer=torch.optim.SGD, validate=False, **options)
        trainer.run()
        weights.append(dict(trainer.network.state_dict()))
    torch.testing.assert_close(weights[1], weights[0])


def test_average_is_what_is_validated_and_saved(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=1, ema_decay=0.5, validate=False)
    history: list[torch.Tensor] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: history.append(trainer.network.head.bias.detach().clone()),  # type: ignore[union-attr]
    )
    trainer.run()
    expected = history[0]
    for number, value in enumerate(history[1:], start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(trainer.predictor.state_dict()["head.bias"], expected)
    torch.testing.assert_close(torch.load(tmp_path / "run" / "model.pt", weights_only=True)["head.bias"], expected)


def test_resume_equals_uninterrupted(entries: Entries, tmp_path: Path) -> None:
    options = {"max_epochs": 4, "dropout": 0.3, "augment": True, "ema_decay": 0.9, "schedule": "cosine"}
    build(entries, tmp_path / "whole", **options).run()

    class StopNowError(Exception):
        pass

    stopped = build(entries, tmp_path / "parts", **options)

    def stop() -> None:
        if stopped.state.iteration == 7:
            raise StopNowError

    stopped.add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(StopNowError):
        stopped.run()
    build(entries, tmp_path / "parts", resume=True, **options).run()
    for name in ("model.pt", "checkpoints/best.pt"):
        one, other = (load_checkpoint(tmp_path / run / name) for run in ("whole", "parts"))
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert [r["loss"] for r in rows(tmp_path / "parts")] == [r["loss"] for r in rows(tmp_path / "whole")]


def test_finished_run_stays_and_can_be_prolonged(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run").run()
    with pytest.raises(RunError, match="already holds a run"):
        build(entries, tmp_path / "run").run()
    build(entries, tmp_path / "run", resume=True).run()
    assert len(rows(tmp_path / "run")) == 2
    build(entries, tmp_path / "run", resume=True, max_epochs=3).run()
    assert [r["epoch"] for r in rows(tmp_path / "run")] == [1, 2, 3]


def test_budget_ends_the_run_with_the_schedule(
    entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: float(next(clock)))
    build(entries, tmp_path / "run", max_epochs=500, max_minutes=2, schedule="cosine").run()
    recorded = rows(tmp_path / "run")
    assert len(recorded) < 20
    assert recorded[-1]["learning_rate"] < 0.2 * recorded[0]["learning_rate"]
    assert (tmp_path / "run" / "report" / "overlays.png").is_file()


def test_early_stop(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", max_epochs=50, rate=0.0, optimizer=torch.optim.SGD, early_stop=2).run()
    assert len(rows(tmp_path / "run")) <= 12


def test_loss_that_is_not_finite(entries: Entries, tmp_path: Path) -> None:
    calls = 0

    def breaks(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss_function(logits, label) * (math.nan if calls > 6 else 1.0)

    with pytest.raises(
        TrainingError, match=r"the loss is nan in epoch 2.*learning rate 0\.01; the last good"
    ) as caught:
        build(entries, tmp_path / "run", loss_function=breaks).run()
    assert "--clip_grad_norm" in str(caught.value)
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_checkpoint_of_another_network(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", norm="instance").run()
    with pytest.raises(CheckpointError, match=r"last\.pt does not fit UNet: .* missing from the file"):
        build(entries, tmp_path / "run", resume=True, max_epochs=3).run()


def test_without_validation_the_last_weights_count(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", validate=False).run()
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "model.pt"), dict(last["network"]))
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_bf16(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", precision="bf16").run()
    assert all(math.isfinite(row["loss"]) for row in rows(tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0"),
        ({"schedule": "steps"}, "schedule is 'steps'"),
    ],
)
def test_bad_options(entries: Entries, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(entries, tmp_path / "run", **options)
