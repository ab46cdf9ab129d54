"""A training step is MONAI's: weights, events and what they find, with fewer calls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from pairs import LOAD
from torch import nn

import medseg.engines.trainer as trainer_module
from medseg.engines.evaluator import Evaluator
from medseg.engines.loading import SegmentationDataset
from medseg.engines.trainer import Trainer
from medseg.networks.unet import UNet
from medseg.runs.run import Run

Entries = list[dict[str, Any]]
CPU = torch.device("cpu")
EVENTS = [IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED, IterationEvents.BACKWARD_COMPLETED,
          IterationEvents.MODEL_COMPLETED]  # fmt: skip


class Inside(nn.Module):
    """A wrapper as ``torch.compile`` makes one, which does not know what its network is told."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network

    def forward(self, image: torch.Tensor) -> Any:
        """Predict."""
        return self._orig_mod(image)


class Modes(nn.Module):
    """Count in which mode it is called, and how often it is told one."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0
        self.called: list[bool] = []

    def train(self, mode: bool = True) -> "Modes":
        """Be told."""
        self.told += 1
        super().train(mode)
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Count."""
        self.called.append(self.training)
        return image


def mean_of_each(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, label[:, 0].long(), reduction="none")


def trained(entries: Entries, folder: Path, wrapped: bool, **options: Any) -> tuple[list[Any], list[Any], Modes]:
    """Return the weights, what the events found, and the modes of a layer."""
    torch.manual_seed(0)
    modes = Modes()
    unet = UNet(2, 1, 3, channels=(4, 8), norm="batch", dropout=0.3)
    network = nn.Sequential(modes, unet)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    evaluator = Evaluator(
        CPU, SegmentationDataset(entries[:2], LOAD), network, {0: "a", 1: "b", 2: "c"}, precision="fp32"
    )
    trainer = Trainer(
        2, CPU, SegmentationDataset(entries, LOAD), Inside(network) if wrapped else network, mean_of_each, optimizer,
        Run(folder, tracking=False), batch_size=2, precision="fp32", evaluator=evaluator, clip_grad_norm=0.5, **options,
    )  # fmt: skip
    found: list[Any] = []
    for event in [Events.ITERATION_STARTED, *EVENTS, Events.ITERATION_COMPLETED]:

        def note(engine: Trainer, event: Any = event) -> None:
            values = engine.state.output or {}
            found.append((str(event), sorted(values), torch.as_tensor(values.get("loss", -1.0)).item()))

        trainer.add_event_handler(event, note)
    trainer.run()
    return [tensor.clone() for tensor in network.state_dict().values()], found, modes


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_it_is_monais(
    entries: Entries, tmp_path: Path, accumulation_steps: int, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"accumulation_steps": accumulation_steps}
    ours, seen, modes = trained(entries, tmp_path / "ours", wrapped, **options)
    monkeypatch.setattr(trainer_module, "train_step", lambda e, batch: SupervisedTrainer._iteration(e, e, batch))
    theirs, expected, their_modes = trained(entries, tmp_path / "theirs", wrapped, **options)
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    assert seen == expected
    assert modes.called == their_modes.called
    steps = sum(name == str(Events.ITERATION_STARTED) for name, *_ in seen)
    assert modes.called.count(True) == steps
    assert their_modes.told - modes.told == steps  # an epoch begins with it
