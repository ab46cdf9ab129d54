"""Bootstrap intervals of means, against scipy's and against drawing groups one by one."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t

from medseg.metrics.intervals import ClusterBootstrap


def test_single_cases_against_scipy() -> None:
    values = np.random.default_rng(1).beta(5, 2, 30)
    each, overall = ClusterBootstrap([""] * 30).intervals(values[:, None])
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=0).confidence_interval
    assert each[0] == pytest.approx(theirs, abs=0.005)
    assert overall == each[0]


def test_groups_are_drawn_whole() -> None:
    """Against a loop; and groups of like cases make a wider interval than the cases by themselves."""
    random = np.random.default_rng(2)
    sizes = random.integers(1, 6, 12)
    groups = [f"patient {number}" for number, size in enumerate(sizes) for _ in range(size)]
    base = np.repeat(random.normal(0.7, 0.1, 12), sizes)
    values = np.stack([base + random.normal(0, 0.01, len(base)), np.where(base > 0.65, base, np.nan)], axis=1)
    each, overall = ClusterBootstrap(groups).intervals(values)
    names = sorted(set(groups))
    means = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(np.array(groups) == names[n]) for n in random.integers(0, 12, 12)])
        means.append(np.nanmean(values[rows], axis=0))
    expected = np.quantile(means, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(np.array(each).T, expected, atol=0.01)
    assert overall == pytest.approx(np.quantile(np.mean(means, axis=1), (0.025, 0.975)), abs=0.01)
    alone, _ = ClusterBootstrap([""] * len(groups)).intervals(values)
    assert each[0] is not None
    assert alone[0] is not None
    assert each[0][1] - each[0][0] > 1.3 * (alone[0][1] - alone[0][0])


def test_few_groups_have_none() -> None:
    values = np.random.default_rng(0).random((12, 2))
    draws = ClusterBootstrap(["a", "b", "c", "d"] * 3)
    assert draws.intervals(values) == ([None, None], None)
    assert draws.note() == "No intervals: 4 groups, 5 are the least."
    assert ClusterBootstrap(["a", "a"]).note() == "No intervals: 1 group, 5 are the least."
    assert ClusterBootstrap(["a", ""]).note() == "No intervals: 2 groups and single cases, 5 are the least."
    values[4:, 1] = np.nan  # four cases have it
    each, overall = ClusterBootstrap([""] * 12).intervals(values)
    assert (each[0] is None, each[1] is None, overall is None) == (False, True, False)


def test_by_what_it_was_drawn_and_again() -> None:
    mixed = ClusterBootstrap(["a", "a", "", "", "b", "c", "d"])
    assert (mixed.number, mixed.by) == (6, "group, or case without one")
    assert ClusterBootstrap([""] * 6).note().startswith("[low, high]: 95% bootstrap interval of the mean, by 6 cases;")
    assert ClusterBootstrap([]).intervals(np.zeros((0, 2))) == ([None, None], None)
    values = np.random.default_rng(0).random((7, 3))
    assert mixed.intervals(values) == ClusterBootstrap(["a", "a", "", "", "b", "c", "d"]).intervals(values)


def test_bca_of_single_cases_is_scipys() -> None:
    values = np.random.default_rng(1).beta(5, 2, 30)
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=2000, random_state=np.random.default_rng(0))
    assert ClusterBootstrap([""] * 30).bca(values) == pytest.approx(tuple(theirs.confidence_interval))


def test_bca_draws_whole_groups() -> None:
    """Against Efron's formulas (1993, chapter 14) in a loop over groups: bias and acceleration are those of groups."""
    random = np.random.default_rng(2)
    sizes = random.integers(1, 6, 15)
    groups = [f"patient {number}" for number, size in enumerate(sizes) for _ in range(size)]
    values = np.repeat(random.beta(8, 2, 15), sizes) + random.normal(0, 0.01, sizes.sum())
    values[3] = np.nan
    members = [np.flatnonzero(np.array(groups) == f"patient {number}") for number in range(15)]

    def mean(chosen: list[int]) -> float:
        return float(np.nanmean(np.concatenate([values[members[number]] for number in chosen])))

    everyone = list(range(15))
    draws = np.array([mean(list(random.integers(0, 15, 15))) for _ in range(10_000)])
    bias = norm.ppf((draws < mean(everyone)).mean())
    without = np.array([mean(everyone[:number] + everyone[number + 1 :]) for number in everyone])
    gaps = without.mean() - without
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    ends = []
    for z in norm.ppf((0.025, 0.975)):
        ends.append(np.quantile(draws, norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))))
    assert ClusterBootstrap(groups).bca(values) == pytest.approx(ends, abs=0.006)


def test_bca_needs_groups_that_differ() -> None:
    assert ClusterBootstrap(["a", "b", "c", "d", "d"]).bca(np.linspace(0, 1, 5)) is None
    assert ClusterBootstrap([""] * 6).bca(np.array([0.5, 0.6, 0.7, np.nan, np.nan, 0.2])) is None
    assert ClusterBootstrap([""] * 6).bca(np.full(6, 0.7)) == (0.7, 0.7)
    assert ClusterBootstrap([""] * 6).bca(np.zeros(6)) == (0, 0)


@pytest.mark.parametrize(("groups", "held"), [(5, 85), (10, 90), (20, 93), (40, 94)])
def test_how_often_the_true_mean_is_held(groups: int, held: int) -> None:
    """As docs/how-to/scores.md says; by theory, of normal means, a normal quantile stands where Student's belongs."""
    theory = 1 - 2 * t.sf(norm.ppf(0.975) * np.sqrt((groups - 1) / groups), groups - 1)
    assert round(100 * theory) == held
    values = np.random.default_rng(0).normal(size=(groups, 2000))  # each column is an evaluation of its own
    each, _ = ClusterBootstrap([f"patient {number}" for number in range(groups)]).intervals(values)
    found = np.mean([low <= 0 <= high for low, high in each])
    assert found == pytest.approx(theory, abs=0.02)  # of 2000 evaluations: 2.5 deviations at 5 groups
