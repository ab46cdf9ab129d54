"""How minutes are spent: no more than there are, ever longer on ever fewer networks, and refused where they are few."""

import math
import re

import pytest

from medseg.errors import MedsegError
from medseg.studies.halving import END, LEAST, Budget, Stage, choose, holds, kept, stages
from medseg.studies.plan import MINUTES

FOLDS = range(5)


def length(budget: Budget, found: list[Stage]) -> float:
    """Return the minutes that stages take, one after the other, their trainings side by side."""
    return sum(math.ceil(each.cells / budget.workers) * (each.minutes + budget.beside) for each in found)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("networks", [1, 2, 3, 6, 9])
def test_the_stages_take_the_minutes(networks: int, workers: int) -> None:
    budget = Budget(200, workers, beside=0.5, planning=1.5)
    found = stages(budget, networks, 3)
    assert length(budget, found) == pytest.approx(200 - 1.5 * networks - END)
    assert [each.final for each in found] == [False] * (len(found) - 1) + [True]


def test_rungs_halve_and_train_longer() -> None:
    found = stages(Budget(100), 6, 5)
    assert [each.networks for each in found] == [6, 3, 2]
    assert [each.folds for each in found] == [1, 1, 5]
    assert found[0].minutes < found[1].minutes < found[2].minutes
    assert [kept(number) for number in (9, 6, 5, 4, 3, 2)] == [5, 3, 3, 2, 2, 2]


def test_many_minutes_need_no_rung() -> None:
    cells, each = 6 * 5, MINUTES + 0.6
    many = Budget(cells * each + END + 0.01, beside=0.6, planning=0)
    assert [(stage.networks, stage.final) for stage in stages(many, 6, 5)] == [(6, True)]
    assert len(stages(Budget(cells * each + END - 1, beside=0.6, planning=0), 6, 5)) == 3


def test_a_rung_is_no_longer_than_the_cross_validation() -> None:
    """Of many workers some have nothing to do there."""
    found = stages(Budget(60, workers=8), 8, 5)
    assert found[0].minutes <= found[-1].minutes


def test_more_minutes_compare_more() -> None:
    few, more, many = (
        choose(Budget(minutes), 6, FOLDS, all_networks=False, all_folds=False) for minutes in (12, 40, 480)
    )
    assert few == (2, 2)
    assert 2 < more[0] <= 6
    assert many == (6, 5)
    assert choose(Budget(480), 6, range(10), all_networks=False, all_folds=False) == (6, 5)
    assert choose(Budget(4800), 6, range(10), all_networks=False, all_folds=True) == (6, 10)


def test_what_was_asked_for_is_kept_or_refused() -> None:
    """The minutes that are named are those that are needed: one fewer is refused, too."""
    assert choose(Budget(40), 4, FOLDS, all_networks=True, all_folds=False)[0] == 4
    asked = {"all_networks": True, "all_folds": True}
    with pytest.raises(MedsegError, match=r"^9 minutes are too few to compare 4 networks on 5 folds: ") as error:
        choose(Budget(9), 4, FOLDS, **asked)
    assert "or fewer networks" in str(error.value)
    needed = int(re.findall(r"--minutes (\d+)", str(error.value))[0])
    assert choose(Budget(needed), 4, FOLDS, **asked) == (4, 5)
    assert not holds(Budget(needed - 1), 4, 5, LEAST)


def test_two_networks_are_the_least() -> None:
    with pytest.raises(MedsegError, match=r"3 minutes are too few to compare 2 networks on 2 folds: .*no training"):
        choose(Budget(3), 6, FOLDS, all_networks=False, all_folds=False)


def test_a_stage_says_what_it_is() -> None:
    assert str(Stage(5, 1, 0.664, final=False)) == "rung: 5 networks x 1 fold, 0.66 minutes each (5 trainings)"
    assert str(Stage(2, 3, 3.4, final=True)) == "cross-validation: 2 networks x 3 folds, 3.4 minutes each (6 trainings)"
