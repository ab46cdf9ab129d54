"""The training engine."""

import copy
import json
import math
from contextlib import nullcontext
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.transforms import RandFlipd
from pairs import LOAD
from torch import nn

import medseg.engines.trainer as trainer_module
from medseg.engines.evaluator import Evaluator
from medseg.engines.failures import TrainingError
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.networks.unet import UNet
from medseg.runs.checkpoint import load_checkpoint
from medseg.runs.run import Run

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
    assert best["best"] == {"by": "val_mean_iou", "score": max(scores), "epoch": scores.index(max(scores)) + 1}
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


@pytest.mark.parametrize("extra", [{}, {"clip_grad_norm": 0.05}, {"ema_decay": 0.5}])
def test_accumulation_equals_the_larger_batch(entries: Entries, tmp_path: Path, extra: dict[str, Any]) -> None:
    weights = []
    for name, options in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "accumulation_steps": 2})):
        options |= {"norm": None, "optimizer": torch.optim.SGD, "validate": False, **extra}
        trainer = build(entries, tmp_path / name, **options)
        trainer.run()
        weights.append(dict(trainer.predictor.state_dict()))
    torch.testing.assert_close(weights[1], weights[0])


def test_an_epochs_last_batches_count_as_much(entries: Entries, tmp_path: Path) -> None:
    """Four batches in steps of three: the last is a step of its own, of one batch's whole gradient."""
    options = {"norm": None, "optimizer": torch.optim.SGD, "batch_size": 2, "max_epochs": 1, "validate": False}
    trainer = build(entries, tmp_path / "run", accumulation_steps=3, **options)
    network = copy.deepcopy(trainer.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    trainer.data_loader.sampler.set_epoch(1)
    batches = list(trainer.data_loader)
    for together in (batches[:3], batches[3:]):
        optimizer.zero_grad()
        sum(loss_function(network(b["image"]), b["label"]) / len(together) for b in together).backward()
        optimizer.step()
    trainer.run()
    assert len(batches) == 4
    torch.testing.assert_close(dict(trainer.network.state_dict()), dict(network.state_dict()))


@pytest.mark.parametrize(("accumulation", "iterations", "steps"), [(1, 5, [5, 10]), (2, 5, [3, 6]), (3, 6, [2, 4])])
def test_the_optimisers_steps_are_recorded(
    entries: Entries, tmp_path: Path, accumulation: int, iterations: int, steps: list[int]
) -> None:
    """After so many batches, and after an epoch's last; counted by the optimiser itself."""
    trainer = build(entries, tmp_path / "run", validate=False, accumulation_steps=accumulation, iterations=iterations)
    trainer.run()
    assert [row["steps"] for row in rows(tmp_path / "run")] == steps
    (counted,) = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert counted == steps[-1]


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


def test_the_average_is_scored(entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    score = Evaluator.score

    def spy(self: Evaluator, network: nn.Module, epoch: int = 1) -> dict[str, float]:
        scored.append({name: value.clone() for name, value in network.state_dict().items()})
        return score(self, network, epoch)

    monkeypatch.setattr(Evaluator, "score", spy)
    trainer = build(entries, tmp_path / "run", max_epochs=1, ema_decay=0.9)
    trainer.run()
    average = dict(trainer.predictor.state_dict())
    assert not torch.equal(average["head.bias"], trainer.network.state_dict()["head.bias"])
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    for weights in (*scored, best["network"], load_checkpoint(tmp_path / "run" / "model.pt")):
        torch.testing.assert_close(dict(weights), average, rtol=0, atol=0)


@pytest.mark.parametrize("fails", [False, True])
def test_no_loading_process_is_left(entries: Entries, tmp_path: Path, fails: bool) -> None:
    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return loss_function(logits, label) * (math.nan if fails else 1.0)

    trainer = build(entries, tmp_path / "run", num_workers=2, loss_function=loss)
    trainer.evaluator._num_workers = 2  # type: ignore[union-attr]
    started = []
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: started.append(len(active_children())))
    with pytest.raises(TrainingError) if fails else nullcontext():
        trainer.run()
    assert started[-1] == (2 if fails else 4)
    assert active_children() == []


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


@pytest.mark.parametrize("val_interval", [1, 2])
def test_early_stop(entries: Entries, tmp_path: Path, val_interval: int) -> None:
    """Weights that do not move: the first validation stays the best, and two more end the run."""
    options = {"rate": 0.0, "optimizer": torch.optim.SGD, "norm": None, "val_interval": val_interval}
    build(entries, tmp_path / "run", max_epochs=50, early_stop=2, **options).run()
    recorded = rows(tmp_path / "run")
    assert len(recorded) == 3 * val_interval
    assert ["val_mean_iou" in row for row in recorded] == [row["epoch"] % val_interval == 0 for row in recorded]


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
    assert "set clip_grad_norm=1, or use precision=fp32" in str(caught.value)
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["network"].values())
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["best"]["epoch"] == 1
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1]


