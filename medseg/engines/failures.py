"""How a training fails, and what a person can do then, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from medseg.caller import spelt
from medseg.errors import MedsegError

__all__ = ["TrainingError", "diverged", "no_memory", "out_of_memory"]

_NO_MEMORY = ("out of memory", "can't allocate memory")


class TrainingError(MedsegError):
    """Training that cannot start or cannot go on."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has no memory left."""
    known = isinstance(error, torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY))


def no_memory(place: str, device: torch.device, batch_size: int, shape: Sequence[int], last: Path) -> TrainingError:
    """Return what to lower where memory is short, and how to go on.

    Args:
        place: epoch and iteration.
        device: that has too little.
        batch_size: of one process.
        shape: ``(C, *S)`` of an image as it was trained, empty where none was.
        last: checkpoint of the run, which may exist.
    """
    images = f" of {'x'.join(map(str, shape[1:]))}" if shape else ""
    folder = last.parent.parent
    on = "and start again"
    if last.exists():
        on = f"{spelt('resume', folder)} goes on after the last completed epoch with either"
    return TrainingError(
        f"{place}: {device} has no memory left for batch_size {batch_size}{images}; lower batch_size (and raise "
        f"accumulation_steps for steps of as many images) or patch: {on}. A narrower network (network_def#channels) is "
        "a new run"
    )


def diverged(what: str, place: str, rate: float, last: Path) -> TrainingError:
    """Return what to do where loss or weights are no numbers.

    Args:
        what: was found.
        place: epoch and iteration.
        rate: the learning rate there.
        last: checkpoint of the run, which may exist.
    """
    kept = f"the last good checkpoint is {last}" if last.exists() else "no epoch was completed"
    return TrainingError(
        f"{what} in {place}, at learning rate {rate:.3g}; {kept}. Lower the learning rate, set "
        f"{spelt('clip_grad_norm', 1)}, or use {spelt('precision', 'fp32')}"
    )
