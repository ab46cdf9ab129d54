"""How the minutes of a comparison are spent: rungs that halve the networks, then the folds of those that are left.

Successive halving: every rung gets the same minutes, half as many networks as the one before, and so twice the minutes
for each (K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS
2016, https://arxiv.org/abs/1502.07943, algorithm 1). It differs from theirs in that a network which goes on is trained
anew, longer, instead of being continued: a plan's learning rate falls to zero when its minutes end. A training that has
ended so has nothing left to go on with, and one stretched over all rungs would be judged in the middle, at a high rate,
where its scores say little of where it would end. What the rungs lose by that is less than their third of the minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medseg.errors import MedsegError, counted
from medseg.studies.plan import MINUTES

__all__ = ["END", "LEAST", "Budget", "Stage", "choose", "holds", "kept", "stages"]

SURVIVORS = 2
"""Networks that are cross-validated where minutes are few: a first, and a second to hold it against."""
LEAST = 0.5
"""Minutes below which a training says nothing."""
WORTH = 2.0
"""Minutes that a training of the cross-validation should have before there are more folds or networks."""
PLANNING = 0.7
"""Minutes that planning a network takes, until it has been seen."""
END = 0.25
"""Minutes that the last table, the model and the report take."""
BESIDE = 0.6
"""Minutes that a training takes beside its own (process, loading, scoring), until a plan or a rung says more."""
_RUNGS = 1 / 3  # of the minutes, for all rungs together
_FOLDS = 5  # at most, where nobody asks for more


@dataclass(frozen=True)
class Stage:
    """Trainings of equal length.

    Args:
        networks: that are trained.
        folds: that each is scored on.
        minutes: of each training.
        final: whether it is the cross-validation, else a rung.
    """

    networks: int
    folds: int
    minutes: float
    final: bool

    @property
    def cells(self) -> int:
        """Trainings."""
        return self.networks * self.folds

    def __str__(self) -> str:
        """Say it in a line."""
        what = "cross-validation" if self.final else "rung"
        size = f"{counted(self.networks, 'network')} x {counted(self.folds, 'fold')}"
        return f"{what}: {size}, {self.minutes:.2g} minutes each ({counted(self.cells, 'training')})"


@dataclass(frozen=True)
class Budget:
    """What there is to spend, and what things cost.

    Args:
        minutes: for all of it.
        workers: trainings at a time.
        spent: minutes, so far.
        beside: minutes that a training takes beside its own.
        planning: minutes that planning a network takes; 0 where all are planned.
    """

    minutes: float
    workers: int = 1
    spent: float = 0.0
    beside: float = BESIDE
    planning: float = PLANNING

    def after_planning(self, networks: int) -> float:
        """Return the minutes that are left for the stages once so many networks are planned."""
        return self.minutes - self.spent - networks * self.planning - END

    def each(self, minutes: float, cells: int) -> float:
        """Return the minutes of each of so many trainings that share some minutes."""
        return minutes / math.ceil(cells / self.workers) - self.beside


def stages(budget: Budget, networks: int, folds: int) -> list[Stage]:
    """Return what is done with the minutes: rungs, where minutes are few, and the cross-validation.

    Minutes are few where a training of the full cross-validation would have fewer than `medseg.studies.plan.MINUTES`.

    Args:
        budget: what there is.
        networks: to compare.
        folds: of the cross-validation.
    """
    left = budget.after_planning(networks)
    full = budget.each(left, networks * folds)
    if networks <= SURVIVORS or full >= MINUTES:
        return [Stage(networks, folds, full, final=True)]
    sizes = list(_sizes(networks))
    last = Stage(SURVIVORS, folds, budget.each(left * (1 - _RUNGS), SURVIVORS * folds), final=True)
    share = left * _RUNGS / len(sizes)
    rungs = [Stage(size, 1, min(last.minutes, budget.each(share, size)), final=False) for size in sizes]
    return [*rungs, last]


def _sizes(networks: int) -> Iterator[int]:
    while networks > SURVIVORS:
        yield networks
        networks = kept(networks)


def kept(networks: int) -> int:
    """Return how many networks go on from a rung of so many."""
    return max(SURVIVORS, math.ceil(networks / 2))


def choose(
    budget: Budget, networks: int, folds: Sequence[int], *, all_networks: bool, all_folds: bool
) -> tuple[int, int]:
    """Return how many networks are compared on how many folds.

    As many networks as the minutes hold with three folds (or all that there are) of `WORTH` minutes a training; then as
    many folds, five at most. Where that is too much for two networks, two of them on two folds.

    Args:
        budget: what there is.
        networks: that could be compared.
        folds: of the data.
        all_networks: whether every one was asked for.
        all_folds: whether every one was asked for.

    Raises:
        MedsegError: if the minutes do not hold what was asked for, or not even two networks.
    """
    most = len(folds) if all_folds else min(_FOLDS, len(folds))
    least = most if all_folds else min(2, most)
    wanted = max(least, min(3, most))
    for count in [networks] if all_networks else range(networks, 1, -1):
        for number in range(most, (least if all_networks or count == SURVIVORS else wanted) - 1, -1):
            if holds(budget, count, number):
                return count, number
    count = networks if all_networks else SURVIVORS
    if holds(budget, count, least, LEAST):
        return count, least
    needed = math.ceil(budget.minutes)
    while not holds(replace(budget, minutes=needed), count, least, LEAST):
        needed += 1
    so_far = f" ({budget.spent:.1f} of them are spent)" if budget.spent >= 0.05 else ""
    fewer = ", or fewer networks" if all_networks and count > SURVIVORS else ""
    raise MedsegError(
        f"{budget.minutes:g} minutes{so_far} are too few to compare {counted(count, 'network')} on "
        f"{counted(least, 'fold')}: with planning, loading and scoring no training would have {LEAST:g} minutes; give "
        f"--minutes {needed} or more{fewer}"
    )


def holds(budget: Budget, networks: int, folds: int, worth: float = WORTH) -> bool:
    """Return whether the minutes hold so many networks and folds.

    Args:
        budget: what there is.
        networks: to compare.
        folds: of the cross-validation.
        worth: minutes that a training of it should have.
    """
    return all(each.minutes >= (worth if each.final else LEAST) for each in stages(budget, networks, folds))
