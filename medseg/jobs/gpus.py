"""The GPUs of this machine, shared out evenly between the jobs that work on it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import Lock

from medseg.jobs.job import Job

__all__ = ["VISIBLE", "Gpus"]

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Gpus:
    """GPUs that jobs have to themselves, or with as few others as there are more jobs than GPUs.

    Jobs of another command are not seen: of two at a time, ``CUDA_VISIBLE_DEVICES`` says to each which are its.

    Args:
        names: what ``CUDA_VISIBLE_DEVICES`` calls them, numbers or UUIDs; by default those that this process sees.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._given = names
        self._jobs: Counter[str] = Counter()
        self._lock = Lock()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What ``CUDA_VISIBLE_DEVICES`` calls them."""
        return tuple(_seen() if self._given is None else self._given)

    def sharing(self, workers: int) -> int:
        """Return how many of so many jobs at a time work on the same GPU at most; all of them where there is none.

        Args:
            workers: jobs at a time.
        """
        return math.ceil(workers / max(1, len(self)))

    @contextmanager
    def lend(self, job: Job) -> Iterator[Mapping[str, str]]:
        """Lend a job the GPU that fewest jobs have, until the block is left, however it is left.

        Args:
            job: one that names its device itself is lent nothing, and is nobody to share with.

        Yields:
            The environment of a process that sees this GPU alone; empty where nothing is lent.
        """
        if job.names_device or not self.names:
            yield {}
            return
        with self._lock:
            name = min(self.names, key=self._jobs.__getitem__)
            self._jobs[name] += 1
        try:
            yield {VISIBLE: name}
        finally:
            with self._lock:
                self._jobs[name] -= 1


def _seen() -> list[str]:
    import torch

    number = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return given[:number] if given else [str(index) for index in range(number)]
