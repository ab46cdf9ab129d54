"""Two processes with half the batch each have the loss and the gradients of one with the whole batch."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import alone_and_shared

from medseg.losses.all_hl import ALLHLLoss
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.focal_iou import FocalIoULoss
from medseg.losses.processes import sum_over_processes

CLASSES = 3
IGNORE = 255


def losses() -> list[nn.Module]:
    return [
        ALLHLLoss(ignore_index=IGNORE),
        ALLHLLoss(ignore_index=IGNORE, batch=False, include_background=True, activation="sigmoid"),
        ALLHLLoss(ignore_index=IGNORE, gamma=50.0),  # in the logarithm
        CrossEntropyLoss(ignore_index=IGNORE),
        CrossEntropyLoss([0.2, 1.0, 5.0], IGNORE),
        FocalIoULoss(ignore_index=IGNORE),
        FocalIoULoss(ignore_index=IGNORE, weight=[0.5, 2.0, 1.0]),
        FocalIoULoss(ignore_index=IGNORE, batch=False),
        FocalIoULoss(ignore_index=IGNORE, classes="all"),
    ]


def uneven_batch() -> tuple[Tensor, Tensor]:
    """Four images; the second half has few pixels that count, none of class 2, and an image without any."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, CLASSES, 6, 7, generator=generator)
    label = torch.randint(0, CLASSES, (4, 1, 6, 7), generator=generator)
    label[2][(torch.rand(1, 6, 7, generator=generator) < 0.6) | (label[2] == 2)] = IGNORE
    label[3] = IGNORE
    return image, label


def results(rank: int | None) -> list[dict[str, Tensor]]:
    """Loss and gradients of every loss for one process' half of the batch, or for all of it."""
    found = []
    image, label = uneven_batch()
    if rank is not None:
        image, label = image[2 * rank : 2 * rank + 2], label[2 * rank : 2 * rank + 2]
    for loss in losses():
        torch.manual_seed(0)
        network: nn.Module = nn.Sequential(nn.Conv2d(CLASSES, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, CLASSES, 1))
        trained = network if rank is None else DistributedDataParallel(network)
        value = loss(trained(image), label)
        value.backward()
        found.append(
            {"loss": value.detach()} | {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        )
    return found


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    expected, found = alone_and_shared(results, tmp_path)
    for each in found:
        torch.testing.assert_close(each, expected)


def test_means_of_halves_would_differ() -> None:
    """Else the test above could not tell."""
    image, label = uneven_batch()
    for loss in losses():
        halves = [float(loss(image[half], label[half])) for half in (slice(0, 2), slice(2, 4))]
        assert abs(sum(halves) / 2 - float(loss(image, label))) > 1e-3


def test_one_process_sums_nothing() -> None:
    x = torch.ones(3)
    assert sum_over_processes(x) is x
