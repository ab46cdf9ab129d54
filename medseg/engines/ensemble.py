"""Networks that decide together: the mean of their probabilities, in evaluations as in predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.metrics.uncertainty import probabilities_of

__all__ = ["Ensemble", "OverMembers", "joined", "logits_of", "members_of"]


class Ensemble(nn.Module):
    """Several networks in one module, to be moved and switched together; what evaluates asks each.

    Args:
        members: the networks.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> NoReturn:
        """Refuse: windows are put together member by member, before probabilities are averaged.

        Raises:
            MedsegError: always.
        """
        raise MedsegError("an ensemble has no logits of a window; ask its members, as medseg.engines.evaluator does")


def members_of(network: nn.Module) -> list[nn.Module]:
    """Return the networks of an ensemble; a network itself is its only member."""
    return list(network.members) if isinstance(network, Ensemble) else [network]


def logits_of(mean: Tensor) -> Tensor:
    """Return logits whose softmax gives probabilities.

    Args:
        mean: probabilities, such as means over members.
    """
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()


def joined(logits: Sequence[Tensor], temperatures: Sequence[float]) -> Tensor:
    """Return what members say together: of one its logits over its temperature, of several those of the mean.

    Args:
        logits: of each member.
        temperatures: that each one's logits are divided by.

    Shape:
        ``(B, classes, *S)`` each.
    """
    tempered = [each if by == 1 else each / by for each, by in zip(logits, temperatures, strict=True)]
    if len(tempered) == 1:
        return tempered[0]
    return logits_of(torch.stack([probabilities_of(each, dim=1) for each in tempered]).mean(0))


class OverMembers(Inferer):
    """Goes over an image with each member and joins what they give for all of it.

    Args:
        inferer: of one network.
        temperatures: called for those of the members.
    """

    def __init__(self, inferer: Inferer, temperatures: Callable[[], Sequence[float]]) -> None:
        self.inferer, self.temperatures = inferer, temperatures

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits ``(B, classes, *S)`` of an image ``(B, C, *S)``."""
        found = [self.inferer(inputs, member, *args, **kwargs) for member in members_of(network)]
        return joined(found, self.temperatures())
