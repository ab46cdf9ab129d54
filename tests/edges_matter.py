"""A network of which each window's place is seen in its logits."""

from typing import Any

import torch
from torch import nn


def edges_matter(dims: int, classes: int = 3, channels: int = 2) -> nn.Module:
    """A network whose logits depend on where a window ends, so that a window at another place is seen."""
    torch.manual_seed(0)
    kind, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    layers: tuple[Any, ...] = (kind(channels, 4, 3, padding=1), norm(4), nn.ReLU(), kind(4, classes, 3, padding=1))
    return nn.Sequential(*layers).eval()
