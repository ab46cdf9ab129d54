"""Random layers that draw for the batch of all processes, so that each image loses what it would lose in one."""

from __future__ import annotations

import torch
from monai.networks.layers.drop_path import DropPath as MonaiDropPath
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from medseg.errors import MedsegError
from medseg.losses.processes import several
from medseg.networks.sa_unet import DropBlock
from medseg.runs.processes import rank, world_size

__all__ = ["WholeBatch", "draw_for_all"]

_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_FACTORS = (nn.Dropout, *_CHANNELS, DropBlock, DropPath, MonaiDropPath)  # all that they do is to multiply
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class WholeBatch(nn.Module):
    """Multiply by what a random layer makes of ones, drawn for the images of all processes and taken for this one's.

    All processes must draw from the same random state. With W processes this one has every W-th image from its number
    on. The cost is that of drawing W times as many numbers.

    Args:
        layer: that multiplies by random numbers.

    Shape:
        any with the batch first, kept.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if not (self.training and several()):
            result: Tensor = self.layer(x)
            return result
        sizes = [1] * (x.ndim - 2) if isinstance(self.layer, _CHANNELS) else list(x.shape[2:])
        ones = x.new_ones([len(x) * world_size(), *x.shape[1:2], *sizes])
        layout = _FORMATS.get(x.ndim)
        if layout is not None and not x.is_contiguous() and x.is_contiguous(memory_format=layout):
            ones = ones.contiguous(memory_format=layout)  # numbers are drawn in the order of the memory
        factors: Tensor = self.layer(ones)[rank() :: world_size()]
        return x * factors


def draw_for_all(network: nn.Module) -> nn.Module:
    """Return a network whose random layers draw for the batch of all processes.

    Args:
        network: changed in place.

    Raises:
        MedsegError: if it has a random layer that does more than multiply.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, _DropoutNd) and not isinstance(layer, _FACTORS):
            raise MedsegError(
                f"{name} of {type(network).__name__} is a {type(layer).__name__}, which several processes cannot draw "
                "together; train in one process, or with another dropout"
            )
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            idle = getattr(layer, "p", 1) == 0  # which draws nothing
            if isinstance(layer, _FACTORS) and not idle and not isinstance(parent, WholeBatch):
                setattr(parent, name, WholeBatch(layer))
    return network
