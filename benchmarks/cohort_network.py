"""The network of `benchmarks.cohort`, in the processes of all sides: nnU-Net's U-Net, which notes when forwards end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn

from benchmarks.cohort_parts import STAMPS

IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Arguments that a plan of nnU-Net names as dotted paths."""


def planned(spatial_dims: int, channels: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of nnU-Net's plan: two convolutions a level, instance norm, strides of two.

    Args:
        spatial_dims: 2 or 3.
        channels: of the levels.
    """
    levels = len(channels)
    return {
        "n_stages": levels,
        "features_per_stage": list(channels),
        "conv_op": f"torch.nn.modules.conv.Conv{spatial_dims}d",
        "kernel_sizes": [[3] * spatial_dims] * levels,
        "strides": [[1] * spatial_dims, *[[2] * spatial_dims] * (levels - 1)],
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{spatial_dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


class Planned(PlainConvUNet):
    """As nnU-Net builds it."""

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits, and note the times."""
        begun = time.perf_counter()
        logits: Tensor = super().forward(windows)
        file = os.environ.get(STAMPS)
        if file:
            with open(file, "a", encoding="ascii") as stamps:
                stamps.write(f"{begun!r} {time.perf_counter()!r} {len(windows)}\n")
        return logits


class Network(Planned):
    """As medseg and MONAI build it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image.
        out_channels: classes.
        channels: of the levels.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, *, channels: Sequence[int]) -> None:
        arguments = planned(spatial_dims, channels)
        arguments["conv_op"] = getattr(nn, f"Conv{spatial_dims}d")
        arguments["norm_op"] = getattr(nn, f"InstanceNorm{spatial_dims}d")
        arguments["nonlin"] = nn.LeakyReLU
        super().__init__(in_channels, num_classes=out_channels, **arguments)
