"""One network in several processes."""

from __future__ import annotations

import torch
from torch import nn

from medseg.engines.precision import network_to_channels_last
from medseg.runs.processes import pick_device


def parallel(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Wrap a network for several processes: one gradient, and on GPUs one batch statistic, over all of them.

    On the CPU batch normalisation sees its own process's part of the batch: PyTorch synchronises it on GPUs alone.

    Args:
        network: the network, on ``device``.
        device: this process's device.
    """
    device = pick_device(device)
    # before wrapping: DistributedDataParallel keeps gradients in the layout that the weights have now, and a later
    # change of the weights' layout would put each gradient on another weight
    network_to_channels_last(network)
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return nn.parallel.DistributedDataParallel(network, device_ids=[device.index])
    return nn.parallel.DistributedDataParallel(network)
