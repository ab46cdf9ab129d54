"""What a batch from a loading process costs the process that trains, by the number of tensors in it.

    python -m benchmarks.packing

Microseconds of the processor of the training process, all its threads, for a batch of nothing but that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.common import report
from medseg.engines.packing import pack

_EDGES = (1, 8, 8, 8)


class Tensors(Dataset[dict[str, Tensor]]):
    """Samples of some tensors.

    Args:
        number: of them.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        """Return more than are taken."""
        return 10**6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a sample."""
        return {str(n): torch.zeros(_EDGES) for n in range(self.number)}


def packed(samples: list[Any]) -> Any:
    """Put samples together as the trainer's loader does."""
    return pack(default_collate(samples))


def microseconds(number: int, together: bool, batches: int) -> float:
    """Return what a batch costs.

    Args:
        number: of tensors.
        together: whether they come as one.
        batches: to take.
    """
    loader = DataLoader(Tensors(number), 2, num_workers=1, collate_fn=packed if together else default_collate)
    coming = iter(loader)
    for _ in range(5):
        next(coming)
    before = time.process_time()
    for _ in range(batches):
        dict(next(coming))
    return (time.process_time() - before) / batches * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    sides = [(number, together) for number in (1, 2, 3) for together in (False, True)]
    rounds = [{side: microseconds(*side, options.batches) for side in sides} for _ in range(options.rounds)]
    result = {
        f"{n} tensors, {'packed' if t else 'one by one'}": statistics.median(found[n, t] for found in rounds)
        for n, t in sides
    }
    report("microseconds a batch from a loading process", result, options.json)


if __name__ == "__main__":
    main()
