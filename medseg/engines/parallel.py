"""One network in several processes."""

from __future__ import annotations

import torch
from torch import nn

from medseg.engines.batch_norm import share_batch_norm
from medseg.engines.precision import network_to_channels_last
from medseg.engines.whole_batch import draw_for_all
from medseg.runs.processes import pick_device


def parallel(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Wrap a network for several processes: one gradient, one batch statistic and one draw of what is dropped for all.

    With a loss over all processes (`medseg.losses.joined`) W processes with N images each then learn what one learns
    with W N.

    Args:
        network: the network, on ``device``.
        device: this process's device.

    Raises:
        MedsegError: if it has a layer that several processes cannot share.
    """
    device = pick_device(device)
    # before wrapping: DistributedDataParallel keeps gradients in the layout that the weights have now, and a later
    # change of the weights' layout would put each gradient on another weight
    network = draw_for_all(share_batch_norm(network, device))
    network_to_channels_last(network)
    if device.type == "cuda":
        return nn.parallel.DistributedDataParallel(network, device_ids=[device.index])
    return nn.parallel.DistributedDataParallel(network)
