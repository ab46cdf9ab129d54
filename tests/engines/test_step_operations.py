"""What a step of the trainer asks for beside a bare step: on a GPU each operation costs the processor as much."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from operations import Operations
from torch import nn

from medseg.engines.averaging import MovingAverage
from medseg.engines.loading import Draw, SegmentationDataset
from medseg.engines.precision import network_to_channels_last
from medseg.engines.trainer import Trainer
from medseg.losses.focal_iou import FocalIoULoss
from medseg.networks.unet import UNet
from medseg.runs.run import Run

BATCH = 2
STEPS = 4  # more of them than the look at the first loss takes part in, fewer than until the next


class InMemory(SegmentationDataset):
    """Tensors that are there."""

    def __init__(self, number: int) -> None:
        super().__init__([{} for _ in range(number)], [], cache=False)
        self.sample = {"image": torch.rand(1, 16, 16), "label": torch.randint(3, (1, 16, 16), dtype=torch.uint8)}

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        """Return a sample."""
        return dict(self.sample)


def network() -> tuple[UNet, torch.optim.Optimizer]:
    torch.manual_seed(0)
    made = UNet(2, 1, 3, channels=(4, 8))
    network_to_channels_last(made)
    return made, torch.optim.AdamW(made.parameters(), fused=True)


def trained(steps: int, folder: Path) -> Counter[str]:
    made, optimizer = network()
    trainer = Trainer(
        1, "cpu", InMemory(BATCH * steps), made, FocalIoULoss(gamma=0.0), optimizer, Run(folder, tracking=False),
        batch_size=BATCH, precision="fp32", ema_decay=0.9, clip_grad_norm=1.0,
    )  # fmt: skip
    found = Operations()
    with found:
        trainer.run()
    return found.counts


def bare(steps: int) -> Counter[str]:
    made, optimizer = network()
    made.train()
    sample = InMemory(1)[0]
    image, label = (torch.stack([sample[key]] * BATCH) for key in ("image", "label"))
    image = image.contiguous(memory_format=torch.channels_last)
    found = Operations()
    with found:
        for _ in range(steps):
            optimizer.zero_grad()
            FocalIoULoss(gamma=0.0)(made(image), label).backward()
            optimizer.step()
    return found.counts


def a_step(more: Counter[str], fewer: Counter[str]) -> dict[str, float]:
    """Return what each further step asks for: the first makes what is kept."""
    return {name: (more[name] - fewer[name]) / STEPS for name in more if more[name] != fewer[name]}


def test_a_step_asks_for_little_more_than_a_bare_one(tmp_path: Path) -> None:
    """Two tensors of the batch, the loss's mean and the sum of losses, clipping and averaging: none by parameter."""
    ours = a_step(trained(2 * STEPS, tmp_path / "more"), trained(STEPS, tmp_path / "fewer"))
    theirs = a_step(bare(2 * STEPS), bare(STEPS))
    beside = {name: number - theirs.get(name, 0) for name, number in ours.items() if number != theirs.get(name, 0)}
    assert theirs.keys() <= ours.keys()
    assert sum(theirs.values()) > 80
    assert 0 < sum(beside.values()) <= 20, beside


def test_the_average_of_any_network_is_two_operations() -> None:
    made = nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(5))).to("meta")
    average = MovingAverage(made, 0.9)
    average.n_averaged = torch.tensor(0)  # PyTorch puts it where the network is that it copies
    average.update_parameters(made)
    with Operations() as found:
        average.update_parameters(made)
    on_cpu = {"_local_scalar_dense": 1, "add_": 1}  # of the number of steps
    assert found.counts == {"_foreach_lerp_": 1, "_foreach_copy_": 1} | on_cpu
