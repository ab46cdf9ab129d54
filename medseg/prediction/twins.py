"""Forwards side by side: networks that share their weights, each lent to one thread at a time.

What a network's layers keep of a forward is its own, so that no thread sees another's. On a GPU, whose work is done one
after the other anyway, with exports, which have threads of their own, and with one thread there is one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator, Iterable
from itertools import chain
from queue import SimpleQueue

import torch
from torch import nn

from medseg.prediction.backends import Exported
from medseg.prediction.case import Fed
from medseg.prediction.collected import Collected
from medseg.prediction.forward import Forward
from medseg.prediction.overlap import side_by_side
from medseg.prediction.sinks import Case

__all__ = ["Group", "Results", "Twins"]

logger = logging.getLogger(__name__)

Group = list[tuple[Case, Fed]]
"""Cases that are predicted together."""
Results = list[Collected] | Exception
"""Of a group, or what was raised."""

_AT_ONCE = 2  # more would hold the feature maps of more forwards
_SMALL = 2**20  # voxels of windows and of what they leave to each other, beside which another forward has room


class Twins:
    """Predicts fed images, those that are small several at a time.

    Args:
        forward: that does it; the others are made after it.
    """

    def __init__(self, forward: Forward) -> None:
        self._first = forward
        self._free = SimpleQueue[Forward]()
        found = [forward, *_others(forward)]
        self.number = len(found)
        for each in found:
            self._free.put(each)

    def each(self, groups: Iterable[Group]) -> Generator[tuple[Group, Results]]:
        """Yield groups in their order, and what came of each.

        Args:
            groups: of which those are small that leave room for others at the same time.
        """
        return side_by_side(groups, self.collect, threads=self.number, small=self._small, size=_voxels)

    def collect(self, group: Group) -> list[Collected]:
        """Do what `Forward.collect` does, by one that no other thread has; wait until there is one."""
        forward = self._free.get()
        try:
            return forward.collect([fed for _, fed in group])
        finally:
            self._free.put(forward)

    def _small(self, group: Group) -> bool:
        return all(self._first.voxels(fed) <= _SMALL for _, fed in group)


def _voxels(group: Group) -> int:
    return sum(fed.image[0].numel() for _, fed in group)


def _others(forward: Forward) -> list[Forward]:
    """Return forwards of networks that share the weights of another's; none where there can be none."""
    exported = any(isinstance(network, Exported) for network in forward.networks)
    if forward.device.type != "cpu" or exported or torch.get_num_threads() < _AT_ONCE:
        return []
    try:
        return [_twin(forward) for _ in range(1, _AT_ONCE)]
    except Exception:  # whatever a network of another package holds that cannot be copied
        logger.debug("the network cannot be copied: one forward at a time", exc_info=True)
        return []


def _twin(forward: Forward) -> Forward:
    other = copy.copy(forward)
    other.networks = [_sharing(network) for network in forward.networks]
    return other


def _sharing(network: nn.Module) -> nn.Module:
    """Return a copy of a network that has its parameters and buffers, not copies of them."""
    return copy.deepcopy(network, {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())})
