"""How batches lie in memory: in which layout convolutions are fastest, and how to go through one as it lies."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["by_strides", "classes_last", "ends", "memory_format", "to_memory_format"]

_AT_ONCE = 2**17  # values, which a processor's cache holds


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Return channels-last of pictures, and of volumes on a CPU; else the plain layout.

    Of volumes on a GPU it is slower: a 3D U-Net of nnU-Net's widths with instance normalisation trained 1.4 times
    faster without (bfloat16, patches of 128, ``docs/results/patch_training_gpu.json``); of small patches it makes
    little difference.

    Args:
        tensor: a batch ``(B, C, *S)``, or the weights of a convolution.
    """
    if tensor.ndim == 5 and tensor.device.type != "cuda":
        return torch.channels_last_3d
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


def to_memory_format(image: Tensor) -> Tensor:
    """Return an image batch ``(B, C, *S)`` in the layout in which its device convolves fastest."""
    return image.contiguous(memory_format=memory_format(image))


def classes_last(logits: Tensor) -> bool:
    """Return whether a voxel's classes lie side by side, as a network gives them on a CPU.

    Args:
        logits: ``(B, classes, *S)``.
    """
    return logits.shape[1] > 1 and logits.stride(1) == 1


def by_strides(tensor: Tensor) -> Tensor:
    """Return a view whose last axis is the one along which values lie nearest to each other, and so on."""
    return tensor.permute(sorted(range(tensor.ndim), key=lambda axis: -tensor.stride()[axis]))


def ends(tensor: Tensor) -> Tensor:
    """Return the smallest and the largest value, both NaN if any is: one pass, and no copy larger than a cache."""
    flat = by_strides(tensor)
    if tensor.device.type != "cpu":
        return torch.stack(flat.aminmax())
    rows = max(1, _AT_ONCE * flat.shape[0] // max(1, flat.numel()))
    found = torch.stack([torch.stack(part.aminmax()) for part in torch.split(flat, rows)])
    return torch.stack([found[:, 0].min(), found[:, 1].max()])
