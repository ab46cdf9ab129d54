"""Learning-rate schedules."""

import math

import pytest
import torch

from medseg.engines.schedule import Schedule


def optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (1.0, 10.0)]
    return torch.optim.SGD(groups, lr=1.0)


def test_cosine_is_the_papers() -> None:
    schedule = Schedule(optimizer(), "cosine", 250)
    for epoch in (0, 1, 100, 249):
        assert schedule.factor(epoch, 0) == pytest.approx((math.cos(epoch / 250 * math.pi) + 1) / 2)


def test_poly_equals_torch() -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = Schedule(ours, "poly", 20, power=0.9)
    reference = torch.optim.lr_scheduler.PolynomialLR(theirs, total_iters=20, power=0.9)
    for iteration in range(20):
        schedule.step(iteration)
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])
        theirs.step()
        reference.step()


def test_steps_equal_torch() -> None:
    """The published schedule of FocusNet++ in 50 epochs of 7 steps: a tenth from the 17th, 27th and 42nd epoch on."""
    ours, theirs = optimizer(), optimizer()
    schedule = Schedule(ours, "steps", 50 * 7, steps=[0.32, 0.52, 0.82])
    reference = torch.optim.lr_scheduler.MultiStepLR(theirs, [16 * 7, 26 * 7, 41 * 7])
    for iteration in range(50 * 7):
        schedule.step(iteration)
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])
        theirs.step()
        reference.step()
    assert ours.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_steps_go_by_the_clock_too() -> None:
    schedule = Schedule(optimizer(), "steps", 10**9, steps=[0.5], max_minutes=2)
    assert [schedule.factor(5, seconds) for seconds in (0, 59, 60, 500)] == pytest.approx([1, 1, 0.1, 0.1])


def test_budget_ends_the_schedule_with_the_time() -> None:
    schedule = Schedule(optimizer(), "poly", 10**9, power=1.0, max_minutes=2)
    assert schedule.factor(5, 60) == pytest.approx(0.5)
    assert schedule.factor(5, 120) == 0
    assert schedule.factor(5, 500) == 0


def test_warmup_rises_linearly() -> None:
    schedule = Schedule(optimizer(), "constant", 100, warmup=4)
    assert [schedule.factor(i, 0) for i in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_warmup_is_over_with_a_tenth_of_the_minutes() -> None:
    schedule = Schedule(optimizer(), "constant", 10**6, warmup=1000, max_minutes=1)
    assert schedule.factor(1, 3) == pytest.approx(0.5)  # steps are slower than they were planned
    assert schedule.factor(2, 6) == 1
    assert schedule.factor(499, 0.1) == pytest.approx(0.5)  # and here they are not


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "step"}, "choose one of constant, poly, cosine, steps"),
        ({"kind": "steps"}, r"schedule_steps is \[\]; give the rising shares of the schedule.* such as \[0.5, 0"),
        ({"kind": "steps", "steps": [15, 25]}, r"schedule_steps is \[15, 25\]; give the rising shares"),
        ({"kind": "steps", "steps": [0.5, 0.3]}, r"schedule_steps is \[0.5, 0.3\]"),
        ({"kind": "poly", "max_minutes": 0}, "max_minutes is 0"),
        ({"kind": "poly", "warmup": -1}, "warmup is -1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(optimizer(), iterations=3, **options)  # type: ignore[arg-type]
