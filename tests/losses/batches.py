"""Random logits and labels, and what a loss makes of them."""

import torch
from torch import Tensor, nn

CLASSES = 4
IGNORE = 255


def random_batch(
    seed: int, channels: int = CLASSES, *, ignored: float = 0.0, size: tuple[int, ...] = (5, 6), batch: int = 3
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, channels, *size, generator=generator)
    label = torch.randint(0, max(2, channels), (batch, 1, *size), generator=generator)
    label[torch.rand(label.shape, generator=generator) < ignored] = IGNORE
    return logits, label


def value_and_gradient(loss: nn.Module, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, label)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
