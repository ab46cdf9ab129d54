"""Number formats and memory formats, chosen by what the device has."""

from __future__ import annotations

import torch
from torch import nn

from medseg.errors import MedsegError
from medseg.inferers.memory_format import memory_format
from medseg.layers.quicken import quicken

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision to run in.

    Args:
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` (GPU only), or ``"auto"``: bf16 where a GPU computes in it,
            fp32 elsewhere.
        device: where to run.

    Raises:
        ValueError: if the name is unknown or the device cannot do it.
    """
    if precision not in PRECISIONS:
        raise MedsegError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    cuda = device.type == "cuda"
    if precision == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision == "fp16" and not cuda:
        raise MedsegError(f"precision fp16 needs a GPU, the device is {device}; use fp32 or bf16")
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of a resolved precision."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return torch.autocast(device.type, dtype=kinds[precision], enabled=precision != "fp32")


def network_to_device(network: nn.Module) -> None:
    """Give a network a CPU's own layers, in place: without them some are wrong there, see `medseg.layers.norms`.

    Args:
        network: on the device where it is to run.
    """
    if all(parameter.device.type == "cpu" for parameter in network.parameters()):  # else they only ask and hand on
        quicken(network)


def network_to_channels_last(network: nn.Module) -> None:
    """Store the convolution weights of a network in the layout of `memory_format`, in place, with a CPU's own layers.

    Args:
        network: on the device where it is to run: volumes are convolved otherwise on a GPU.
    """
    network_to_device(network)
    for parameter in network.parameters():
        # a copy: of a 1x1 kernel `contiguous` would keep strides that gradients do not have
        parameter.data = parameter.data.clone(memory_format=memory_format(parameter))
