"""The process's random numbers, borrowed and given back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def own_random_state() -> Iterator[None]:
    """Give Python's, numpy's and torch's random state of before back at the end of the block."""
    python, array = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


def seed_all(state: np.random.SeedSequence) -> None:
    """Seed Python's, numpy's and torch's random numbers.

    Args:
        state: what the seed is drawn from.
    """
    seed = int(state.generate_state(1)[0])
    for each in (random.seed, np.random.seed, torch.manual_seed):
        each(seed)
