"""The computer's memory: what is free, and keeping freed memory in the process.

On a CPU, asking the kernel anew for every feature map is much of a step's time.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform

import torch

logger = logging.getLogger(__name__)

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # names of mallopt(3)
_PAD = 64 * 2**20  # bytes that the heap grows by at least
_KEPT = 64 * 2**20  # bytes of the largest block that a prediction keeps: with 256 MiB a large volume took 250 more


def free_memory() -> int:
    """Return the bytes of the computer's memory that nothing uses."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Return the bytes of a GPU's memory that this process could still take, and all; ``None`` of a CPU.

    Args:
        device: the GPU.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def keep_freed_memory(device: torch.device) -> bool:
    """Tell glibc's allocator to reuse large blocks instead of returning each to the kernel.

    By default every tensor above 32 MiB is mapped, zeroed page by page and unmapped again, several hundred times a
    training step. ``benchmarks/trainer.py`` measures what this saves. Nothing happens on a GPU or another C library.

    Args:
        device: where the work is done.

    Returns:
        Whether the allocator was told.
    """
    return _advise(device, "training", (_MMAP_MAX, 0))


def keep_feature_maps(device: torch.device) -> bool:
    """Tell glibc's allocator to keep freed blocks of a feature map's size, and to return larger ones, such as volumes.

    For predictions, whose memory is bounded: what lies between two forwards is the maps of one. `benchmarks.cohort`
    measures forwards with it, `benchmarks.volume_peak` the memory. Nothing happens on a GPU or another C library.

    Args:
        device: where networks run.

    Returns:
        Whether the allocator was told.
    """
    return _advise(device, "predicting", (_MMAP_THRESHOLD, _KEPT))


def _advise(device: torch.device, work: str, mapped: tuple[int, int]) -> bool:
    """Tell the allocator which blocks are mapped, and to give nothing of its heap back."""
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = all(mallopt(option, value) for option, value in (mapped, (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)))
    if not told:
        logger.info("the memory allocator takes no advice; %s is slower, nothing else", work)
    return bool(told)
