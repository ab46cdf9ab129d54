"""Number formats and memory formats, chosen by what the device has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError
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


def to_memory_format(image: Tensor) -> Tensor:
    """Return an image batch ``(B, C, H, W)`` or ``(B, C, H, W, D)`` in channels-last memory format, others plain."""
    return image.contiguous(memory_format=_format(image))


def _format(tensor: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(tensor.ndim, torch.contiguous_format)


def network_to_channels_last(network: nn.Module) -> None:
    """Store the convolution weights of a 2D or 3D network channels-last, in place, and normalise in that layout."""
    quicken(network)
    for parameter in network.parameters():
        # a copy: of a 1x1 kernel `contiguous` would keep strides that gradients do not have
        parameter.data = parameter.data.clone(memory_format=_format(parameter))
