"""What the trainer records, selects by, refuses to continue, and leaves as it was."""

import ctypes
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from engines.test_trainer import Entries, build, loss_function, rows
from torch import nn

from medseg.engines import memory
from medseg.engines.evaluator import Evaluator
from medseg.engines.selection import Selection
from medseg.errors import MedsegError
from medseg.losses.multi_output import MultiOutputLoss
from medseg.reports.curves import curves_picture
from medseg.runs.checkpoint import load_checkpoint
from medseg.runs.run_folder import RunError


def test_terms_and_rates_are_recorded(entries: Entries, tmp_path: Path, drawn: None) -> None:
    loss = MultiOutputLoss([{"output": "pred", "loss": loss_function, "weight": w} for w in (1.0, 0.5)])

    def groups(parameters: object, lr: float) -> torch.optim.Optimizer:
        first, *others = list(parameters)  # type: ignore[call-overload]
        head = {"params": others[1:], "lr": 3 * lr, "name": "head"}
        return torch.optim.SGD([{"params": [first]}, {"params": others[:1], "lr": 2 * lr}, head], lr=lr)

    build(entries, tmp_path / "run", loss_function=loss, optimizer=groups).run()
    for row in rows(tmp_path / "run"):
        assert row["loss"] == pytest.approx(1.5 * row["loss_pred.0"])
        assert row["loss_pred.1"] == pytest.approx(row["loss_pred.0"])
        assert [row[key] for key in ("learning_rate", "learning_rate_1", "learning_rate_head")] == [0.01, 0.02, 0.03]
        assert row["best_score"] >= row["val_mean_iou"]
    assert curves_picture(rows(tmp_path / "run")).size[0] > 0


def told(monkeypatch: pytest.MonkeyPatch, values: list[dict[str, float]]) -> None:
    score = Evaluator.score

    def spy(self: Evaluator, network: nn.Module, epoch: int = 1) -> dict[str, float]:
        return {**score(self, network, epoch), **values[epoch - 1]}

    monkeypatch.setattr(Evaluator, "score", spy)


@pytest.mark.parametrize(("by", "best"), [("val_loss", 2), ("val_dice", 3), ("val_mean_iou", None)])
def test_select_by(
    entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, best: int | None
) -> None:
    names = {"val_loss", "val_dice", "val_mean_iou"}
    monkeypatch.setattr(Evaluator, "score_names", property(lambda self: names))
    told(
        monkeypatch, [{"val_loss": loss, "val_dice": dice} for loss, dice in ((0.5, 0.1), (0.2, math.nan), (0.3, 0.4))]
    )
    build(entries, tmp_path / "run", max_epochs=3, select_by=by).run()
    recorded = rows(tmp_path / "run")
    if best is None:
        best = max(recorded, key=lambda row: row["val_mean_iou"])["epoch"]  # type: ignore[assignment]
    found = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["best"]
    assert found == {"by": by, "score": recorded[best - 1][by], "epoch": best}  # type: ignore[operator]
    other = min(names - {by})
    with pytest.raises(MedsegError, match=rf"by {by} so far, and select_by is {other} now"):
        build(entries, tmp_path / "run", max_epochs=4, select_by=other, resume=True).run()


def test_an_unknown_score_is_refused(entries: Entries, tmp_path: Path) -> None:
    with pytest.raises(MedsegError) as caught:
        build(entries, tmp_path / "run", select_by="val_mean_iuo").run()
    said = str(caught.value)
    assert "select_by is 'val_mean_iuo', which no validation gives; did you mean val_mean_iou? Usual are" in said
    assert "val_mean_dice, val_case_mean_dice, val_accuracy; the lines of a run's metrics.jsonl name all" in said
    assert len(said) < 300
    with pytest.raises(MedsegError, match=r"no validation gives; Usual are b_1, b_2; .* name all 2$"):
        Selection("qqq", known=["b_2", "b_1"])
    known = Selection("val_a", known=["val_a"])
    assert not known.update({}, 1)
    assert known.update({"val_a": 0.0}, 2)


def test_another_network_or_data_does_not_continue_a_run(entries: Entries, tmp_path: Path) -> None:
    def made(channels: list[int], split: dict[str, object]) -> None:
        trainer = build(entries, tmp_path / "run", resume=True)
        trainer.network.recipe = {"name": "UNet", "arguments": {"channels": channels}}  # type: ignore[assignment]
        trainer.run_record._split = split
        trainer.run()

    made([4, 8], {"fold": 0})
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        made([4, 9], {"fold": 1})
    message = str(caught.value)
    assert "fold was 0 and is 1 now" in message
    assert "network arguments channels was [4, 8] and is [4, 9] now" in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    made([4, 8], {"fold": 0})


def test_the_process_stays_its_own(entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("the allocator was switched"))
    assert ctypes is memory.ctypes
    trainer = build(entries, tmp_path / "run", max_epochs=1, dropout=0.2, augment=True)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    trainer.run()
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_the_budget_ends_an_epoch_in_the_middle(
    entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch would take ten minutes; the budget is one, and what was done counts."""
    import medseg.engines.trainer as trainer_module

    clock = iter(range(0, 10**7, 5))
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: float(next(clock)))
    trainer = build(entries, tmp_path / "run", max_epochs=3, max_minutes=1, validate=False, batch_size=1)
    trainer.run()
    (row,) = rows(tmp_path / "run")
    assert row["epoch"] == 1
    assert trainer.state.iteration < 8
    assert (tmp_path / "run" / "model.pt").is_file()
    build(entries, tmp_path / "run", max_epochs=3, max_minutes=1, validate=False, batch_size=1, resume=True).run()
    assert len(rows(tmp_path / "run")) == 1, "the run is complete"
