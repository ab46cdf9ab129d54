"""A training that goes on: equal to one that was not interrupted, from whatever a killed one left."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engines.test_trainer import Entries, build, rows
from ignite.engine import Events
from torch import nn

from medseg.engines.evaluator import Evaluator
from medseg.runs.checkpoint import CheckpointError, load_checkpoint, network_weights
from medseg.runs.run import Run
from medseg.runs.run_folder import RunError


def test_the_best_of_an_earlier_part_stays_the_best(
    entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Evaluator.score

    def told(self: Evaluator, network: nn.Module, epoch: int = 1) -> dict[str, float]:
        return {**score(self, network, epoch), "val_mean_iou": [0.5, 0.9, 0.3, 0.4][epoch - 1]}

    monkeypatch.setattr(Evaluator, "score", told)
    build(entries, tmp_path / "run", max_epochs=2).run()
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["best"] == {"by": "val_mean_iou", "score": 0.9, "epoch": 2}
    build(entries, tmp_path / "run", max_epochs=4, resume=True).run()
    assert [row["val_mean_iou"] for row in rows(tmp_path / "run")] == [0.5, 0.9, 0.3, 0.4]
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert kept["best"] == best["best"]
    torch.testing.assert_close(kept["network"], best["network"], rtol=0, atol=0)
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "model.pt"), best["network"], rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_equals_uninterrupted(entries: Entries, tmp_path: Path, num_workers: int) -> None:
    options = {
        "num_workers": num_workers,
        "max_epochs": 4,
        "dropout": 0.3,
        "augment": True,
        "ema_decay": 0.9,
        "schedule": "cosine",
    }
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
        one, other = (network_weights(load_checkpoint(tmp_path / run / name)) for run in ("whole", "parts"))
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


def test_checkpoint_of_another_network(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run", norm="instance").run()
    with pytest.raises(CheckpointError, match=r"last\.pt does not fit UNet: .* missing from the file"):
        build(entries, tmp_path / "run", resume=True, max_epochs=3).run()


def test_leftovers_of_a_run_killed_in_its_first_epoch(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "run").run()
    for name in ("checkpoints/last.pt", "model.pt"):
        (tmp_path / "run" / name).unlink()
    build(entries, tmp_path / "run", validate=False, rate=1e-3).run()
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "model.pt"), dict(last["network"]))
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 2]


def test_killed_while_it_wrote_the_report(entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_draw_curves", dies)
        with pytest.raises(KeyboardInterrupt):
            build(entries, tmp_path / "run").run()
    assert not (tmp_path / "run" / "model.pt").exists()
    build(entries, tmp_path / "run", resume=True).run()
    assert (tmp_path / "run" / "report" / "overlays.png").is_file()
    assert (tmp_path / "run" / "model.pt").is_file()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 2]