def test_weights_spoilt_by_the_last_step_are_not_kept(entries: Entries, tmp_path: Path) -> None:
    """The loss is finite to the end of the epoch; what its last gradient did to the weights is not."""
    trainer = build(entries, tmp_path / "run", max_epochs=3)

    def spoil() -> None:
        if trainer.state.iteration == 8:  # the last of epoch 2
            trainer.optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, spoil)
    with pytest.raises(TrainingError, match="weights are no longer finite in epoch 2, iteration 8"):
        trainer.run()
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_without_validation_the_last_weights_count(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", validate=False).run()
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "model.pt"), dict(last["network"]))
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_the_folder_holds_the_whole_run(entries: Entries, tmp_path: Path, drawn: None) -> None:
    trainer = build(entries, tmp_path / "run")
    trainer.run_record.publish = tmp_path / "bundle" / "models" / "model.pt"
    trainer.run()
    folder = tmp_path / "run"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "environment.json", "data.json", "metrics.jsonl", "curves.png", "model.pt"),
        *("checkpoints/last.pt", "checkpoints/best.pt"),
        *(
            f"report/{name}"
            for name in (
                "scores.json",
                "scores_per_case.csv",
                "table.md",
                "table.csv",
                "confusion_matrix.png",
                "overlays.png",
                "cases.npz",
            )
        ),
    }
    published = load_checkpoint(tmp_path / "bundle" / "models" / "model.pt")
    torch.testing.assert_close(published, load_checkpoint(folder / "model.pt"))
    scores = json.loads((folder / "report" / "scores.json").read_text())
    assert scores["mean_iou"] == pytest.approx(max(row["val_mean_iou"] for row in rows(folder)))
    for row in rows(folder):
        assert row["images_per_second"] > 0
        assert 0 <= row["data_wait_share"] <= 1


def test_the_schedule_goes_by_iterations(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=3, schedule="poly", schedule_power=2.0, warmup=2)
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    assert seen == pytest.approx([0.01 * min(1.0, (n + 1) / 2) * (1 - n / 12) ** 2 for n in range(12)])
    assert [row["learning_rate"] for row in rows(tmp_path / "run")] == pytest.approx([seen[3], seen[7], seen[11]])


def test_clipping(entries: Entries, tmp_path: Path) -> None:
    """Norms of the gradient that each step uses, of one batch and of two added up."""
    for accumulation in (1, 2):
        options = {"clip_grad_norm": 0.01, "accumulation_steps": accumulation, "optimizer": torch.optim.SGD}
        trainer = build(entries, tmp_path / str(accumulation), max_epochs=1, **options)
        norms: list[float] = []

        def step(_: Any, network: nn.Module = trainer.network, norms: list[float] = norms) -> None:
            norms.append(float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm()))

        trainer.optimizer.register_step_pre_hook(lambda _optimizer, _args, _kwargs, step=step: step(None))
        trainer.run()
        assert norms == pytest.approx([0.01] * (4 // accumulation), rel=1e-3)


def test_compiled_equals_eager(entries: Entries, tmp_path: Path) -> None:
    """With the backend "eager", which needs no compiler: names of weights, saving and resuming are what is tested."""
    build(entries, tmp_path / "plain", max_epochs=3).run()
    options = {"compile": True, "compile_kwargs": {"backend": "eager"}}
    build(entries, tmp_path / "compiled", **options).run()
    build(entries, tmp_path / "compiled", resume=True, max_epochs=3, **options).run()
    one, other = (load_checkpoint(tmp_path / name / "model.pt") for name in ("plain", "compiled"))
    torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-3)  # what is compiled rounds as PyTorch's own layers do


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_in_full_precision(entries: Entries, tmp_path: Path, precision: str) -> None:
    seen = []

    def loss(outputs: dict[str, torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        seen.append({value.dtype for value in outputs.values()})
        return loss_function(outputs["pred"], label) + loss_function(outputs["aux"], label)

    trainer = build(entries, tmp_path / "run", max_epochs=1, precision=precision, validate=False, loss_function=loss)
    trainer.network.register_forward_hook(
        lambda module, _, output: {"pred": output, "aux": output} if module.training else output
    )
    trainer.run()
    assert seen == [{torch.float32}] * 4


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
        ({"schedule": "stairs"}, "schedule is 'stairs'"),
    ],
)
def test_bad_options(entries: Entries, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(entries, tmp_path / "run", **options)
