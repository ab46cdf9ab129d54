"""The warm-up of MFNet in the training engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from pairs import LOAD
from torch import nn

from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.engines.warm_up import FactorisationWarmUp
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.multi_output import MultiOutputLoss
from medseg.losses.reconstruction import ReconstructionLoss
from medseg.networks.mfnet import MFNet
from medseg.runs.checkpoint import load_checkpoint
from medseg.runs.run import Run

Entries = list[dict[str, Any]]
CPU = torch.device("cpu")
EPOCHS = 2  # of the warm-up


def mfnet() -> MFNet:
    torch.manual_seed(0)
    options: dict[str, Any] = {"channels": 6, "low_channels": 4, "factors": 3, "factor_size": (2, 2)}
    return MFNet(2, 1, 3, encoder="test_resnet", output_stride=8, **options)


def build(entries: Entries, folder: Path, *, warm_up: float | None = None, **options: Any) -> Trainer:
    network = mfnet()
    share = min(1.0, EPOCHS / options["max_epochs"]) if warm_up is None else warm_up
    terms = [
        {"output": "pred", "loss": CrossEntropyLoss()},
        {"output": "recon", "loss": ReconstructionLoss(), "weight": 0.1, "resize": False},
    ]
    trainer = Trainer(
        device=CPU,
        dataset=SegmentationDataset(entries, LOAD),
        network=network,
        loss_function=MultiOutputLoss(terms),
        # a weight decay and a momentum that would be seen
        optimizer=torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1),
        run=Run(folder, tracking=False),
        evaluator=Evaluator(
            CPU, SegmentationDataset(entries[:3], LOAD), network, {0: "none", 1: "bright", 2: "dark"}, precision="fp32"
        ),
        **{"batch_size": 4, "precision": "fp32", **options},
    )
    FactorisationWarmUp(share).attach(trainer)
    return trainer


def test_the_factorisation_counts_from_a_share_of_the_schedule_on(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=4, ema_decay=0.5, clip_grad_norm=1.0)
    start = {name: value.clone() for name, value in trainer.network.factorisation.state_dict().items()}  # type: ignore[union-attr,operator]
    seen = []

    def look() -> None:
        network: Any = trainer.network
        moved = {n for n, value in network.factorisation.state_dict().items() if not torch.equal(value, start[n])}
        recon = float(trainer.loss_function.last_terms["recon"])
        seen.append((trainer.state.epoch, bool(network.factorise), moved, recon > 0))

    scored = []
    score = Evaluator.score

    def spy(self: Evaluator, network: Any, epoch: int = 1) -> dict[str, float]:
        scored.append(bool(network.factorise))
        return score(self, network, epoch)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "score", spy)
        trainer.run()
    every = set(start)
    assert seen == [
        (1, False, set(), False),
        (1, False, set(), False),
        (2, False, set(), False),
        (2, False, set(), False),
        (3, True, every, True),
        (3, True, every, True),
        (4, True, every, True),
        (4, True, every, True),
    ]
    assert scored[:4] == [False, False, True, True]  # the moving average, which is what is scored, goes along


def test_a_loss_of_the_warm_up_is_cross_entropy_alone(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=3)
    differences = []

    def look() -> None:
        cross_entropy = trainer.loss_function.last_terms["pred"]
        differences.append(float(trainer.state.output["loss"].detach() - cross_entropy))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert differences[:4] == [0.0] * 4
    assert all(difference > 1e-6 for difference in differences[4:])


def test_a_resumed_run_goes_on_right(entries: Entries, tmp_path: Path) -> None:
    build(entries, tmp_path / "whole", max_epochs=4).run()
    whole = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt")
    assert bool(whole["network"]["factorise"])
    for stop in (1, 2, 3):
        folder = tmp_path / f"stopped_{stop}"
        build(entries, folder, max_epochs=stop).run()
        last = load_checkpoint(folder / "checkpoints" / "last.pt")
        assert bool(last["network"]["factorise"]) is (stop > EPOCHS)
        build(entries, folder, max_epochs=4, resume=True).run()
        parts = load_checkpoint(folder / "checkpoints" / "last.pt")
        torch.testing.assert_close(parts["network"], whole["network"], rtol=0, atol=0)


def test_weights_of_the_warm_up_predict_as_they_were_trained(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=1)
    trainer.run()
    network = mfnet()
    network.load_state_dict(load_checkpoint(tmp_path / "run" / "model.pt"))
    image = torch.rand(1, 1, 16, 16)
    trained: Any = trainer.network
    torch.testing.assert_close(network.eval()(image), trained.eval()(image))  # one is laid out channels-last
    assert not bool(network.factorise)


def test_without_warm_up_the_first_epoch_factorises(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=1, warm_up=0)
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(bool(engine.network.factorise)))
    trainer.run()
    assert seen == [True, True]


def test_a_warm_up_of_the_whole_schedule_never_ends(entries: Entries, tmp_path: Path) -> None:
    trainer = build(entries, tmp_path / "run", max_epochs=2, warm_up=1.0)
    trainer.run()
    assert not bool(trainer.network.factorise)


def test_the_clock_ends_the_warm_up_too(entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand epochs the time allows two: the factorisation comes in inside the first."""
    trainer = build(entries, tmp_path / "run", max_epochs=1000, max_minutes=1, warm_up=0.2)
    monkeypatch.setattr(Trainer, "seconds", property(lambda engine: 10.0 * engine.state.iteration))
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(bool(engine.network.factorise)))
    trainer.run()
    assert seen[:3] == [False, True, True]  # at 10, 20 and 30 of 60 seconds
    assert len(seen) < 8


def test_bad_options(entries: Entries, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="warm-up is 10 of the schedule; give a share between 0 and 1"):
        FactorisationWarmUp(10)
    trainer = build(entries, tmp_path / "run", max_epochs=1)
    trainer.network = nn.Conv2d(1, 3, 1)
    with pytest.raises(ValueError, match=r"Conv2d has no buffer `factorise` and module `factorisation`.*for MFNet"):
        FactorisationWarmUp().attach(trainer)
