"""How a training fails, and what a person can do then, in one line."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from ignite.engine import State

from medseg.caller import spelt
from medseg.errors import MedsegError

__all__ = ["TrainingError", "diverged", "let_go", "no_memory", "out_of_memory"]

_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "bad_alloc",
    "could not create a memory",  # oneDNN
    "ALLOC_FAILED",  # cuBLAS and cuDNN, for their own handles and scratch memory
    "unable to find an engine",  # cuDNN, where the scratch memory of no algorithm fits
)


class TrainingError(MedsegError):
    """Training that cannot start or cannot go on."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has no memory left.

    Args:
        error: of torch, of one of its libraries, or of Python.
    """
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY))


def let_go(error: BaseException, state: State) -> None:
    """Give the device's memory back that a failed step holds, even while somebody looks at the error or the trainer.

    Args:
        error: whose frames hold what was computed before, and the batch; its lines stay, as a note.
        state: of the trainer, which holds the network's output and with it all that a backward would need.
    """
    lines = "".join(traceback.format_tb(error.__traceback__))
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None  # a cleared frame keeps its function, and that what it closes over
    error.add_note(f"Traceback (most recent call last):\n{lines}")
    state.output = None


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
