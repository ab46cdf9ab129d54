"""Learning-rate schedules per iteration, by iterations or by the wall clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch.optim import Optimizer

from medseg.errors import MedsegError

KINDS = ("constant", "poly", "cosine", "steps")
_WARMUP = 0.1  # share of a budget in minutes that a warm-up may take


class Schedule:
    """Set the learning rate of every parameter group from how far training has come.

    The rate is the group's own initial rate times a factor of the progress p in [0, 1]: 1 (``constant``),
    ``(1 - p) ** power`` (``poly``), ``(1 + cos(pi p)) / 2`` (``cosine``; LFA U-Net, eq. 3), or a tenth at each share of
    the schedule that p has reached (``steps``). With a budget in minutes the progress is the larger of iterations done
    over all iterations and seconds spent over the budget, so that the schedule ends when the time does; and the warm-up
    is over when a tenth of the budget is, however slow steps are.

    Args:
        optimizer: its groups' rates at construction are the initial rates.
        kind: ``"constant"``, ``"poly"``, ``"cosine"`` or ``"steps"``.
        iterations: optimiser iterations of the whole training.
        power: exponent of ``poly``.
        steps: shares of the schedule, rising, from each of which on the rate of ``steps`` is a tenth of what it was.
        warmup: iterations over which the rate rises linearly from near zero; a tenth of the minutes at most.
        max_minutes: wall-clock budget in minutes; ``None`` for none.

    Raises:
        MedsegError: if a value is out of range, or ``steps`` has no share.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        kind: str,
        iterations: int,
        *,
        power: float = 0.9,
        steps: Sequence[float] = (),
        warmup: int = 0,
        max_minutes: float | None = None,
    ) -> None:
        if kind not in KINDS:
            raise MedsegError(f"schedule is {kind!r}; choose one of {', '.join(KINDS)}")
        if max_minutes is not None and max_minutes <= 0:
            raise MedsegError(f"max_minutes is {max_minutes}; it must be above 0, or null for no limit")
        if warmup < 0:
            raise MedsegError(f"warmup is {warmup} iterations; it must not be negative")
        shares = (0.0, *steps, 1.0)
        if (kind == "steps" and not steps) or any(one >= other for one, other in pairwise(shares)):
            raise MedsegError(
                f"schedule_steps is {list(steps)}; give the rising shares of the schedule, between 0 and 1, at which "
                "its rate falls to a tenth, such as [0.5, 0.75]"
            )
        self.optimizer = optimizer
        self.kind = kind
        self.iterations = max(1, iterations)
        self.power = power
        self.steps = tuple(steps)
        self.warmup = warmup
        self.max_minutes = max_minutes
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def progress(self, iteration: int, seconds: float) -> float:
        """Return the share of the schedule that is over before iteration ``iteration`` (from 0).

        Args:
            iteration: about to begin.
            seconds: of training so far.
        """
        return min(1.0, max(iteration / self.iterations, self._spent(seconds)))

    def _spent(self, seconds: float) -> float:
        return 0.0 if self.max_minutes is None else seconds / (60 * self.max_minutes)

    def factor(self, iteration: int, seconds: float) -> float:
        """Return the factor before iteration ``iteration`` (from 0) after ``seconds`` of training."""
        progress = self.progress(iteration, seconds)
        rise = min(1.0, max((iteration + 1) / self.warmup, self._spent(seconds) / _WARMUP)) if self.warmup else 1.0
        if self.kind == "poly":
            return float(rise * (1 - progress) ** self.power)
        if self.kind == "cosine":
            return rise * (1 + math.cos(math.pi * progress)) / 2
        if self.kind == "steps":
            return rise * 0.1 ** sum(share <= progress for share in self.steps)
        return rise

    def step(self, iteration: int, seconds: float = 0.0) -> float:
        """Set the rates for iteration ``iteration`` (from 0) and return the first group's."""
        factor = self.factor(iteration, seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])
